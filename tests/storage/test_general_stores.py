"""Stores that are read through what all fsspec file systems have: on its file system in memory, with ETags added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from overlay.errors import EnvironmentFault, InvalidInput, Mismatch
from overlay.storage.object_stores import ObjectStore, reading
from overlay.storage.object_stores.addresses import parse_folder
from overlay.storage.object_stores.general import General

SHARD = bytes(range(256)) * 12_000


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSES_S", [0.0] * 4)


class Tagged(MemoryFileSystem):
    def find(self, path: str, **options: Any) -> Any:
        return {name: self.tag(entry) for name, entry in super().find(path, **{**options, "detail": True}).items()}

    def info(self, path: str, **options: Any) -> Any:
        return self.tag(super().info(path, **options))

    def tag(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["type"] != "file":
            return entry
        return {**entry, "etag": hashlib.md5(self.store[entry["name"]].getvalue()).hexdigest()}


@pytest.fixture
def memory() -> Iterator[Any]:
    system = Tagged(skip_instance_cache=True)
    system.pipe({"/bucket/m/one.safetensors": SHARD, "/bucket/m/config.json": b"{}", "/bucket/m2/no": b""})
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def opened(system: Any, address: str = "az://bucket/m") -> ObjectStore:
    folder = parse_folder(address)
    return ObjectStore(folder, General(folder, system))


def test_a_folder_lists_what_is_under_it(memory: Any) -> None:
    listing = opened(memory).listing

    assert listing.address == "az://bucket/m"
    assert {name: file.size for name, file in listing.files.items()} == {
        "config.json": 2,
        "one.safetensors": len(SHARD),
    }


def test_a_folder_that_is_not_there_is_bad_input(memory: Any) -> None:
    with pytest.raises(InvalidInput, match="found nothing there"):
        opened(memory, "az://bucket/none")


@pytest.mark.parametrize("address", ["az://bucket/m", "gs://bucket/m"])
@pytest.mark.parametrize(("begin", "end"), [(0, len(SHARD)), (7, 2_500_000), (5, 5)])
def test_a_range_is_read(memory: Any, address: str, begin: int, end: int) -> None:
    pieces = list(opened(memory, address).read("one.safetensors", begin, end))

    assert b"".join(pieces) == SHARD[begin:end]
    assert max(map(len, pieces), default=0) <= 1 << 20


def test_an_object_that_changed_since_it_was_listed_is_refused(memory: Any) -> None:
    store = opened(memory)
    memory.pipe("/bucket/m/one.safetensors", SHARD[::-1])

    with pytest.raises(Mismatch, match="expected the file that was listed"):
        list(store.read("one.safetensors", 0, 10))


def test_an_object_that_changes_while_it_is_read_is_refused_before_the_end(memory: Any) -> None:
    pieces = opened(memory).read("one.safetensors", 0, len(SHARD))
    next(pieces)
    memory.pipe("/bucket/m/one.safetensors", SHARD[::-1])

    with pytest.raises(Mismatch, match="written anew while it was read"):
        list(pieces)


def test_an_object_that_is_gone_is_a_mismatch(memory: Any) -> None:
    store = opened(memory)
    memory.rm("/bucket/m/one.safetensors")

    with pytest.raises(Mismatch):
        list(store.read("one.safetensors", 0, 10))


def test_a_short_answer_is_asked_for_again_a_few_times(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(memory)
    monkeypatch.setattr(memory, "cat_file", lambda path, start, end, **options: SHARD[start : end - 1])

    with pytest.raises(EnvironmentFault, match=r"expected 10 bytes in an answer, found 9 \(5 attempts\)"):
        list(store.read("one.safetensors", 0, 10))


def test_what_a_file_system_raises_is_the_stores_refusal(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(memory)

    def refuse(path: str, **options: Any) -> bytes:
        raise PermissionError("https://host/x?sig=SECRET")

    monkeypatch.setattr(memory, "cat_file", refuse)

    with pytest.raises(EnvironmentFault, match="expected to be let in, found: PermissionError") as caught:
        list(store.read("one.safetensors", 0, 10))
    assert "SECRET" not in caught.value.line
