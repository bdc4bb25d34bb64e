"""Ranges that begin where others do: empty tensors, and tensors that share their bytes."""

from __future__ import annotations

import pytest

from overlay.core.checkpoint import TensorSource
from overlay.storage.shard_file import Donors
from overlay.storage.stores import open_remote, seen_elsewhere
from overlay.storage.streams import Streams, coalesce, stream
from tests.loopback_hub.hub import LoopbackHub

SIZE = 3_000_000
CONTENT = bytes(n % 251 for n in range(SIZE))


@pytest.fixture
def tensors(hub: LoopbackHub) -> dict[str, TensorSource]:
    """Tensors of one file on `hub`: letter to range."""
    commit = hub.seed("org/name", {"model.safetensors": CONTENT})
    address = f"hf://org/name@{commit}"
    file = seen_elsewhere(address, open_remote(address).listing.files["model.safetensors"])
    ranges = {"all": (0, SIZE), "same": (0, SIZE), "middle": (5, 2_500_000), "empty": (0, 0), "end": (SIZE - 9, SIZE)}
    return {name: TensorSource(name, "U8", (end - at,), file, at, end) for name, (at, end) in ranges.items()}


def test_tensors_that_share_their_bytes_each_get_all_of_them(tensors: dict[str, TensorSource]) -> None:
    (run,) = coalesce(tensors.values())

    found = dict.fromkeys(tensors, b"")
    for source, piece in stream(run):
        found[source.name] += bytes(piece)

    assert {name: CONTENT[source.begin : source.end] for name, source in tensors.items()} == found


@pytest.mark.parametrize("order", [("empty", "end", "all"), ("all", "empty", "end"), ("all", "end", "same", "empty")])
def test_an_empty_tensor_hides_none_that_begins_where_it_does(
    tensors: dict[str, TensorSource], order: tuple[str, ...]
) -> None:
    sources = [tensors[name] for name in order]
    streams = Streams(sources)

    found = [b"".join(map(bytes, streams.blocks(source))) for source in sources]

    assert [CONTENT[source.begin : source.end] for source in sources] == found


def test_what_was_fetched_of_an_empty_tensor_stands_for_it_alone(tensors: dict[str, TensorSource]) -> None:
    empty, whole = tensors["empty"], tensors["all"]
    fetched = {
        source.extent: source._replace(begin=source.begin + 100, end=source.end + 100) for source in (whole, empty)
    }

    with Donors(fetched) as donors:
        found = [donors.here(source) for source in (empty, whole, tensors["end"])]

    assert [(100, 100), (100, SIZE + 100), (SIZE - 9, SIZE)] == [(source.begin, source.end) for source in found]
