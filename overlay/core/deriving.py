"""Deriving: the manifest of a diff-only repository that was published without one.

Such a repository holds the new shards, a rebuilt index that also names shards of the base, and copies of sidecars.  Its
index is a claim about the base; where it contradicts the base, the overlay was made for another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from overlay.core.checkpoint import Checkpoint
from overlay.errors import Conflict, InvalidInput
from overlay.formats.manifest import Expect, FileChange, Graft, Manifest
from overlay.formats.names import INDEX_NAME

_CARRIED = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Sidecars that a diff-only repository may change without being asked; code and weights are never among them."""

_DONOR = "graft"


@dataclass(frozen=True, slots=True)
class Derived:
    """A manifest, and what of the repository it leaves out."""

    manifest: Manifest
    left_out: tuple[str, ...]


def derive(
    base: Checkpoint, graft: Checkpoint, changed: frozenset[str], *, name: str, refs: tuple[str, str]
) -> Derived:
    """The manifest that lays the diff-only repository `graft` over `base`.

    Args:
        base: the base, found sound.
        graft: the repository, read as partial and found sound.
        changed: shards of `graft` that bear the name of a base shard and hold other bytes.
        name: name of the new manifest.
        refs: references to base and graft, as they shall stand in the manifest.

    Raises:
        Conflict: the repository's index or shards contradict the base.
        InvalidInput: it holds no shard of its own.
    """
    conflicts = [*_changed_shards(changed), *_claims(base, graft)]
    if conflicts:
        raise Conflict(
            conflicts[0],
            subject=graft.label,
            hint="check that this base is the one that the graft was made for",
            others=tuple(conflicts[1:20]),
        )
    own = [shard for shard in graft.shards if shard not in base.shards]
    files = dict(_carried(base, graft, refs[1]))
    if not own and not files:
        raise InvalidInput(
            "expected a shard or sidecar that the base does not have, found none",
            subject=graft.label,
            hint=f"overlay inspect {graft.label} --shards",
        )
    manifest = Manifest(
        overlay=1,
        name=name,
        summary=f"Lays {graft.label} over {base.label}."[:200],
        base=refs[0],
        donors={_DONOR: refs[1]},
        grafts=[_graft(graft, shard) for shard in own],
        files=files,
    )
    return Derived(manifest, tuple(_left_out(base, graft, files)))


def render_manifest(manifest: Manifest) -> bytes:
    """`manifest` as YAML that `parse_manifest` reads back as an equal value."""
    value: dict[str, Any] = manifest.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    if not text.replace("\n", "").isprintable():  # marks that reorder or hide text: escaped, since people read this
        text = yaml.safe_dump(value, sort_keys=False, width=120)
    return text.encode()


def roll_up(chosen: Iterable[str], everything: Iterable[str]) -> list[str]:
    """Few patterns that describe exactly `chosen` among `everything`.

    A dotted prefix under which everything is chosen becomes ``prefix.**``; the shortest such prefix is taken.
    """
    wanted = list(chosen)
    unwanted_prefixes = {prefix for name in set(everything) - set(wanted) for prefix in _prefixes(name)}
    patterns: dict[str, None] = {}
    for name in wanted:
        free = next((prefix for prefix in _prefixes(name) if prefix not in unwanted_prefixes), None)
        patterns[f"{free}.**" if free is not None else name] = None
    return list(patterns)


def _graft(graft: Checkpoint, shard: str) -> Graft:
    header = graft.shards[shard].header
    counts = {dtype: header.dtypes.count(dtype) for dtype in sorted(set(header.dtypes))}
    expect = Expect(tensors=len(header), bytes=header.data_bytes, dtypes=counts)
    return Graft.model_validate({"shard": shard, "from": _DONOR, "expect": expect})


def _changed_shards(changed: frozenset[str]) -> Iterator[str]:
    for shard in sorted(changed):
        yield f"{shard}: expected a name that the base does not have, found other bytes under the name of a base shard"


def _claims(base: Checkpoint, graft: Checkpoint) -> Iterator[str]:
    """What the graft's index says of the base and is not so."""
    if graft.index is None:
        return
    claimed = graft.index.weight_map
    foreign = set(claimed.values()) - graft.shards.keys()
    for shard in sorted(foreign - base.shards.keys()):
        yield f"{INDEX_NAME}: expected shards of the graft or of the base, found {shard}, which neither has"
    if not foreign & base.shards.keys():
        return  # an index over its own shards only claims nothing of the base
    for tensor, shard in base.weight_map.items():
        owner = claimed.get(tensor)
        if owner is None:
            yield f"{INDEX_NAME}: {tensor}: expected shard {shard} of the base, found none (a drop must be declared)"
        elif owner != shard:
            yield f"{INDEX_NAME}: {tensor}: expected one owner, found shard {shard} of the base and the graft's {owner}"


def _carried(base: Checkpoint, graft: Checkpoint, reference: str) -> Iterator[tuple[str, FileChange]]:
    """The sidecars that the repository has and the base has not, or has otherwise."""
    for name, sidecar in graft.sidecars.items():
        same = name in base.sidecars and base.sidecars[name].sha256 == sidecar.sha256
        if name.endswith(_CARRIED) and not name.endswith(".lock.json") and not same:
            yield name, FileChange.model_validate({"from": f"{reference.rstrip('/')}/{name}"})


def _left_out(base: Checkpoint, graft: Checkpoint, files: dict[str, FileChange]) -> Iterator[str]:
    for name, sidecar in graft.sidecars.items():
        same = name in base.sidecars and base.sidecars[name].sha256 == sidecar.sha256
        if name not in files and not same:
            yield name
    yield from graft.strays


def _prefixes(name: str) -> Iterator[str]:
    """The dotted prefixes of a name, shortest first, the name itself excluded."""
    at = name.find(".")
    while at >= 0:
        yield name[:at]
        at = name.find(".", at + 1)
