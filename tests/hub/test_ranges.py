"""Ranges and headers: which requests they cost, and that nothing but the wanted bytes is taken."""

from __future__ import annotations

import json
import os
import struct
from hashlib import sha256
from pathlib import Path

import pytest

from overlay.errors import EnvironmentFault, InvalidInput, Mismatch
from overlay.formats.header import parse_header
from overlay.storage.hub.opening import HubRepository, open_repository
from overlay.storage.hub.traffic import traffic
from overlay.storage.proofs import cache_folder
from overlay.storage.remote_headers import read_headers
from tests.loopback_hub import LoopbackHub, Seed

REPO = "org/name"
DATA = bytes(range(256)) * 12_000  # 3 MB


def opened(hub: LoopbackHub, files: dict[str, bytes | Path | Seed | None]) -> HubRepository:
    """The repository with these files, its listing here, and the log empty."""
    repository = open_repository(REPO, hub.seed(REPO, files))
    hub.log.clear()
    return repository


def no_progress(count: int) -> None:
    """Nobody looks."""


# Ranges


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, len(DATA)), (1, 2_500_000), (len(DATA) - 1, len(DATA))])
@pytest.mark.parametrize("name", ["model.safetensors", "small.json"])
def test_a_range_is_exactly_the_bytes(hub: LoopbackHub, name: str, begin: int, end: int) -> None:
    repository = opened(hub, {name: DATA})

    pieces = list(repository.read(name, begin, end))

    assert DATA[begin:end] == b"".join(pieces)
    assert max(map(len, pieces)) <= 1 << 20
    assert end - begin == hub.log.bytes_of(name)


def test_an_empty_range_asks_nobody(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA, "empty": b""})

    assert [] == [*repository.read("model.safetensors", 5, 5), *repository.read("empty", 0, 0)]
    assert 0 == len(hub.log)


def test_a_range_outside_of_the_file_is_a_bug_of_the_caller(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})

    for begin, end in ((0, len(DATA) + 1), (-1, 1), (2, 1)):
        with pytest.raises(ValueError, match="expected a range inside"):
            list(repository.read("model.safetensors", begin, end))
    assert 0 == len(hub.log)


def test_a_file_that_is_not_listed_is_named(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})

    with pytest.raises(InvalidInput, match="found none of this name"):
        list(repository.read("../model.safetensors", 0, 1))
    assert repository.find("../model.safetensors") is None


def test_a_second_range_of_a_file_does_not_ask_the_hub_again(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})

    for begin in (0, 1000, 2000):
        assert DATA[begin : begin + 10] == b"".join(repository.read("model.safetensors", begin, begin + 10))

    assert ["hub", "cdn", "cdn", "cdn"] == [record.origin for record in hub.log]


def test_a_signed_address_that_has_expired_is_asked_for_again(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})
    list(repository.read("model.safetensors", 0, 10))
    hub.expire_urls()
    hub.log.clear()

    assert DATA[10:20] == b"".join(repository.read("model.safetensors", 10, 20))
    assert [("cdn", 403), ("hub", 302), ("cdn", 206)] == [(record.origin, record.status) for record in hub.log]


def test_a_range_that_is_left_early_lets_the_connection_go(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})

    for _ in range(120):  # the client's pool has 100
        pieces = repository.read("model.safetensors", 0, len(DATA))
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]

    assert DATA[:9] == b"".join(repository.read("model.safetensors", 0, 9))


def test_main_moves_and_the_bytes_are_those_of_the_commit(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})
    hub.seed(REPO, {"model.safetensors": DATA[::-1]})

    assert DATA[:1000] == b"".join(repository.read("model.safetensors", 0, 1000))


def test_a_commit_that_a_force_push_dropped_is_named(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})
    hub.force_push(REPO, {"model.safetensors": DATA[::-1]})

    with pytest.raises(EnvironmentFault) as caught:
        list(repository.read("model.safetensors", 0, 10))

    assert caught.value.line.startswith(f"{repository.listing.address}/model.safetensors: expected this revision")


def test_what_is_in_the_hubs_cache_is_read_from_there(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = opened(hub, {"model.safetensors": DATA})
    path = repository.download("model.safetensors", no_progress)
    hub.log.clear()

    assert path == repository.find("model.safetensors")
    assert DATA[7:2_000_000] == b"".join(repository.read("model.safetensors", 7, 2_000_000))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert DATA[7:9] == b"".join(repository.read("model.safetensors", 7, 9))
    assert 0 == len(hub.log)


def test_a_cut_file_of_the_cache_is_not_read(hub: LoopbackHub) -> None:
    repository = opened(hub, {"model.safetensors": DATA})
    path = repository.download("model.safetensors", no_progress)
    Path(path).resolve().write_bytes(DATA[:-1])

    with pytest.raises(Mismatch, match=f"expected {len(DATA)} bytes, as it is listed, found {len(DATA) - 1}"):
        list(repository.read("model.safetensors", 0, 10))


# Headers


def shard(tensors: int, name: str = "model.layers.{}.mlp.experts.{}.down_proj.weight") -> tuple[bytes, int]:
    """A header of so many tensors, and the size of its file."""
    at, entries = 0, {}
    for number in range(tensors):
        size = 2 * 64 * 1024
        entries[name.format(number // 100, number)] = {
            "dtype": "BF16",
            "shape": [64, 1024],
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + at


def sparse(path: Path, tensors: int, name: str = "t.{}.{}") -> tuple[bytes, Seed]:
    """A shard of holes but for its header; the header, and the shard as the Hub gets it."""
    header, size = shard(tensors, name)
    with open(path, "wb") as stream:
        stream.write(header)
        stream.truncate(size)
    return header, Seed(data=path, sha256=sha256(str(path).encode()).hexdigest())


def test_the_headers_of_a_large_checkpoint_cost_two_requests_a_shard_and_their_bytes(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    made = {
        f"model-{i:05d}-of-00282.safetensors": sparse(tmp_path / str(i), 300, f"s{i}.{{}}.{{}}") for i in range(282)
    }
    repository = opened(hub, {name: seed for name, (_, seed) in made.items()})
    before = traffic()

    found = read_headers(repository, list(made), {name: len(header) + 100 for name, (header, _) in made.items()})

    spent = traffic() - before
    wanted = sum(len(header) for header, _ in made.values())
    assert {name: header for name, (header, _) in made.items()} == found
    assert 2 * 282 == len(hub.log) == spent.requests
    assert wanted <= spent.bytes <= wanted + 282 * 100
    assert sum(file.size for file in repository.listing.files.values()) > 400 * wanted

    hub.log.clear()
    assert found == read_headers(open_repository(REPO, repository.listing.commit or ""), list(made), {})
    assert 0 == len(hub.log)


def test_a_header_that_is_longer_than_guessed_costs_one_request_more(hub: LoopbackHub, tmp_path: Path) -> None:
    header, seed = sparse(tmp_path / "a", 3000)
    repository = opened(hub, {"a.safetensors": seed})

    assert {"a.safetensors": header} == read_headers(repository, ["a.safetensors"], {"a.safetensors": 1000})
    assert [None, "bytes=0-999", f"bytes=1000-{len(header) - 1}"] == [
        None if record.origin == "hub" else record.range for record in hub.log
    ]


@pytest.mark.parametrize("guess", [-5, 0, 1, 8, 1 << 40])
def test_a_guess_may_be_anything(hub: LoopbackHub, tmp_path: Path, guess: int) -> None:
    header, seed = sparse(tmp_path / "a", 2)
    repository = opened(hub, {"a.safetensors": seed})

    assert {"a.safetensors": header} == read_headers(repository, ["a.safetensors"], {"a.safetensors": guess})


BROKEN = {
    "empty": b"",
    "seven bytes": b"\1\0\0\0\0\0\0",
    "longer than the file": struct.pack("<Q", 1000) + b"{}",
    "over the limit": struct.pack("<Q", 100_000_001) + b"{" * 200,
    "2^64 - 1": b"\xff" * 8 + b"{}" * 100,
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_a_header_comes_back_as_its_first_bytes_and_is_not_kept(hub: LoopbackHub, data: bytes) -> None:
    repository = opened(hub, {"a.safetensors": data})

    assert {"a.safetensors": data[:64]} == read_headers(repository, ["a.safetensors"], {})
    assert not Path(cache_folder(), "headers").exists()


def test_a_header_that_breaks_the_format_is_given_as_it_is_and_asked_for_again(hub: LoopbackHub) -> None:
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'
    data = struct.pack("<Q", len(text)) + text + b"1234"
    repository = opened(hub, {"a.safetensors": data})

    for requests in (2, 3):  # the second time its address is known
        assert data[:-4] == read_headers(repository, ["a.safetensors"], {})["a.safetensors"]
        assert requests == len(hub.log)


def test_a_header_is_kept_by_the_digest_of_its_file_whatever_its_name(hub: LoopbackHub, tmp_path: Path) -> None:
    header, seed = sparse(tmp_path / "a", 5)
    read_headers(opened(hub, {"a.safetensors": seed}), ["a.safetensors"], {})
    repository = opened(hub, {"b.safetensors": seed})

    assert {"b.safetensors": header} == read_headers(repository, ["b.safetensors"], {})
    assert 0 == len(hub.log)


def test_a_header_of_a_file_without_a_digest_is_kept_by_its_address(hub: LoopbackHub) -> None:
    header, size = shard(1)
    data = header + bytes(size - len(header))
    files = {"a.safetensors": Seed(data=data, large=False), "b.safetensors": Seed(data=data, large=False)}
    repository = opened(hub, files)

    read_headers(repository, ["a.safetensors"], {})
    read_headers(repository, ["a.safetensors"], {})
    asked = len(hub.log)
    read_headers(repository, ["b.safetensors"], {})

    assert (2, 4) == (asked, len(hub.log))
    assert 1 == len(parse_header(header, size))


def test_a_kept_header_that_was_spoilt_is_asked_for_again(hub: LoopbackHub, tmp_path: Path) -> None:
    header, seed = sparse(tmp_path / "a", 5)
    repository = opened(hub, {"a.safetensors": seed})
    read_headers(repository, ["a.safetensors"], {})
    (kept,) = (path for path in Path(cache_folder(), "headers").rglob("*") if path.is_file())
    spoilt = bytearray(kept.read_bytes())
    spoilt[50] ^= 1
    kept.write_bytes(spoilt)

    assert {"a.safetensors": header} == read_headers(repository, ["a.safetensors"], {})


def test_where_nothing_can_be_kept_headers_come_all_the_same(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, seed = sparse(tmp_path / "a", 5)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "file"))
    repository = opened(hub, {"a.safetensors": seed})

    assert {"a.safetensors": header} == read_headers(repository, ["a.safetensors"], {})


def test_a_shard_of_the_hubs_cache_gives_its_header_without_a_request(hub: LoopbackHub) -> None:
    header, size = shard(1)
    repository = opened(hub, {"a.safetensors": header + bytes(size - len(header))})
    repository.download("a.safetensors", no_progress)
    hub.log.clear()

    assert {"a.safetensors": header} == read_headers(repository, ["a.safetensors"], {})
    assert 0 == len(hub.log)


def test_the_first_shard_that_fails_stops_the_others(hub: LoopbackHub, tmp_path: Path) -> None:
    files = {f"{number}.safetensors": sparse(tmp_path / str(number), 5)[1] for number in range(100)}
    repository = opened(hub, {**files})
    hub.delete(REPO)

    with pytest.raises(EnvironmentFault, match="no such repository"):
        read_headers(repository, list(files), {})

    assert len(hub.log) < 50


def test_what_is_kept_is_the_users_alone(hub: LoopbackHub, tmp_path: Path) -> None:
    os.umask(0)
    _, seed = sparse(tmp_path / "a", 5)
    read_headers(opened(hub, {"a.safetensors": seed}), ["a.safetensors"], {})
    os.umask(0o022)

    def modes(path: Path) -> int:
        return path.stat().st_mode & 0o777

    kept = list(Path(cache_folder()).rglob("*"))
    assert {0o600} == {modes(path) for path in kept if path.is_file()}
    assert {0o700} == {modes(path) for path in [*kept, Path(cache_folder())] if path.is_dir()}
