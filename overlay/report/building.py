"""What a build made, as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from overlay.report.blocks import Block, Heading, Table
from overlay.report.text import in_bytes

if TYPE_CHECKING:
    from overlay.running.building import Built


def built_lines(built: Built) -> Iterator[Block]:
    """The shards, and what their lossy steps lost."""
    for shard in built.shards:
        note = ", taken over from a build that was interrupted" if shard.taken_over else ""
        size = in_bytes(shard.digests.size)
        yield f"{shard.name}: {len(shard.tensors)} tensors, {size}, sha256 {shard.digests.sha256}{note}"
        if shard.accuracy:
            yield Heading("what the conversion lost")
            yield Table(
                [
                    (
                        name,
                        f"{report['tensors']} tensors",
                        f"relative RMS {report['relative_rms']:.5f}",
                        f"largest error {report['max_error']:.5g}",
                        f"{report['saturated']} saturated",
                    )
                    for name, report in shard.accuracy.items()
                ]
            )
    yield f"{built.path}: {built.tensors} tensors, {built.data_bytes} bytes"
    if built.lock.base is not None:
        yield f"next: overlay apply {built.path} -o DIR"
    else:
        yield f"next: overlay verify {built.path}"


def built_document(built: Built) -> dict[str, Any]:
    """The build as it stands in JSON documents."""
    return {
        "target": built.path,
        "tensors": built.tensors,
        "bytes": built.data_bytes,
        "shards": [
            {
                "name": shard.name,
                "tensors": len(shard.tensors),
                "file_bytes": shard.digests.size,
                "sha256": shard.digests.sha256,
                "taken_over": shard.taken_over,
                "accuracy": dict(shard.accuracy),
            }
            for shard in built.shards
        ],
        "lock": built.lock.model_dump(mode="json"),
    }
