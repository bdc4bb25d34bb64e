"""Reading out of the chunk store: when it is asked, and what happens when it fails."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.errors import EnvironmentFault, Mismatch
from overlay.storage.hub import xet
from overlay.storage.hub.downloading import _proofs
from overlay.storage.hub.environment import hub_headers, without_token
from overlay.storage.hub.faults import Place
from overlay.storage.hub.opening import HubRepository, open_repository
from overlay.storage.hub.patience import Patience, Transient
from overlay.storage.hub.traffic import traffic
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub import faults as wrong
from tests.loopback_hub.faults import Where, bytes_of, edited, when

REPO = "org/name"
SHARD = "model.safetensors"
DATA = random.Random(1).randbytes(9_000_000)
PASS = Where(path="*/xet-read-token/*")
LARGE = xet.WORTH_IT + 1


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    _proofs.cache_clear()
    limits = Patience(tries=3, first_wait=0.01, longest_wait=0.02, window=0.5, silence=0.5)
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", limits)


@pytest.fixture
def repository(xet_hub: LoopbackHub) -> HubRepository:
    """A repository of one shard in the chunk store, listed."""
    opened = open_repository(REPO, xet_hub.seed(REPO, {SHARD: DATA}))
    xet_hub.log.clear()
    return opened


def read(repository: HubRepository, begin: int, end: int) -> bytes:
    return b"".join(repository.read(SHARD, begin, end))


def lose_chunks(xet_hub: LoopbackHub) -> None:
    """The store has no block of chunks any more."""
    assert xet_hub.state.chunks is not None
    blocks = list((xet_hub.state.chunks.folder / "xet" / "xorbs" / "xorbs").glob("default.*"))
    assert blocks
    for path in blocks:
        path.unlink()


@pytest.mark.parametrize(("begin", "end"), [(0, len(DATA)), (1, 1 + LARGE), (len(DATA) - LARGE, len(DATA))])
def test_a_large_range_comes_in_chunks(xet_hub: LoopbackHub, repository: HubRepository, begin: int, end: int) -> None:
    before = traffic()

    pieces = list(repository.read(SHARD, begin, end))

    assert DATA[begin:end] == b"".join(pieces)
    assert max(map(len, pieces)) <= 1 << 20
    assert [xet_hub.log.about(path="*/xet-read-token/*")[0]] == list(xet_hub.log)
    assert 1 == (traffic() - before).requests
    assert (traffic() - before).bytes >= end - begin


def test_a_small_range_comes_over_http(xet_hub: LoopbackHub, repository: HubRepository) -> None:
    assert DATA[5:1000] == read(repository, 5, 1000)
    assert 995 == xet_hub.log.bytes_of(SHARD)


def test_the_user_may_forbid_the_chunk_store(
    xet_hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")

    assert DATA == read(repository, 0, len(DATA))
    assert len(DATA) == xet_hub.log.bytes_of(SHARD)
    assert [] == xet_hub.log.about(path="*/xet-read-token/*")


def test_leave_to_use_the_store_is_asked_for_once(xet_hub: LoopbackHub, repository: HubRepository) -> None:
    for begin in range(3):
        assert DATA[begin : begin + LARGE] == read(repository, begin, begin + LARGE)

    assert 1 == len(xet_hub.log)


def test_leave_that_has_run_out_is_asked_for_again(xet_hub: LoopbackHub, repository: HubRepository) -> None:
    with xet_hub.failing(when(PASS, edited(lambda document: {**document, "exp": int(time.time()) + 5}))):
        read(repository, 0, LARGE)
    read(repository, 0, LARGE)

    assert 2 == len(xet_hub.log)


def test_a_broken_store_is_left_for_http(xet_hub: LoopbackHub, repository: HubRepository) -> None:
    lose_chunks(xet_hub)

    assert DATA == read(repository, 0, len(DATA))
    assert DATA[3:] == read(repository, 3, len(DATA))  # the store is not asked again
    assert 1 == len(xet_hub.log.about(path="*/xet-read-token/*"))
    assert xet_hub.log.bytes_of(SHARD) > len(DATA)


def test_where_the_store_and_http_are_broken_it_ends(xet_hub: LoopbackHub, repository: HubRepository) -> None:
    lose_chunks(xet_hub)

    with xet_hub.failing(when(bytes_of(SHARD), wrong.server_error())), pytest.raises(EnvironmentFault, match="503"):
        read(repository, 0, len(DATA))


def test_a_busy_hub_is_asked_again_for_leave(xet_hub: LoopbackHub, repository: HubRepository) -> None:
    with xet_hub.failing(when(PASS, wrong.server_error(), times=2)):
        assert DATA == read(repository, 0, len(DATA))

    assert 0 == xet_hub.log.bytes_of(SHARD)


def test_a_gated_repository_gives_no_leave(xet_hub: LoopbackHub, repository: HubRepository) -> None:
    xet_hub.gate(REPO)

    with pytest.raises(EnvironmentFault, match="gated") as caught:
        read(repository, 0, len(DATA))

    assert "accept the licence" in caught.value.hint


@pytest.mark.parametrize("document", [{}, [], {"casUrl": 1, "exp": 2, "accessToken": "t"}, None])
def test_leave_that_is_none_is_said_to_be(xet_hub: LoopbackHub, repository: HubRepository, document: object) -> None:
    with (
        xet_hub.failing(when(PASS, edited(lambda said: document))),
        pytest.raises(EnvironmentFault, match="the address of the chunk store") as caught,
    ):
        read(repository, 0, len(DATA))

    assert "HF_HUB_DISABLE_XET=1 reads without it" == caught.value.hint


def test_a_range_that_is_left_early_lets_the_stream_go(repository: HubRepository) -> None:
    for _ in range(5):
        pieces = repository.read(SHARD, 0, len(DATA))
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]

    deadline = time.monotonic() + 10
    while any(thread.name == "xet-stream" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_store_does_not_get_the_hubs_token(xet_hub: LoopbackHub) -> None:
    assert xet_hub.token in str(hub_headers())
    assert xet_hub.token not in str(without_token(hub_headers()))


class Stream:
    """A stream that gives its pieces, and then stands still."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.cancelled = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        self.cancelled.wait(30)

    def cancel(self) -> None:
        self.cancelled.set()


def test_a_stream_that_stands_still_is_left() -> None:
    stream = Stream(b"abc")
    begin = time.monotonic()

    with pytest.raises(Transient, match="only 3 bytes in"):
        list(xet._pump(stream, stream.cancel, Place(REPO), Patience(window=0.3)))

    assert time.monotonic() - begin < 5
    assert stream.cancelled.is_set()


def test_a_stream_that_fails_says_why_in_one_line() -> None:
    stream = Stream(b"abc", RuntimeError("Previous task error:\n token hf_secretSecret"))

    with pytest.raises(Transient) as caught:
        list(xet._pump(stream, stream.cancel, Place(REPO), Patience()))

    assert "found: Previous task error: token [token]" in caught.value.fault.line


# Whole files


def hops(path: str) -> list[str]:
    """The links behind a path, to the file."""
    found = [path]
    while os.path.islink(found[-1]):
        found.append(os.path.normpath(os.path.join(os.path.dirname(found[-1]), os.readlink(found[-1]))))
    return found


def test_a_whole_file_comes_in_chunks_and_is_told_and_counted(
    xet_hub: LoopbackHub, repository: HubRepository, capfd: pytest.CaptureFixture[str]
) -> None:
    done: list[int] = []
    before = traffic()

    path = repository.download(SHARD, done.append)

    assert DATA == Path(path).read_bytes()
    assert (len(DATA), 0) == (sum(done), xet_hub.log.bytes_of(SHARD))
    assert (traffic() - before).bytes >= len(DATA)
    assert ("", "") == capfd.readouterr()
    assert DATA[1:9] == read(repository, 1, 9)


def test_a_wrong_file_is_taken_away_with_every_link(
    xet_hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def look(*arguments: object) -> str:
        made.extend(hops(repository.find(SHARD) or ""))
        return "0" * 64

    monkeypatch.setattr("overlay.storage.hub.downloading._sha256_of", look)

    with pytest.raises(Mismatch, match="expected sha256"):
        repository.download(SHARD, lambda count: None)

    assert len(made) in (2, 3)
    assert [] == [path for path in made if os.path.lexists(path)]


def test_a_second_repository_with_the_same_chunks_fetches_nothing(
    xet_hub: LoopbackHub, repository: HubRepository
) -> None:
    first = repository.download(SHARD, lambda count: None)
    other = open_repository("org/other", xet_hub.seed("org/other", {SHARD: DATA}))
    before = traffic()

    second = other.download(SHARD, lambda count: None)

    assert DATA == Path(second).read_bytes()
    if len(hops(first)) == 3:  # the client shares blobs (huggingface_hub 1.33 and later)
        assert (traffic() - before).bytes < 10_000
