"""The geometry of the map: lengths, places and outlines, as numbers that a template writes down as SVG.

A bar is as long as the square root of its bytes, on one scale for the whole page: linear lengths would leave nothing to
see of anything but experts.  Inside a bar, parts share its length in proportion.  What looks alike is one path, so that a
thousand bars cost a dozen elements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import sqrt
from typing import Final, NamedTuple

from overlay.core.tallying import total
from overlay.report.escape import printable
from overlay.report.html_map import Bar, Line, Map, Mark, Part, Stack
from overlay.report.text import in_bytes

HUES: Final = ("bf16", "f16", "f32", "f8", "packed", "int", "other")
"""The colours there are; each dtype has always the same."""

SIGNS: Final = {Mark.SAME: "", Mark.ADDED: "+", Mark.REPLACED: "~", Mark.MOVED: "→", Mark.DROPPED: "−"}
"""What stands before the name of a mark, for those who see neither colour nor pattern."""

_HUE_OF: Final = {
    "BF16": "bf16",
    "F16": "f16",
    "F32": "f32",
    **dict.fromkeys(("U8", "I8", "F4", "F6_E2M3", "F6_E3M2"), "packed"),
    **dict.fromkeys(("I16", "U16", "I32", "U32", "I64", "U64"), "int"),
}
_PAD: Final = 12.0
"""Between the longest bar of a column and the next column."""
_LEAST: Final = 2.0
"""A part is never narrower, however few bytes it has."""
_SLOT: Final = 20.0
_TALL: Final = 18.0
_WORD_LETTER: Final = 6.8
"""Width of a letter in a slot."""
_MAX_NOTES: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A width to draw for, with what fits into it."""

    width: float
    left: float
    """For the numbers of layers."""
    right: float
    """For notes beside the lines; 0 leaves them out."""
    caption: float
    """For the name behind a bar outside of the layers."""
    letter: float
    """Width of a letter of a column's name."""
    upright: bool
    """Whether columns' names run upwards, because their columns are narrow."""
    tips: bool
    """Whether there is a pointer that can rest on a bar."""


WIDE: Final = Frame(width=1160, left=40, right=236, caption=360, letter=6.8, upright=False, tips=True)
NARROW: Final = Frame(width=368, left=34, right=0, caption=168, letter=6.1, upright=True, tips=False)


class Column(NamedTuple):
    """Where a component is drawn."""

    x: float
    width: float
    words: tuple[str, ...]
    """Its name, in as many lines as it takes."""


class Text(NamedTuple):
    """A word somewhere."""

    x: float
    y: float
    text: str
    look: str = ""


class Tip(NamedTuple):
    """What a pointer is told that rests on an area."""

    x: float
    y: float
    width: float
    height: float
    title: str
    parts: Bar


class Slot(NamedTuple):
    """The empty place of a layer that is not there."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(kw_only=True)
class Chart:
    """A drawing."""

    title: str
    width: float
    upright: bool
    height: float = 0
    head: float = 0
    """Height of the columns' names."""
    columns: list[Column] = field(default_factory=list)
    inks: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """(look, hue) to the rectangles that are drawn so."""
    texts: list[Text] = field(default_factory=list)
    tips: list[Tip] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    brackets: list[str] = field(default_factory=list)
    left_out: int = 0


def hue_of(dtype: str) -> str:
    """The colour of a dtype."""
    return _HUE_OF.get(dtype) or ("f8" if dtype.startswith("F8") else "other")


def charts_of(drawn: Map, frame: Frame) -> list[Chart]:
    """A drawing for each stack, and the last one for what lies outside of the layers."""
    if not any(line.news for stack in drawn.stacks for line in stack.lines):
        frame = replace(frame, right=0)
    scale = _scale(drawn, frame)
    charts = [_stack_chart(stack, frame, scale) for stack in drawn.stacks]
    return [*charts, _outside_chart(drawn, frame, scale)] if drawn.outside else charts


def clipped(text: str, letters: int) -> str:
    """`text` made printable, and its middle left out when it is too long."""
    text = printable(text[: 4 * letters + 400])
    if len(text) <= letters:
        return text
    head = (letters - 1) // 2
    return f"{text[:head]}…{text[head + 1 - letters :]}"


def _stack_chart(stack: Stack, frame: Frame, scale: float) -> Chart:
    columns = list(_columns(stack, frame, scale))
    right = max(columns[-1].x + columns[-1].width, frame.width - frame.right)
    chart = Chart(title=stack.name, width=right + frame.right, upright=frame.upright, columns=columns)
    chart.head, chart.left_out = _head(columns, frame), stack.left_out
    tops = list(_tops(stack.lines, chart.head))
    for line, (top, height) in zip(stack.lines, tops, strict=True):
        _draw_line(chart, line, top, height, frame, scale, stack.components)
    chart.texts += _numbers(stack.lines, tops, frame)
    chart.height = tops[-1][0] + tops[-1][1] + 6
    if frame.right:
        _annotate(chart, stack.lines, tops, right)
    return chart


def _outside_chart(drawn: Map, frame: Frame, scale: float) -> Chart:
    """A bar and its name a line."""
    chart = Chart(title="", width=frame.width, upright=frame.upright)
    y, height, x = 4.0, 11.0, frame.left
    for component, bar in drawn.outside.items():
        end = _draw_bar(chart, bar, x, y, height, scale)
        amount = total(part.amount for part in bar)
        signs = "".join(dict.fromkeys(SIGNS[part.mark] for part in bar))
        name = clipped(component, 40 if frame.tips else 18)
        chart.texts.append(Text(end + 8, y + 9.5, f"{signs} {name} {in_bytes(amount.bytes)}".strip(), "name"))
        if frame.tips:
            chart.tips.append(Tip(x, y, end - x + 8, height, clipped(component, 200), bar))
        y += height + 6
    chart.height = y
    return chart


def _draw_line(
    chart: Chart, line: Line, top: float, height: float, frame: Frame, scale: float, components: Sequence[str]
) -> None:
    if line.absent:
        right = chart.columns[-1].x + chart.columns[-1].width - _PAD / 2
        words = clipped(line.absent, max(1, int((right - frame.left - 14) / _WORD_LETTER)))
        chart.slots.append(Slot(frame.left, top, right - frame.left, height, words))
        return
    for column, component in zip(chart.columns, components, strict=True):
        bar = line.bars.get(component)
        if bar:
            _draw_bar(chart, bar, column.x, top, height, scale)
            if frame.tips:
                title = f"layer {line.label} · {clipped(component, 200)}"
                chart.tips.append(Tip(column.x - 2, top - 1, column.width - _PAD + 4, height + 2, title, bar))


def _draw_bar(chart: Chart, bar: Bar, x: float, y: float, height: float, scale: float) -> float:
    """Draw a bar, and tell where it ends."""
    start, marked = x, x
    for mark, parts in groupby(_lengths(bar, scale), key=lambda pair: pair[0].mark):
        for part, length in parts:
            chart.inks[mark.value, hue_of(part.dtype)] += _part(chart, part, x, y, length, height)
            x += length
        if mark is not Mark.SAME:
            chart.inks["edge", mark.value].append(_box(marked + 0.5, y + 0.5, x - marked - 1, height - 1))
        marked = x
    return max(x, start + _LEAST)


def _part(chart: Chart, part: Part, x: float, y: float, length: float, height: float) -> Iterator[str]:
    """The rectangle of a part; under one that changed its dtype, a strip in the colour of the old one."""
    retyped = part.mark is Mark.REPLACED and part.old_dtype != part.new_dtype
    strip = round(height * 0.26, 1) if retyped else 0.0
    if retyped:
        chart.inks["was", hue_of(part.old_dtype)].append(_box(x, y + height - strip, length, strip))
    yield _box(x, y, length, height - strip)


def _lengths(bar: Bar, scale: float) -> Iterator[tuple[Part, float]]:
    size = sum(part.amount.bytes for part in bar)
    length = max(_LEAST, sqrt(size) * scale)
    shares = [max(_LEAST, length * part.amount.bytes / size) if size else _LEAST for part in bar]
    longest = max(range(len(shares)), key=shares.__getitem__)
    shares[longest] = max(_LEAST, shares[longest] - (sum(shares) - length))
    return zip(bar, shares, strict=True)


def _scale(drawn: Map, frame: Frame) -> float:
    """Pixels for the square root of a byte: the largest with which everything fits."""
    scales = [_fit(stack, frame) for stack in drawn.stacks]
    roots = [_root(bar) for bar in drawn.outside.values()]
    if any(roots):
        scales.append((frame.width - frame.left - frame.caption) / max(roots))
    return min(scales, default=1.0)


def _fit(stack: Stack, frame: Frame) -> float:
    """The scale with which the columns of a stack fill their width; where there are too many, they get wider than it."""
    roots = [_longest(stack, component) for component in stack.components]
    least = [_least_width(component, frame) for component in stack.components]
    space = frame.width - frame.left - frame.right
    high = 60 / (max(roots) or 1)
    low, high = high, max(high, space / (max(roots) or 1))
    for _ in range(40):
        middle = (low + high) / 2
        needed = sum(max(m, root * middle + _PAD) for m, root in zip(least, roots, strict=True))
        low, high = (middle, high) if needed <= space else (low, middle)
    return low


def _columns(stack: Stack, frame: Frame, scale: float) -> Iterator[Column]:
    x = frame.left
    for component in stack.components:
        width = max(_least_width(component, frame), _longest(stack, component) * scale + _PAD)
        yield Column(x, width, _words(component, frame))
        x += width


def _least_width(component: str, frame: Frame) -> float:
    if frame.upright:
        return 16.0
    return max(len(word) for word in _words(component, frame)) * frame.letter + _PAD


def _words(component: str, frame: Frame) -> tuple[str, ...]:
    """A name in lines: one upwards, else one a part of it."""
    if frame.upright:
        return (clipped(component, 20),)
    *path, last = clipped(component, 60).split(".")
    return (*(clipped(part, 15) + "." for part in path[-2:]), clipped(last, 15))


def _head(columns: Sequence[Column], frame: Frame) -> float:
    if frame.upright:
        return max(len(column.words[0]) for column in columns) * frame.letter + 10
    return max(len(column.words) for column in columns) * 13.0 + 8


def _longest(stack: Stack, component: str) -> float:
    return max((_root(line.bars[component]) for line in stack.lines if component in line.bars), default=0.0)


def _root(bar: Bar) -> float:
    return sqrt(sum(part.amount.bytes for part in bar))


def _tops(lines: Sequence[Line], top: float) -> Iterator[tuple[float, float]]:
    """Where each line begins, and how high it is: the few that differ from the many are higher."""
    height = min(14.0, max(4.0, 640 / len(lines)))
    gap = 2.0 if height >= 6 else 1.0
    news = sum(bool(line.news) for line in lines)
    tall = _TALL if news <= max(4, len(lines) // 8) else height
    before = height
    for line in lines:
        this = _SLOT if line.absent else max(height, tall) if line.news else height
        top += 3 if this > before or before > this else 0
        yield top, this
        top, before = top + this + gap, this


def _numbers(lines: Sequence[Line], tops: Sequence[tuple[float, float]], frame: Frame) -> Iterator[Text]:
    """The numbers of the layers, as many as there is room for: first those that differ from the one before."""
    taken: list[float] = []
    step = 5 if len(lines) > 24 else 1
    ends = [0, *(at for at in range(1, len(lines)) if lines[at].news != lines[at - 1].news or lines[at].absent)]
    telling = ends[::-1] if len(ends) < 40 else []
    for at in (*telling, *range(0, len(lines), step), len(lines) - 1):
        line, (top, height) = lines[at], tops[at]
        y = top + height / 2 + 3.5
        if all(abs(y - other) >= 11 for other in taken):
            taken.append(y)
            yield Text(frame.left - 8, y, line.label, "number strong" if line.news or line.absent else "number")


def _annotate(chart: Chart, lines: Sequence[Line], tops: Sequence[tuple[float, float]], x: float) -> None:
    """A bracket beside each run of lines with the same news, and what the news is."""
    free, notes = 0.0, 0
    for news, run in groupby(zip(lines, tops, strict=True), key=lambda pair: pair[0].news):
        members = list(run)
        top, (last, height) = members[0][1][0], members[-1][1]
        if not news or (notes := notes + 1) > _MAX_NOTES:
            continue
        chart.brackets.append(f"M{short(x + 2)} {short(top)}h4v{short(last + height - top)}h-4")
        y = max(top + 9, free)
        for text in _note([line for line, _ in members]):
            chart.texts.append(text._replace(x=x + 14, y=y))
            y += 14
        free = y + 5
    chart.height = max(chart.height, free)


def _note(lines: Sequence[Line]) -> Iterator[Text]:
    first, last = lines[0], lines[-1]
    same = first.first == last.last
    yield Text(0, 0, f"layer {first.first}" if same else f"layers {first.first}–{last.last}", "note strong")
    parts = [part for line in lines for bar in line.bars.values() for part in bar]
    for mark in list(Mark)[1:]:
        marked = [part for part in parts if part.mark is mark]
        if marked:
            amount = total(part.amount for part in marked)
            yield Text(0, 0, f"{SIGNS[mark]} {amount.tensors:,} {mark}, {in_bytes(amount.bytes)}", "note")
            if mark is Mark.REPLACED:
                yield from (Text(0, 0, text, "note soft") for text in _retypings(marked))


def _retypings(parts: Sequence[Part]) -> list[str]:
    pairs = dict.fromkeys(f"{p.old_dtype} → {p.new_dtype}" for p in parts if p.old_dtype != p.new_dtype)
    return [f"    {pair}" for pair in list(pairs)[:3]]


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{short(x)} {short(y)}h{short(width)}v{short(height)}h-{short(width)}z"


def short(number: float) -> str:
    """A coordinate in as few characters as a tenth of a pixel takes."""
    return f"{number:.1f}".removesuffix(".0")
