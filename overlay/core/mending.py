"""Mending: the index that the headers call for, as close to the text that is there as can be.

What lies in the listed shards is the truth, and the weight map is made to say it.  Three things an index cannot mend: a
shard that is missing or broken, a tensor in two listed shards, and a shard that lies in another folder.  They are
refused by name.  Nothing is listed or left out silently: strays join only when they are adopted, and a listed shard
leaves only when it is unlisted and each of its tensors lies in another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from overlay.core.checkpoint import Checkpoint, Shard
from overlay.core.counting import parameter_range
from overlay.core.findings import Finding, about, errors
from overlay.core.gaps import completing, missing_numbers
from overlay.errors import Conflict, InvalidInput
from overlay.formats import strict_json
from overlay.formats.index import Index, IndexEdit, new_index, rewrite
from overlay.formats.names import INDEX_NAME, SHARD_SUFFIX, explain_shard_name

MAX_NAMED: Final = 20
"""Obstacles that are spelled out; the rest is counted."""

_MENDABLE: Final = frozenset({"IDX001", "IDX002", "IDX004", "IDX005", "IDX006", "IDX008", "IDX009", "IDX013", "IDX014"})
_OBSTACLES: Final = ("IDX003", "IDX007", "SHD001", "SHD002", "LNK", "LCK")
"""Beginnings of the codes that stand in an index's way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A correct index, and how it differs from the one that is there."""

    index: bytes
    anew: bool
    """Whether it was written from nothing, since there was no index whose text could be kept."""
    mapped: int
    """Tensors that were not mapped and are now."""
    removed: int
    """Tensors that were mapped and lie in no listed shard."""
    moved: int
    """Tensors that were mapped to another shard."""
    metadata: Mapping[str, tuple[Any, int]]
    """Each entry of the metadata that changed: what it said (None: nothing), and what it says."""
    tensors: int
    shards: int

    def document(self) -> dict[str, Any]:
        """What changed, as it stands in JSON documents."""
        return {
            "anew": self.anew,
            "mapped": self.mapped,
            "removed": self.removed,
            "moved": self.moved,
            "metadata": {key: {"from": old, "to": new} for key, (old, new) in self.metadata.items()},
            "tensors": self.tensors,
            "shards": self.shards,
        }


def is_mendable(findings: Iterable[Finding]) -> bool:
    """Whether a new index would put something right, and none of these findings stands in its way.

    `find_obstacles` and `find_forgotten` say whether anything else does.
    """
    codes = {finding.code for finding in findings}
    return bool(codes & _MENDABLE) and not any(code.startswith(_OBSTACLES) for code in codes)


def salvage_index(raw: bytes) -> Index | None:
    """The index in `raw` as far as its text can be kept, although what it says is wrong; None where it cannot.

    It must be strict JSON with a weight map of texts.  Shard names and sizes may be anything.
    """
    try:
        document = strict_json.decode(raw)
    except strict_json.JsonProblem:
        return None
    if not isinstance(document, dict):
        return None
    weight_map, metadata = document.get("weight_map"), document.get("metadata")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        return None
    return Index(raw, metadata, weight_map) if metadata is None or isinstance(metadata, dict) else None


def listed_shards(index: Index) -> list[str]:
    """The shards that `index` names, as they are called in its directory; names that mean no file there are left out."""
    names = dict.fromkeys(name.removeprefix("./") for name in index.shards())
    return [name for name in names if not explain_shard_name(name)]


def mend(checkpoint: Checkpoint, unlisted: AbstractSet[str] = frozenset()) -> Mended:
    """The index that `checkpoint` should have.

    Args:
        checkpoint: its shards are those that shall be listed, and those in `unlisted`; its index may be a salvaged one.
        unlisted: listed shards to leave out.

    Costs one look-up a tensor and one copy of the index text.

    Raises:
        InvalidInput: something that an index cannot mend; everything is named.
        Conflict: a shard is unlisted that holds a tensor that no other shard has.
    """
    _require_none(checkpoint, unlisted, find_obstacles(checkpoint, unlisted))
    shards = {name: shard for name, shard in checkpoint.shards.items() if name not in unlisted}
    homes = _homes(shards)
    _require_elsewhere(checkpoint, unlisted, homes)
    index = checkpoint.index
    metadata = _metadata(index, shards.values())
    known = index.weight_map if index is not None else {}
    old = (index.metadata or {}) if index is not None else {}
    placed = sorted(homes.items(), key=lambda item: (item[1], item[0]))
    edit = IndexEdit(
        add={name: shard for name, shard in placed if name not in known},
        remap={name: shard for name, shard in homes.items() if known.get(name, shard) != shard},
        remove=known.keys() - homes.keys(),
        metadata=metadata,
    )
    return Mended(
        index=rewrite(index, edit) if index is not None else new_index(homes, metadata),
        anew=index is None,
        mapped=len(edit.add),
        removed=len(edit.remove),
        moved=len(edit.remap),
        metadata={key: (old.get(key), value) for key, value in metadata.items() if old.get(key) != value},
        tensors=len(homes),
        shards=len(shards),
    )


def find_obstacles(checkpoint: Checkpoint, unlisted: AbstractSet[str] = frozenset()) -> list[Finding]:
    """What no index over the shards of `checkpoint` can mend; costs a look-up a tensor.

    Args:
        checkpoint: as for `mend`.
        unlisted: as for `mend`.
    """
    shards = {name: shard for name, shard in checkpoint.shards.items() if name not in unlisted}
    homes = _homes(shards)
    found = [*_unreadable(checkpoint, unlisted), *_duplicates(shards, homes)]
    if checkpoint.index is not None:
        found += [f for f in checkpoint.findings if f.code == "IDX002" and f.tensor not in homes]
    if not homes and not found:
        found.append(about("IDX012", INDEX_NAME, "expected a shard to list, found none"))
    return found


def find_forgotten(checkpoint: Checkpoint, strays: Mapping[str, Shard]) -> list[Finding]:
    """Strays that belong to `checkpoint` by what its old index says: a new one without them would hide that loss.

    Args:
        checkpoint: its shards are those that shall be listed; its index may be a salvaged one.
        strays: those of its strays that can be read.
    """
    held = {name for shard in checkpoint.shards.values() for name in shard.header.names}
    # A stray that shares a tensor cannot be adopted; it is a copy, and no loss.
    new = {name: shard.header for name, shard in strays.items() if held.isdisjoint(shard.header.names)}
    stated = ((checkpoint.index.metadata or {}) if checkpoint.index is not None else {}).get("total_size")
    rest = stated - checkpoint.data_bytes if type(stated) is int else 0
    counted = [name for name, header in new.items() if header.data_bytes == rest > 0]
    if not counted and sum(header.data_bytes for header in new.values()) == rest > 0:
        counted = list(new)
    numbered = completing(checkpoint.shards, new)
    return [
        *(about("IDX010", name, f"the old total_size of {stated} counts it (stray)") for name in counted),
        *(
            about("IDX010", name, "the listed shards lack its number (stray)")
            for name in numbered
            if name not in counted
        ),
    ]


def require_none_forgotten(label: str, forgotten: list[Finding]) -> None:
    """Refuse an index that leaves out what belongs to the checkpoint.

    Raises:
        InvalidInput: naming every such stray.
    """
    if not forgotten:
        return
    first, *others = (finding.line for finding in forgotten[:MAX_NAMED])
    names = list(dict.fromkeys(finding.file for finding in forgotten[:MAX_NAMED]))
    raise InvalidInput(
        f"expected an index over all that belongs together, found {first}",
        subject=label,
        hint=f"{' '.join(f'--adopt {name}' for name in names)} to list it, or move it away to do without",
        others=tuple(others),
    )


def _metadata(index: Index | None, shards: Iterable[Shard]) -> dict[str, int]:
    """The metadata that must be there; ``total_parameters`` only where it was stated and cannot be right."""
    headers = [shard.header for shard in shards]
    metadata = {"total_size": sum(header.data_bytes for header in headers)}
    if index is not None and "total_parameters" in (index.metadata or {}):
        possible, stated = parameter_range(headers), (index.metadata or {})["total_parameters"]
        if not isinstance(stated, (int, float)) or not possible.least <= stated <= possible.most:
            metadata["total_parameters"] = possible.elements
    return metadata


def _unreadable(checkpoint: Checkpoint, unlisted: AbstractSet[str]) -> Iterator[Finding]:
    """Listed shards that could not be read, or are not there."""
    listed = None if checkpoint.index is None else {*listed_shards(checkpoint.index), *checkpoint.shards}
    named = set()
    for finding in errors(checkpoint.findings):
        ours = finding.file.endswith(SHARD_SUFFIX) and (listed is None or finding.file in listed)
        if ours and finding.file not in unlisted:
            named.add(finding.file)
            yield finding
    expected = listed if listed is not None else set(missing_numbers(checkpoint.shards))
    for name in sorted(expected - checkpoint.shards.keys() - named - unlisted):
        yield about("IDX003", name, "expected this shard, found nothing of that name")


def _duplicates(shards: Mapping[str, Shard], homes: Mapping[str, str]) -> Iterator[Finding]:
    for shard, seen in shards.items():
        for name in seen.header.names:
            if homes[name] != shard:
                message = f"it lies in {shard} and in {homes[name]}, and both are listed (duplicate)"
                yield about("IDX007", shard, message, tensor=name)


def _homes(shards: Mapping[str, Shard]) -> dict[str, str]:
    """Tensor to the shard that it lies in; of two shards the last."""
    return {name: shard for shard, seen in shards.items() for name in seen.header.names}


def _require_none(checkpoint: Checkpoint, unlisted: AbstractSet[str], obstacles: list[Finding]) -> None:
    if not obstacles:
        return
    lines = [finding.line for finding in sorted(obstacles)]
    rest = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    raise InvalidInput(
        f"expected what an index can mend, found {lines[0]}",
        subject=checkpoint.label,
        hint=_way_out(checkpoint, unlisted, obstacles),
        others=(*lines[1:MAX_NAMED], *rest),
    )


def _way_out(checkpoint: Checkpoint, unlisted: AbstractSet[str], obstacles: list[Finding]) -> str:
    """What to do about the first kind of obstacle."""
    codes = {finding.code for finding in obstacles}
    spare = _redundant(checkpoint, unlisted)
    if codes == {"IDX007"} and spare:
        return f"every tensor of {spare} lies in another listed shard: --unlist {spare} leaves it out of the index"
    return min(obstacles).hint


def _redundant(checkpoint: Checkpoint, unlisted: AbstractSet[str]) -> str:
    """A listed shard all of whose tensors lie in others, the one that the index maps least to; "" where there is none."""
    shards = {name: shard for name, shard in checkpoint.shards.items() if name not in unlisted}
    held = Counter(name for shard in shards.values() for name in shard.header.names)
    mapped = Counter(checkpoint.weight_map.values())
    spare = [name for name, shard in shards.items() if all(held[tensor] > 1 for tensor in shard.header.names)]
    return min(spare, key=lambda name: (mapped[name], name), default="")


def _require_elsewhere(checkpoint: Checkpoint, unlisted: AbstractSet[str], homes: Mapping[str, str]) -> None:
    """Every tensor of an unlisted shard must lie in a listed one, so that no tensor leaves the checkpoint."""
    problems = []
    for shard in sorted(unlisted):
        mapped = (name for name, home in checkpoint.weight_map.items() if home == shard)
        held = checkpoint.shards[shard].header.names if shard in checkpoint.shards else mapped
        lost = [name for name in held if name not in homes]
        if lost:
            problems.append(f"{shard}: expected its tensors in other listed shards, found {lost[0]} in none")
            problems += [f"{shard}: {name}: in no other listed shard" for name in lost[1:MAX_NAMED]]
    if problems:
        hint = "leave out only what is there twice; overlay apply with drop: takes tensors out"
        raise Conflict(problems[0], subject=checkpoint.label, hint=hint, others=tuple(problems[1:]))
