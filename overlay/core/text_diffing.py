"""Differences of two texts, line by line, in bounded time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import islice, zip_longest

from overlay.core.details import MAX_DETAILS, Detail, Part, common_prefix, counted, cut, cut_pair

MAX_TEXT_BYTES = 16 * 1024 * 1024
"""Larger files are compared as bytes; the largest texts beside a checkpoint are vocabularies of a few megabytes."""
_MAX_MATCHED = 600
"""Lines between the first and the last difference that are matched; matching costs time in their square."""


def diff_data(old: bytes, new: bytes, what: str = "text") -> Part:
    """How two files differ, of which nothing is known; as texts if both are UTF-8 and no larger than `MAX_TEXT_BYTES`."""
    if max(len(old), len(new)) > MAX_TEXT_BYTES:
        return _diff_bytes(old, new, "too large to be compared by lines; ")
    try:
        return diff_texts(old.decode(), new.decode(), what)
    except UnicodeDecodeError:
        return _diff_bytes(old, new, "not UTF-8; ")


def diff_texts(old: str, new: str, what: str = "text") -> Part:
    """How two texts differ; a line that was changed counts as one removed and one added.

    A detail's number counts from 1: in the new text, and in the old one for lines that were only removed.
    """
    ours, theirs = _lines(old), _lines(new)
    if ours == theirs:
        return Part(f"{what}: same lines, other line ends", [], 0)
    head = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    rest = min(len(ours), len(theirs)) - head
    tail = next((i for i in range(rest) if ours[-1 - i] != theirs[-1 - i]), rest)
    ours, theirs = ours[head : len(ours) - tail], theirs[head : len(theirs) - tail]
    if max(len(ours), len(theirs)) > _MAX_MATCHED:
        return _diff_counts(ours, theirs, head, what)
    added = removed = total = 0
    details: list[Detail] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        added, removed, total = added + j2 - j1, removed + i2 - i1, total + max(i2 - i1, j2 - j1)
        pairs = zip_longest(ours[i1:i2], theirs[j1:j2])
        for offset, (before, after) in enumerate(islice(pairs, MAX_DETAILS - len(details))):
            number = head + (i1 if after is None else j1) + offset + 1
            details.append(_detail(number, before, after))
    return Part(f"{what} differs: {_tally(added, removed)}", details, total)


def _diff_counts(old: list[str], new: list[str], head: int, what: str) -> Part:
    """As `diff_texts`, of lines too many to be matched: by how often each of them occurs."""
    lost, gained = Counter(old), Counter(new)
    lost, gained = lost - gained, gained - lost
    added, removed = gained.total(), lost.total()
    if not added and not removed:
        return Part(f"{what} differs: same lines in another order", [], 0)
    found = [*_found(new, gained, head, is_new=True), *_found(old, lost, head, is_new=False)]
    return Part(f"{what} differs: {_tally(added, removed)}", found[:MAX_DETAILS], added + removed)


def _found(lines: list[str], wanted: Counter[str], head: int, *, is_new: bool) -> Iterator[Detail]:
    """The first lines that only one side has."""
    numbered = ((number, line) for number, line in enumerate(lines, head + 1) if line in wanted)
    for number, line in islice(numbered, MAX_DETAILS):
        yield _detail(number, None if is_new else line, line if is_new else None)


def _detail(number: int, old: str | None, new: str | None) -> Detail:
    if old is None or new is None:
        return Detail(f"line {number}", *(None if line is None else cut(line) for line in (old, new)))
    return Detail(f"line {number}", *cut_pair(old, new))


def _tally(added: int, removed: int) -> str:
    """``4 lines added, 1 removed``."""
    if not added:
        return f"{counted(removed, 'line')} removed"
    return f"{counted(added, 'line')} added" + (f", {removed} removed" if removed else "")


def _lines(text: str) -> list[str]:
    """The lines without what ends them.  Only a line feed ends a line: `str.splitlines` knows ten other characters."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _diff_bytes(old: bytes, new: bytes, why: str) -> Part:
    at = common_prefix(old, new)
    sizes = counted(len(new), "byte") if len(old) == len(new) else f"{len(old)} and {counted(len(new), 'byte')}"
    detail = Detail(f"byte {at}", *(side[at : at + 16].hex(" ") or None for side in (old, new)))
    return Part(f"{why}bytes differ from byte {at} on: {sizes}", [detail], 1)
