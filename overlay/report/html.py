"""One page that shows a comparison: no network, no other file, and scripts only to filter its table.

The page is made of templates in ``templates/``, with autoescape; what is escaped is first made printable, whatever the
template, so that no name from a file can be markup, reorder text or hide.  Equal views give equal pages.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from overlay.core.codes import CODES, Meaning
from overlay.core.diffing import Change
from overlay.core.families import Family
from overlay.core.findings import Finding
from overlay.core.judging import Judged
from overlay.core.tallying import Amount, contents, total
from overlay.core.view import View
from overlay.report.comparison import word_of
from overlay.report.html_chart import HUES, NARROW, SIGNS, WIDE, charts_of, clipped, hue_of, short
from overlay.report.html_map import MARKS, Mark, map_of, missing_layers
from overlay.report.text import in_bytes

MAX_FAMILIES: Final = 2500
_FAMILY_TEXT: Final = 700_000
"""Characters that all patterns together may take, so that hostile names cannot make the page grow."""
MAX_ROWS: Final = 300
MAX_MEMBERS: Final = 50
"""Findings of one code that are listed."""
_MAX_TEXT: Final = 1000
"""Characters of one text from a file."""


class Tile(NamedTuple):
    """A headline number."""

    word: str
    sign: str
    amount: Amount
    detail: str


class Side(NamedTuple):
    """One of the two checkpoints, counted."""

    word: str
    label: str
    commit: str
    amount: Amount
    shards: int
    dtypes: Sequence[tuple[str, Amount, float]]
    """Dtype, how much there is of it, and its share in percent of the larger side."""


class Group(NamedTuple):
    """The families of one change."""

    change: Change
    families: Sequence[Family]
    amount: Amount
    known: int
    """How many there are, those that are left out included."""


class Explained(NamedTuple):
    """The findings of one code."""

    code: str
    meaning: Meaning
    members: Sequence[Finding]
    more: int


class Legend(NamedTuple):
    """A colour of the page, and the dtypes that have it."""

    hue: str
    dtypes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The comparison in words."""

    news: str
    rest: str
    """What became of the tensors that the news does not speak of."""
    missing: str
    """The layers that the config declares and nobody finds."""


def render_page(view: View) -> str:
    """The page of a diff or an audit.

    Costs one look at each tensor, most of it in the view itself; the page grows with layers, components and families, and
    not with tensors.
    """
    drawn, groups = map_of(view.counted, view.findings), grouped(view.families)
    script = _source("page.js")
    template = _environment().get_template("page.html")
    return template.render(
        view=view,
        title=f"overlay {view.kind}: {clipped(view.difference.new.label, 200)}",
        verdict=verdict_of(view),
        tiles=tiles_of(view),
        sides=sides_of(view),
        map=drawn,
        wide=charts_of(drawn, WIDE),
        narrow=charts_of(drawn, NARROW),
        legend=_legend(part.dtype for bar in drawn.bars for part in bar),
        marks=[mark for mark in Mark if any(part.mark is mark for bar in drawn.bars for part in bar)],
        slots=any(line.absent for stack in drawn.stacks for line in stack.lines),
        rows=view.rows[:MAX_ROWS],
        rows_left_out=len(view.rows) - MAX_ROWS,
        explained=explain(view.findings),
        claims=_by_standing(view.claims),
        groups=groups,
        families_left_out=sum(group.known - len(group.families) for group in groups),
        script=Markup(script),  # noqa: S704  # the package's own file
        script_hash=base64.b64encode(sha256(script.encode()).digest()).decode(),
    )


def verdict_of(view: View) -> Verdict:
    """What a person would say who has looked at everything."""
    layers = missing_layers(view.findings)
    missing = f"Missing: layer {', '.join(map(str, layers))}, which config.json declares." if layers else ""
    if view.alone:
        held = total(view.counted.by_change.values())
        rest = "No base was named, so nothing is compared."
        return Verdict(news=f"Holds {_tensors(held.tensors)}, {in_bytes(held.bytes)}.", rest=rest, missing=missing)
    counts, counted = view.difference.counts, view.counted
    replaced = _replaced(view)
    told = [
        ("adds", counted.of(Change.ADDED), ""),
        ("replaces", replaced, _of_them(counts[Change.RETYPED], replaced.tensors)),
        ("removes", counted.of(Change.REMOVED), ""),
        ("renames", counted.of(Change.RENAMED), ""),
        ("moves", counted.of(Change.MOVED), " to other shards"),
    ]
    news = [
        f"{verb} {_tensors(amount.tensors)}, {in_bytes(amount.bytes)}{more}"
        for verb, amount, more in told
        if amount.tensors
    ]
    sentence = f"{'; '.join(news)}." if news else "no tensor is known to differ."
    return Verdict(news=sentence[0].upper() + sentence[1:], rest=_rest(view, replaced), missing=missing)


def _rest(view: View, replaced: Amount) -> str:
    difference, counts = view.difference, view.difference.counts
    kept = "The base" if view.kind == "audit" else "The old checkpoint"
    unread = f"the bytes of {_tensors(difference.unread)} were not compared" if difference.unread else ""
    if not any(len(shard.header) for shard in difference.old.shards.values()):
        return f"{kept} holds no tensor."
    if not (counts[Change.REMOVED] or counts[Change.RENAMED] or replaced.tensors):
        if not unread:
            return f"{kept} is unchanged: every tensor of it is there, byte for byte."
        return f"{kept} is unchanged as far as headers tell; {unread}."
    same = f"{_tensors(counts[Change.IDENTICAL])} identical" if counts[Change.IDENTICAL] else ""
    sentence = "; ".join(filter(None, (same, unread)))
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else "Nothing stayed as it was."


def tiles_of(view: View) -> list[Tile]:
    """The headline numbers; every tensor of both checkpoints is counted in exactly one of them."""
    counted, counts = view.counted, view.difference.counts
    kinds = (Change.RETYPED, Change.RESHAPED, Change.REWRITTEN)
    made_of = ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds if counts[kind])
    moved = total(counted.of(change) for change in (Change.MOVED, Change.RENAMED))
    renamed = f"{counts[Change.RENAMED]:,} under another name" if counts[Change.RENAMED] else ""
    return [
        Tile("added", SIGNS[Mark.ADDED], counted.of(Change.ADDED), ""),
        Tile("replaced", SIGNS[Mark.REPLACED], _replaced(view), made_of),
        Tile("removed", SIGNS[Mark.DROPPED], counted.of(Change.REMOVED), ""),
        Tile("moved", SIGNS[Mark.MOVED], moved, renamed or "same tensor, other shard"),
        Tile("identical", "=", counted.of(Change.IDENTICAL), "byte for byte"),
        Tile("unread", "?", counted.of(Change.UNREAD), "headers agree, bytes not compared"),
    ]


def sides_of(view: View) -> list[Side]:
    """Both checkpoints by dtype, to one scale; the one that there is, of an audit without a base."""
    pair = view.difference.old, view.difference.new
    words = ("base", "checkpoint") if view.kind == "audit" else ("old", "new")
    found = [contents(checkpoint) for checkpoint in pair]
    largest = max(total(amounts.values()).bytes for amounts in found) or 1
    weights = {dtype: sum(side[dtype].bytes for side in found if dtype in side) for side in found for dtype in side}
    order = sorted(weights, key=lambda dtype: (-weights[dtype], dtype))
    return [
        Side(
            word,
            checkpoint.label,
            (checkpoint.commit or "")[:12],
            total(amounts.values()),
            len(checkpoint.shards),
            [(dtype, amounts[dtype], 100 * amounts[dtype].bytes / largest) for dtype in order if dtype in amounts],
        )
        for word, checkpoint, amounts in zip(words, pair, found, strict=True)
        if not (view.alone and word == "base")
    ]


def explain(findings: Iterable[Finding]) -> list[Explained]:
    """Findings by code, the worst first."""
    by_code: dict[str, list[Finding]] = defaultdict(list)
    for finding in sorted(findings):
        by_code[finding.code].append(finding)
    ranks = ["error", "warning", "note"]
    codes = sorted(by_code, key=lambda code: (ranks.index(CODES[code].severity), code))
    return [
        Explained(code, CODES[code], by_code[code][:MAX_MEMBERS], max(0, len(by_code[code]) - MAX_MEMBERS))
        for code in codes
    ]


def grouped(families: Sequence[Family]) -> list[Group]:
    """Families by change, in the order of the changes; of too many, those that differ and then the largest are kept."""
    kept = _kept(families)
    groups: dict[Change, list[Family]] = defaultdict(list)
    for family in families:
        groups[family.change].append(family)
    return [
        Group(
            change,
            [family for family in groups[change] if id(family) in kept],
            total(family.amount for family in groups[change]),
            len(groups[change]),
        )
        for change in Change
        if change in groups
    ]


def _kept(families: Sequence[Family]) -> set[int]:
    """The families that the page has room for, by identity."""
    order = sorted(
        families, key=lambda f: (MARKS[f.change] is Mark.SAME, -f.amount.bytes, -f.amount.tensors, f.pattern)
    )
    kept, room = set[int](), _FAMILY_TEXT
    for family in order[:MAX_FAMILIES]:
        room -= len(escape(clipped(family.pattern, _MAX_TEXT)))
        if room < 0:
            break
        kept.add(id(family))
    return kept


def _replaced(view: View) -> Amount:
    return total(view.counted.of(change) for change in Change if MARKS[change] is Mark.REPLACED)


def _of_them(retyped: int, replaced: int) -> str:
    if not retyped:
        return ""
    return ", all in another dtype" if retyped == replaced else f", {retyped:,} of them in another dtype"


def _tensors(number: int) -> str:
    return f"{number:,} tensor" if number == 1 else f"{number:,} tensors"


def _by_standing(claims: Iterable[Judged]) -> list[Judged]:
    order = ("fails", "open", "holds")
    return sorted(claims, key=lambda claim: order.index(claim.standing))


def _legend(dtypes: Iterable[str]) -> list[Legend]:
    by_hue: dict[str, set[str]] = defaultdict(set)
    for dtype in dtypes:
        by_hue[hue_of(dtype)].add(dtype)
    return [Legend(hue, ", ".join(sorted(by_hue[hue]))) for hue in HUES if hue in by_hue]


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) if shape else "scalar"


def _dtypes(old: str | Iterable[str], new: str | Iterable[str]) -> str:
    """``BF16``, or ``BF16 → F8_E4M3``."""
    before, after = (side if isinstance(side, str) else " + ".join(sorted(side)) for side in (old, new))
    return f"{before} → {after}" if before and after and before != after else after or before


def _path(pieces: Iterable[str]) -> Markup:
    """An SVG path; its pieces are made of numbers."""
    return Markup("").join(map(Markup, pieces))


def _for_people(value: Any) -> Any:
    """What every expression of every template goes through before it is escaped."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return clipped(str(value), _MAX_TEXT)
    return value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("overlay.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_for_people,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "in_bytes": in_bytes,
        "word": word_of,
        "count": lambda number: f"{number:,}",
        "hue": hue_of,
        "shape": _shape,
        "dtypes": _dtypes,
        "path": _path,
        "n": short,
    }
    environment.filters.update(filters)
    environment.globals.update(HUES=HUES, SIGNS=SIGNS)
    return environment


def _source(name: str) -> str:
    """A file of the templates' folder, as it is."""
    loader = _environment().loader
    assert loader is not None  # given above
    return loader.get_source(_environment(), name)[0]
