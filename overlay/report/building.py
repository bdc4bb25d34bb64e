"""What a build made, as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
            yield Table([_lost(name, report) for name, report in shard.accuracy.items()])
    yield f"{built.path}: {built.tensors} tensors, {built.data_bytes} bytes"
    if built.lock.base is not None:
        yield f"next: overlay apply {built.path} -o DIR"
    else:
        yield f"next: overlay verify {built.path}"


def _lost(name: str, report: Mapping[str, Any]) -> tuple[str, ...]:
    """A class of tensors and what it lost; a figure that is no number is called none."""
    figures = (("relative RMS", "relative_rms", ".4f"), ("relative maximum", "relative_max", ".4f"))
    counts = (("saturated", "saturated_elements"), ("vanished groups", "vanished_groups"))
    return (
        name,
        f"{report['tensors']} tensors",
        *(f"{word} {'none' if report[key] is None else format(report[key], form)}" for word, key, form in figures),
        *(f"{report[key]} {word}" for word, key in counts),
    )


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
