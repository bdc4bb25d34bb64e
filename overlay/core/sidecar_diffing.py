"""How two versions of a sidecar differ, by what the file means: values of JSON, tokens, lines of a template, licences.

JSON is compared by value, so that a file that was only set out anew is called that.  What cannot be read as what its name
says (broken JSON, bytes that are no text) is compared as text or as bytes, and the summary says so: nothing here fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from overlay.core.details import (
    MAX_DETAILS,
    MAX_WHERE,
    Absent,
    Detail,
    Part,
    counted,
    cut,
    cut_pair,
    shown_pair,
)
from overlay.core.sidecar_roles import Role, role_of
from overlay.core.text_diffing import diff_data, diff_texts
from overlay.core.tokenizer_diffing import VOCABULARIES, diff_tokenizer, diff_vocabulary
from overlay.core.value_diffing import Tokens, ValueChange, differences, read_json
from overlay.formats.front_matter import CARD_KEYS, read_front_matter
from overlay.formats.json_pointer import JsonPointer
from overlay.formats.strict_json import JsonProblem, JsonValue

__all__ = ["Detail", "Role", "SidecarChange", "added_file", "diff_sidecar", "removed_file", "role_of"]

SAME_VALUES: Final = "same values, other text"
TEMPLATE_KEY: Final = "chat_template"
_CALLED_OUT: Final = ("auto_map", TEMPLATE_KEY, "quantization_config")
"""Keys whose changes come first; a long list of changes may be cut."""
_MAX_PLACES: Final = 5
"""Pointers that a summary names."""
_WHAT: Final = {Role.TEMPLATE: "template", Role.LICENCE: "licence text"}


@dataclass(frozen=True, slots=True)
class SidecarChange:
    """How a sidecar changed."""

    name: str
    kind: Literal["added", "removed", "changed"]
    role: Role
    summary: str
    """One line."""
    details: tuple[Detail, ...] = ()
    """At most 50 differences."""
    omitted: int = 0
    """Differences that are not in `details`."""
    same_values: bool = False
    """A JSON file that holds the values it held before, set out in another way."""

    def document(self) -> dict[str, Any]:
        """The change as it stands in JSON documents."""
        return {
            **asdict(self),
            "role": self.role.value,
            "details": [detail.document() for detail in self.details],
        }


def diff_sidecar(name: str, old: bytes | None, new: bytes | None) -> SidecarChange | None:
    """How the sidecar `name` changed from `old` to `new`; None when both are the same bytes, or both absent.

    Args:
        name: its name in the checkpoint, with ``/`` between folders; decides how the bytes are read.
        old: what it held; None: it was not there.
        new: what it holds now; None: it is not there.

    Costs about a second for 20 MB of ``tokenizer.json`` on either side, and memory of a few times the bytes.
    """
    if old == new:
        return None
    if old is None or new is None:
        return removed_file(name, len(old or b"")) if new is None else added_file(name, len(new))
    role = role_of(name)
    parts = _parts(name, role, old, new)
    details = [detail for part in parts for detail in part.details][:MAX_DETAILS]
    omitted = sum(part.total for part in parts) - len(details)
    # Keys and values of strangers may hold line feeds; a summary is one line.
    summary = " ".join("; ".join(part.summary for part in parts).split())
    return SidecarChange(name, "changed", role, summary or SAME_VALUES, tuple(details), omitted, same_values=not parts)


def added_file(name: str, size: int) -> SidecarChange:
    """A file of `size` bytes that came, of which nothing was read."""
    return SidecarChange(name, "added", role_of(name), counted(size, "byte"))


def removed_file(name: str, size: int) -> SidecarChange:
    """A file of `size` bytes that went, of which nothing was read."""
    return SidecarChange(name, "removed", role_of(name), counted(size, "byte"))


def _parts(name: str, role: Role, old: bytes, new: bytes) -> list[Part]:
    """The aspects in which two versions differ; none when they are JSON of equal values."""
    base = name.rpartition("/")[2].lower()
    if base.endswith(".json"):
        return _diff_json(base, old, new)
    if role is Role.CARD:
        return _diff_cards(old, new)
    return [diff_data(old, new, _WHAT.get(role, "text"))]


# --- JSON


def _diff_json(base: str, old: bytes, new: bytes) -> list[Part]:
    values: list[JsonValue] = []
    problems: dict[str, str] = {}
    for which, data in (("old", old), ("new", new)):
        try:
            values.append(read_json(data))
        except JsonProblem as problem:
            problems[which] = cut(str(problem))
    if not problems:
        return _diff_values(base, *values)
    which = "neither is" if len(problems) == 2 else f"the {next(iter(problems))} one is not"
    return [Part(f"{which} valid JSON ({next(iter(problems.values()))})", [], 0), diff_data(old, new)]


def _diff_values(base: str, old: JsonValue, new: JsonValue) -> list[Part]:
    if base in VOCABULARIES and (vocabulary := diff_vocabulary(old, new)) is not None:
        return vocabulary
    parts: list[Part] = []
    if base == "tokenizer.json":
        parts, changes = diff_tokenizer(old, new)
    else:
        changes = list(differences(old, new))
    templates = [change for change in changes if TEMPLATE_KEY in change.tokens]
    others = [change for change in changes if TEMPLATE_KEY not in change.tokens]
    if templates:
        parts.append(_detailed(_template_summary(templates), templates))
    if others:
        others.sort(key=lambda change: not any(token in _CALLED_OUT for token in change.tokens))
        parts.append(_detailed(_places_summary(others), others))
    return parts


def _detailed(summary: str, changes: Sequence[ValueChange]) -> Part:
    kept = changes[:MAX_DETAILS]
    details = [Detail(pointer_text(change.tokens), *shown_pair(change.old, change.new)) for change in kept]
    return Part(summary, details, len(changes))


def pointer_text(tokens: Tokens) -> str:
    """A place as a JSON pointer, cut where no real one is as long."""
    return cut(str(JsonPointer(tokens)), MAX_WHERE)


def _template_summary(changes: Sequence[ValueChange]) -> str:
    first = changes[0]
    if isinstance(first.old, Absent) or isinstance(first.new, Absent):
        return f"chat template {'added' if isinstance(first.old, Absent) else 'removed'}"
    if isinstance(first.old, str) and isinstance(first.new, str):
        return diff_texts(first.old, first.new, "chat template").summary
    return "chat template differs"


def _places_summary(changes: Sequence[ValueChange]) -> str:
    places = list(dict.fromkeys(change.tokens for change in changes))
    named = [cut(pointer_text(place), 80) or "the whole document" for place in places[:_MAX_PLACES]]
    more = [f"and {len(places) - _MAX_PLACES} more"] if len(places) > _MAX_PLACES else []
    return f"{counted(len(places), 'value')} changed: {', '.join([*named, *more])}"


# --- cards


def _diff_cards(old: bytes, new: bytes) -> list[Part]:
    ours, theirs = read_front_matter(old), read_front_matter(new)
    parts = [_card_part(key, ours.get(key), theirs.get(key)) for key in CARD_KEYS if ours.get(key) != theirs.get(key)]
    text = diff_data(old, new)
    return [*parts, Part(text.summary, [], 0)]


def _card_part(key: str, old: str | None, new: str | None) -> Part:
    if old is not None and new is not None:
        before, after = cut_pair(old, new)
        return Part(f"{key}: {before} → {after}", [Detail(key, before, after)], 1)
    verb, value = ("removed", old) if new is None else ("added", new)
    detail = Detail(key, *(None if side is None else cut(side) for side in (old, new)))
    return Part(f"{key} {verb}: {cut(value or '')}", [detail], 1)
