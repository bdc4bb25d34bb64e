"""Locking: pin what a manifest's words mean today."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from overlay.core.checkpoint import FileSeen, TensorSource
from overlay.core.findings import Finding, about
from overlay.core.parts import BuiltShard, Composition, LinkedShard, ShardPart, TrimmedShard
from overlay.core.pinning import Measured, compare, expected_digests, make_lock, with_lineage
from overlay.core.progress import Reporter
from overlay.core.trimming import header_of
from overlay.errors import Conflict, Mismatch
from overlay.formats.digest import Digests
from overlay.formats.lock import Lock, LockLevel
from overlay.running.opening import Opened
from overlay.running.proving import Proofs, prove
from overlay.storage.shard_writer import digest_shard, digest_trimmed

if TYPE_CHECKING:
    from overlay.running.converting import Conversion


def pin(opened: Opened, composition: Composition, level: LockLevel, reporter: Reporter) -> Lock:
    """The lock of what was opened; at the level ``content`` every byte that the overlay uses is read.

    What the lock before says of a graft that was built stays, where the donor is not at hand to say it again.

    Raises:
        Mismatch: a content-addressed store holds other bytes than it says.
        EnvironmentFault: a file cannot be read.
    """
    measured = _measure(opened, composition, reporter) if level == "content" else Measured()
    fresh = make_lock(opened.pinnable, composition, level, measured)
    return with_lineage(fresh, opened.lock) if opened.lock is not None else fresh


def hold_against_lock(opened: Opened, composition: Composition) -> None:
    """Refuse whatever differs from the lock and can be seen without reading weights.

    Raises:
        Conflict: the manifest was changed after it was locked.
        Mismatch: a file is not what was locked; every one is named.
    """
    lock = opened.lock
    if lock is None:
        return
    if lock.manifest_sha256 != opened.stack_sha256:
        raise Conflict(
            "expected the manifest that was locked, found one that was changed since",
            subject=opened.path,
            hint=f"overlay lock {opened.path}",
        )
    plain = opened.without_engine()
    fresh = make_lock(plain.pinnable, composition if plain is opened else plain.compose(), "headers", Measured())
    refuse(compare(lock, fresh), opened.path)


def prove_composition(
    opened: Opened, composition: Composition, *, content: bool, reporter: Reporter, jobs: int = 0
) -> Proofs:
    """The digests of all linked shards, as far as they are known or asked for; with ``content``, of donors and trims too.

    Raises:
        Mismatch: a shard's bytes are not what the lock, or the store it lies in, says.
    """
    files = _files_to_hash(composition) if content else _linked_files(composition)
    expected = expected_digests(opened.lock, composition) if opened.lock is not None else {}
    proofs = prove(files, expected, content=content, reporter=reporter, jobs=jobs)
    refuse(proofs.findings, opened.path)
    return replace(proofs, trims=_prove_trims(opened.lock, composition, opened.path, reporter)) if content else proofs


def refuse(findings: Iterable[Finding], subject: str) -> None:
    """Stop because of `findings`, naming them all.

    Raises:
        Mismatch: there is one.
    """
    lines = [finding.line for finding in findings]
    if lines:
        hint = f"fetch what differs again, or accept it: overlay lock {subject} --upgrade"
        raise Mismatch(lines[0], hint=hint, others=tuple(lines[1:20]))


def check_made(opened: Opened, composition: Composition, reporter: Reporter) -> list[Finding]:
    """What the bytes of donors and of trimmed shards say against the lock; reads every byte that a new shard takes.

    Raises:
        EnvironmentFault: a file cannot be read.
    """
    if opened.lock is None:
        return []
    measured = measure_made(composition, reporter)
    return compare(opened.lock, make_lock(opened.pinnable, composition, "content", measured))


def _prove_trims(lock: Lock | None, composition: Composition, subject: str, reporter: Reporter) -> dict[str, Digests]:
    """What the trimmed shards will be, held against `lock`."""
    made = {
        shard.name: _digest_trim(shard, reporter) for shard in composition.shards if isinstance(shard, TrimmedShard)
    }
    pinned = {name: trim.sha256 for name, trim in lock.trims.items()} if lock is not None else {}
    refuse(
        [
            about("LCK001", name, f"expected sha256 {pinned[name]} in the result, found {digests.sha256}")
            for name, digests in made.items()
            if pinned.get(name) and pinned[name] != digests.sha256
        ],
        subject,
    )
    return made


def _digest_trim(shard: TrimmedShard, reporter: Reporter) -> Digests:
    with reporter.task(f"digesting {shard.name}", shard.size) as advance:
        return digest_trimmed(header_of(shard), shard.shard.file, shard.runs, advance)


def _measure(opened: Opened, composition: Composition, reporter: Reporter) -> Measured:
    proofs = prove(_files_to_hash(composition), {}, content=True, reporter=reporter)
    refuse(proofs.findings, opened.path)
    files = {location: digests.sha256 for location, digests in proofs.digests.items()}
    return replace(measure_made(composition, reporter), files=files)


Inputs = Mapping[tuple[str, int, int], str]
"""Range of a donor's shard, as file name, begin and end, to the xxh3-128 of its bytes."""


def measure_made(composition: Composition, reporter: Reporter, how: Conversion | None = None) -> Measured:
    """Digests of the shards that are made, of the tensors of every graft, and of what computed ones were made from.

    Raises:
        InvalidInput: a donor's tensors are not what a step needs.
        EnvironmentFault: a file cannot be read.
    """
    shards: dict[str, Digests] = {}
    tensors: dict[str, Mapping[str, str]] = {}
    inputs: dict[tuple[str, int, int], str] = {}
    for shard in composition.shards:
        if isinstance(shard, LinkedShard) and shard.origin == "base":
            continue
        if _lies_elsewhere(shard):
            continue  # what a store states of its files is pinned; bytes are fetched when something is made of them
        if isinstance(shard, TrimmedShard):
            shards[shard.name] = _digest_trim(shard, reporter)
            continue
        with reporter.task(f"digesting {shard.name}", shard.size) as advance:
            if shard.recipe is not None:
                from overlay.running.converting import Conversion, convert  # few overlays compute anything

                done = convert(_header(shard), shard.recipe, None, how or Conversion(losses=False), advance)
                written, inputs = done.written, {**inputs, **done.inputs}
            else:
                written = digest_shard(_header(shard), shard.sources, advance)
        tensors[shard.name] = written.tensors
        if isinstance(shard, BuiltShard) and shard.recipe is None:
            shards[shard.name] = written.digests
    return Measured(shards=shards, tensors=tensors, inputs=inputs)


def _lies_elsewhere(shard: ShardPart) -> bool:
    if isinstance(shard, TrimmedShard):
        return shard.shard.file.is_remote
    files = [source.file for source in shard.sources]
    return any(file.is_remote for file in (files if isinstance(shard, BuiltShard) else [*files, shard.shard.file]))


def _header(shard: LinkedShard | BuiltShard) -> bytes:
    return shard.header if isinstance(shard, BuiltShard) else b""


def _files_to_hash(composition: Composition) -> list[FileSeen]:
    """Linked shards, and the donors' shards of which a content-addressed store says what they must be.

    Of any other donor `_measure` digests the tensors that are taken, one by one.
    """
    return [*_linked_files(composition), *(source.file for source in _built(composition) if source.file.stated_sha256)]


def _linked_files(composition: Composition) -> list[FileSeen]:
    return [shard.shard.file for shard in composition.shards if isinstance(shard, LinkedShard)]


def _built(composition: Composition) -> Iterator[TensorSource]:
    for shard in composition.shards:
        if isinstance(shard, BuiltShard):
            yield from shard.sources
