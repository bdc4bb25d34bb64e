"""Comparing: read what headers cannot tell apart, and say what differs.

Neighbouring tensors are read as one range, and only the ranges that differ are looked at tensor by tensor; ranges are
shared out to threads, which spend their time in the kernel.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overlay.core.checkpoint import TensorSource
from overlay.core.diffing import Change, Difference, Pairs, TensorChange, settle, source_of
from overlay.core.progress import Reporter
from overlay.errors import InvalidInput
from overlay.storage.ranges import Advance, digest_range, equal_ranges

Pair = tuple[TensorSource, TensorSource]

_RUN_BYTES: Final = 64 << 20
"""A range is no longer than this unless one tensor is, so that threads have something to share."""

_TELLING_BYTES: Final = 16
"""Shorter tensors, single scales above all, are equal by chance."""


def compare_content(difference: Difference, reporter: Reporter, *, renames: bool = False, jobs: int = 0) -> Difference:
    """The difference with nothing left unread.

    Args:
        difference: as headers tell it.
        reporter: shows how reading goes on.
        renames: also look for removed tensors that were added again under another name.
        jobs: threads; 0 means one a processor.

    Reads both sides of every pair, which are compared a block at a time.

    Raises:
        EnvironmentFault: a file cannot be read.
    """
    _require_files(difference)
    runs = [run for pairs in difference.pairs for run in _runs(pairs)]
    total = sum(old[-1].end - old[0].begin for old, _ in map(_sides, runs))
    with reporter.task("comparing tensors", total) as advance, ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        found = pool.map(lambda run: [*_differing(run, advance)], runs)
        differing = {name for names in found for name in names}
    renamed = _renamed(difference, reporter) if renames else {}
    return settle(difference, differing, renamed)


def _require_files(difference: Difference) -> None:
    """Refuse to read shards that a manifest only describes.

    Raises:
        InvalidInput: there is one.
    """
    for pairs in difference.pairs:
        for side, shard in ((difference.old, pairs.old), (difference.new, pairs.new)):
            if not shard.file.exists:
                problem = (
                    f"expected bytes to compare, found {shard.file.name}, which the manifest describes and nobody made"
                )
                raise InvalidInput(problem, subject=side.label, hint=f"overlay apply {side.label} -o DIR")


def _runs(pairs: Pairs) -> Iterator[list[Pair]]:
    """The pairs, those together that lie next to each other in both files."""
    run: list[Pair] = []
    for old, new in sorted(pairs.sources(), key=lambda pair: pair[0].begin):
        fits = run and run[-1][0].end == old.begin and run[-1][1].end == new.begin
        if run and not (fits and old.end - run[0][0].begin <= _RUN_BYTES):
            yield run
            run = []
        run.append((old, new))
    if run:
        yield run


def _sides(run: list[Pair]) -> tuple[list[TensorSource], list[TensorSource]]:
    return [old for old, _ in run], [new for _, new in run]


def _differing(run: list[Pair], advance: Advance) -> Iterator[str]:
    """Names of the pairs of one run that differ."""
    (first_old, first_new), (last_old, last_new) = run[0], run[-1]
    if equal_ranges(first_old._replace(end=last_old.end), first_new._replace(end=last_new.end), advance):
        return
    for old, new in run:
        if not equal_ranges(old, new):
            yield new.name


def _renamed(difference: Difference, reporter: Reporter) -> dict[str, str]:
    """New name to old name, of tensors that were removed and added with the same dtype, shape and bytes."""
    gone, come = (_by_form(difference, change) for change in (Change.REMOVED, Change.ADDED))
    forms = gone.keys() & come.keys()
    sources = [source for form in forms for side in (gone, come) for source in side[form]]
    names: dict[str, str] = {}
    with reporter.task("looking for renamed tensors", sum(s.end - s.begin for s in sources)) as advance:
        for form in sorted(forms):
            old, new = (_by_digest(side[form], advance) for side in (gone, come))
            for digest in old.keys() & new.keys():
                names |= _matched(old[digest], new[digest])
    return names


def _by_form(difference: Difference, change: Change) -> dict[tuple[str, tuple[int, ...]], list[TensorSource]]:
    """The tensors of a change by dtype and shape."""
    found: dict[tuple[str, tuple[int, ...]], list[TensorSource]] = defaultdict(list)
    for entry in difference.changes:
        if entry.change is change:
            source = _located(difference, entry)
            found[source.dtype, source.shape].append(source)
    return found


def _located(difference: Difference, entry: TensorChange) -> TensorSource:
    side, shard = (difference.new, entry.new) if entry.new else (difference.old, entry.old)
    return source_of(side.shards[shard], entry.name)


def _by_digest(sources: Iterable[TensorSource], advance: Advance) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = defaultdict(list)
    for source in sources:
        if source.end - source.begin >= _TELLING_BYTES:
            found[digest_range(source, advance)].append(source.name)
    return found


def _matched(old: list[str], new: list[str]) -> dict[str, str]:
    """New name to old name among tensors of equal bytes; where several are equal, only if their last parts agree."""
    if len(old) == len(new) == 1:
        return {new[0]: old[0]}
    if [*map(_last, sorted(old, key=_last))] != [*map(_last, sorted(new, key=_last))]:
        return {}
    return dict(zip(sorted(new, key=_last), sorted(old, key=_last), strict=True))


def _last(name: str) -> tuple[str, ...]:
    return tuple(name.split(".")[-2:])
