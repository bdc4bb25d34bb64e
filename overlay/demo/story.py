"""The demonstration: the founding case, scaled down, through the same verbs that everybody uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from overlay import api
from overlay.demo.layout import SCALED_DOWN, base_layout, donor_layout, mtp_tensors
from overlay.demo.replica import write_dense
from overlay.errors import UsageError
from overlay.formats.names import next_shard_name
from overlay.report.blocks import Block, Heading, Table
from overlay.report.text import applied_lines, lock_lines, plan_lines, verdict_lines
from overlay.running.preparing import Request

SEED = 52

Say = Callable[[Block], None]

_MANIFEST = """\
overlay: 1
name: glm-5.2-nvfp4-mtp
summary: Adds layer 78 (MTP/NEXTN) in BF16 to Mapika/GLM-5.2-NVFP4 (scaled-down replica).
license: mit
base: base
donors:
  bf16: donor
grafts:
  - shard: {shard}
    from: bf16
    tensors: ["{prefix}**"]
    expect: {{tensors: {tensors}, bytes: {size}, dtypes: {{BF16: {bf16}, F32: {f32}}}}}
"""


def run(folder: str, say: Say) -> bool:
    """Write replicas into `folder`, graft, verify, damage, find the damage, repair; true when all of that happened.

    Raises:
        UsageError: `folder` exists and is not empty.
        OverlayError: a verb failed.
    """
    root = Path(folder)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError("expected a new or empty folder", subject=folder, hint="name a folder that does not exist yet")
    root.mkdir(parents=True, exist_ok=True)
    manifest, target = write_inputs(root, say), str(root / "serve")
    _command(say, f"overlay lock {manifest}")
    locked = api.lock(manifest)
    _tell(say, lock_lines(locked.lock, locked.path, locked.written))
    request = Request(sources=(manifest,))
    _command(say, f"overlay plan {manifest} -o {target}")
    status = os.statvfs(folder)
    _tell(say, _without_middle(plan_lines(api.plan(request, target), status.f_bavail * status.f_frsize)))
    _command(say, f"overlay apply {manifest} -o {target}")
    _tell(say, applied_lines(api.apply(request, target), target, manifest))
    good = _verify(target, say)
    shard = next_shard_name(f"model-{n:05d}-of-00045.safetensors" for n in (1, 45))
    _damage(root / "serve" / shard, say)
    found = not _verify(target, say)
    _command(say, f"overlay apply {manifest} -o {target}      # puts it right")
    _tell(say, applied_lines(api.apply(request, target), target, manifest))
    repaired = _verify(target, say)
    return good and found and repaired


def write_inputs(root: Path, say: Say) -> str:
    """The replicas of base and donor and the manifest that joins them; gives back the manifest's path."""
    base = write_dense(base_layout(SCALED_DOWN), root / "base", SEED)
    donor = write_dense(donor_layout(SCALED_DOWN), root / "donor", SEED)
    say(f"base:  {base.shards} shards, {base.tensors} tensors, {base.file_bytes} bytes, layers 0-77 in NVFP4")
    say(f"donor: {donor.shards} shards, {donor.tensors} tensors, {donor.file_bytes} bytes, layers 0-78 in BF16")
    tensors = list(mtp_tensors(SCALED_DOWN))
    text = _MANIFEST.format(
        shard=f"model-{base.shards + 1:05d}-of-{base.shards + 1:05d}.safetensors",
        prefix=SCALED_DOWN.mtp_prefix,
        tensors=len(tensors),
        size=sum(tensor.nbytes for tensor in tensors),
        bf16=sum(tensor.dtype == "BF16" for tensor in tensors),
        f32=sum(tensor.dtype == "F32" for tensor in tensors),
    )
    path = root / "glm-5.2-nvfp4-mtp.yaml"
    path.write_text(text)
    return str(path)


def _verify(target: str, say: Say) -> bool:
    _command(say, f"overlay verify {target} --level content")
    verdict = api.verify(target, level="content")
    _tell(say, verdict_lines(verdict))
    return verdict.ok


def _damage(shard: Path, say: Say) -> None:
    """Flip the lowest bit of the last byte."""
    with shard.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))
    say("")
    say(f"# one bit of {shard.name} is flipped")


def _command(say: Say, line: str) -> None:
    say("")
    say(Heading(f"$ {line}"))


def _tell(say: Say, blocks: Iterable[Block]) -> None:
    for block in blocks:
        say(block)


def _without_middle(blocks: Iterable[Block]) -> Iterator[Block]:
    """A plan whose table, if long, lacks its middle: 45 links look alike."""
    for block in blocks:
        if isinstance(block, Table) and len(block.rows) > 20:
            left_out = ("…", f"{len(block.rows) - 16} more", "", "")
            block = replace(block, rows=[*block.rows[:3], left_out, *block.rows[-13:]])
        yield block
