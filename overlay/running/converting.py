"""Converting: carry out a recipe, one job in memory at a time and thread, into a shard or into digests alone.

Workers compute the jobs and copy what is copied, each into its own place of the file, whose header is known beforehand.
Meanwhile the calling thread goes through the tensors in the order of the header, once, and digests them: a copied one as
its donor has it, a computed one as the file has it.  What comes out depends neither on the number of threads nor on the
memory.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, zip_longest
from math import isfinite
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

import xxhash

from overlay.core.checkpoint import TensorSource
from overlay.core.places import place_of
from overlay.core.progress import Advance
from overlay.core.recipes.jobs import Job
from overlay.core.recipes.recipe import Recipe
from overlay.core.recipes.values import Call, Value
from overlay.errors import EnvironmentFault, InvalidInput, Mismatch, OverlayError
from overlay.formats.digest import Digests
from overlay.formats.manifest import Limits
from overlay.running.workers import Check, Task, Workers
from overlay.storage.hashing import default_jobs
from overlay.storage.shard_file import Donors, Here, ShardFile, new_shard
from overlay.storage.shard_writer import WrittenShard

if TYPE_CHECKING:
    from overlay.transforms.accuracy import Accuracy
    from overlay.transforms.evaluating import CallProblem, Made

MIB: Final = 1 << 20
_OURSELVES: Final = 288 * MIB
"""What Python, torch and a recipe of some thousand tensors take."""
_SCRATCH: Final = 16 * MIB
"""What a job takes beside its tensors."""
_READ_AHEAD: Final = 64 * MIB
"""How much of the next job the kernel is asked to read."""

Range = tuple[str, int, int]
"""A donor's shard, and ``[begin, end)`` of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How a recipe is carried out; none of it changes a byte of the shard."""

    jobs: int = 0
    """Threads that compute; 0 means one a processor."""
    memory: int = 512 * MIB
    """Bytes that the process keeps to, torch included; a single job that needs more runs alone."""
    device: str = "cpu"
    """Where tensors are computed, as torch calls it."""
    here: Here = field(default_factory=dict)
    """Where tensors of donors elsewhere were fetched to."""
    losses: bool = True
    """Whether to measure what lossy calls lose, which takes longer than the calls; who only compares bytes need not."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a class of tensors lost."""

    accuracy: Accuracy

    @property
    def figures(self) -> dict[str, float]:
        """What `Limits` may limit, by the names that they have there."""
        found = self.accuracy
        return {
            "relative_rms": found.relative_rms,
            "relative_max": found.relative_max,
            "saturated": found.saturated / max(1, found.elements),
            "vanished": found.vanished_groups / max(1, found.groups),
        }

    def document(self) -> dict[str, Any]:
        """The report as plain JSON: figures, counts, and None for a figure that is no number."""
        found = self.accuracy
        counts = {
            "tensors": found.tensors,
            "elements": found.elements,
            "groups": found.groups,
            "saturated_elements": found.saturated,
            "zero_groups": found.zero_groups,
            "vanished_groups": found.vanished_groups,
        }
        figures = {"max_abs_error": found.max_abs_error, **self.figures}
        return {**counts, **{name: value if isfinite(value) else None for name, value in figures.items()}}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a recipe came to."""

    digests: Digests | None
    """Of the file; None where none was written."""
    tensors: Mapping[str, str]
    """Tensor to the xxh3-128 of its bytes, in the order of the header."""
    inputs: Mapping[Range, str]
    """Range of a donor's shard to the xxh3-128 of the bytes that were read there, in order."""
    accuracy: Mapping[str, Loss]
    """What lossy calls lost, by class: the component (`core.places`), a colon, the call and its parameters."""

    @property
    def written(self) -> WrittenShard:
        """The shard as the writer of copied shards describes one; without digests where no file was written."""
        return WrittenShard(cast("Digests", self.digests), dict(self.tensors))


def convert(
    header: bytes,
    recipe: Recipe,
    path: str | None,
    how: Conversion = Conversion(),
    advance: Advance = lambda count: None,
) -> Converted:
    """Carry out `recipe`, and create the shard `path` unless it is None.

    Args:
        header: the shard's first bytes, as `formats.header_text.render_header` makes them of ``recipe.tensors``.
        recipe: what is made of which donors' tensors; without jobs, torch is not needed.
        path: the file to create; with None tensors are digested and nothing is written.
        how: threads, memory and device.
        advance: told of bytes of the shard as they are done, from one thread at a time.

    Raises:
        InvalidInput: a donor's tensors are not what a step needs; tensor, shard and rule are named.
        Conflict: a donor's shard is no longer the one that was seen.
        EnvironmentFault: reading or writing failed, or torch or the device is missing.

    Whatever is raised, KeyboardInterrupt included, nothing is left at `path`.
    """
    with ExitStack() as stack:
        prepare = stack.enter_context(_arithmetic(how.device)) if recipe.jobs else _nothing
        donors = stack.enter_context(Donors(how.here))
        file = stack.enter_context(new_shard(path, header, len(header) + recipe.nbytes)) if path else None
        building = _Building(header, recipe, how, donors, file, _guarded(advance))
        try:
            converted = building.carry_out(prepare)
        except OverlayError:
            donors.require_unchanged()  # bytes that changed are why, whatever was found in them
            raise
        donors.require_unchanged()
    return converted


def require_accuracy(accuracy: Mapping[str, Loss], limits: Limits | None, subject: str = "") -> None:
    """Refuse conversions that lost more than `limits` allow; `subject` is the shard.

    Raises:
        Mismatch: naming every class that did, with what was found; a figure that is no number did, too.
    """
    lines = [
        f"{name}: expected {figure} of at most {limit:g}, found {found:.4g}"
        for name, loss in accuracy.items()
        for figure, found in loss.figures.items()
        if (limit := getattr(limits, figure, None)) is not None and not found <= limit
    ]
    if lines:
        hint = "choose a finer format or smaller groups, `ignore` these modules, or raise `limits` in the manifest"
        raise Mismatch(lines[0], subject=subject, hint=hint, others=tuple(lines[1:]))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a task came to; a copy comes to nothing that the calling thread does not see itself."""

    tensors: dict[str, str] = field(default_factory=dict)
    inputs: dict[Range, str] = field(default_factory=dict)
    losses: list[tuple[str, Accuracy]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Building:
    """One conversion while it goes on."""

    header: bytes
    recipe: Recipe
    how: Conversion
    donors: Donors
    file: ShardFile | None
    advance: Advance

    def carry_out(self, prepare: Callable[[], None]) -> Converted:
        """Everything, up to the last check."""
        self.advance(len(self.header))
        tasks = [*self._jobs(), *(self._copies() if self.file else ())]
        memory = max(0, self.how.memory - _OURSELVES)
        with Workers(tasks, self.how.jobs or default_jobs(), memory, prepare) as workers:
            digests, seen = self._digest(workers)
            outcomes = [*workers.results(), seen]
        tensors = {name: digest for outcome in outcomes for name, digest in outcome.tensors.items()}
        inputs = {place: digest for outcome in outcomes for place, digest in outcome.inputs.items()}
        return Converted(
            digests,
            {value.name: tensors[value.name] for value in self.recipe.outputs},
            {place: inputs[place] for place in sorted(inputs)},
            _summed(outcomes),
        )

    def _places(self) -> Iterator[tuple[Value, int]]:
        """Every tensor with its offset in the file."""
        outputs = self.recipe.outputs
        offsets = accumulate((value.nbytes for value in outputs), initial=len(self.header))
        return zip(outputs, offsets, strict=False)

    def _jobs(self) -> Iterator[Task[_Outcome]]:
        places = {value.name: offset for value, offset in self._places()}
        jobs = self.recipe.jobs
        for job, following in zip_longest(jobs, jobs[1:]):
            yield Task(job.peak_bytes + _SCRATCH, partial(self._compute, job, following, places))

    def _copies(self) -> Iterator[Task[_Outcome]]:
        for value, offset in self._places():
            if source := value.source:
                yield Task(0, partial(self._copy, source, offset))

    def _copy(self, source: TensorSource, offset: int, check: Check) -> _Outcome:
        """A copied tensor at its place; the calling thread says how it goes on."""
        assert self.file is not None
        self.file.copy_at(offset, source, self.donors, lambda count: check())
        return _Outcome()

    def _compute(self, job: Job, following: Job | None, places: Mapping[str, int], check: Check) -> _Outcome:
        """The outputs of a job at their places."""
        from overlay.transforms.evaluating import CallProblem, evaluate

        outcome = _Outcome()
        if following:
            self._read_ahead(following)
        try:
            read = partial(self._read, outcome)
            for made in evaluate(job, read, device=self.how.device, losses=self.how.losses):
                self._settle(made, places, outcome)
                del made  # or its tensors would stay until the next call is done
                check()
        except CallProblem as problem:
            raise _refusal(problem) from None
        return outcome

    def _read_ahead(self, job: Job) -> None:
        sizes = accumulate(source.end - source.begin for source in job.inputs)
        for source, size in zip(job.inputs, sizes, strict=True):
            if size <= _READ_AHEAD:
                self.donors.read_ahead(source)

    def _read(self, outcome: _Outcome, source: TensorSource) -> Any:
        """A donor's tensor."""
        from overlay.transforms.evaluating import bytes_of, empty

        tensor = empty(source.dtype, source.shape)
        memory = bytes_of(tensor)
        self.donors.read_into(source, memory)
        outcome.inputs[_range(source)] = xxhash.xxh3_128_hexdigest(memory)
        return tensor

    def _settle(self, made: Made, places: Mapping[str, int], outcome: _Outcome) -> None:
        """Write and note what a call made."""
        from overlay.transforms.evaluating import bytes_of

        for value, tensor in made.outputs:
            memory = bytes_of(tensor)
            if self.file:
                self.file.write_at(places[value.name], memory)
            outcome.tensors[value.name] = xxhash.xxh3_128_hexdigest(memory)
            self.advance(value.nbytes)
        if made.accuracy:
            outcome.losses.append((_class_of(made.call), made.accuracy))

    def _digest(self, workers: Workers[_Outcome]) -> tuple[Digests | None, _Outcome]:
        """Go through the tensors in the order of the header: the file's digests, and those of what is copied."""
        jobs = {value.name: number for number, job in enumerate(self.recipe.jobs) for value in job.outputs}
        sha, xxh, seen = hashlib.sha256(self.header), xxhash.xxh3_128(self.header), _Outcome()

        def see(block: memoryview) -> None:
            if self.file:
                sha.update(block)
                xxh.update(block)
            workers.check()

        for value, offset in self._places():
            if source := value.source:
                digest = self._see_copied(source, see)
                seen.tensors[value.name] = seen.inputs[_range(source)] = digest
                continue
            workers.result(jobs[value.name])
            if self.file:
                self.file.read(offset, offset + value.nbytes, see)
        size = len(self.header) + self.recipe.nbytes
        return Digests(size, sha.hexdigest(), xxh.hexdigest()) if self.file else None, seen

    def _see_copied(self, source: TensorSource, see: Callable[[memoryview], None]) -> str:
        """The digest of a donor's tensor, which `see` is shown."""
        digest = xxhash.xxh3_128()

        def see_both(block: memoryview) -> None:
            see(block)
            digest.update(block)
            self.advance(len(block))

        self.donors.read(source, see_both)
        return digest.hexdigest()


def _range(source: TensorSource) -> Range:
    return source.file.name, source.begin, source.end


def _class_of(call: Call) -> str:
    return f"{place_of(call.inputs[0].value.name).component}: {call.label}"


def _summed(outcomes: list[_Outcome]) -> dict[str, Loss]:
    """The losses by class, added up in the order of jobs, so that rounding is the same every time."""
    found: dict[str, Accuracy] = {}
    for outcome in outcomes:
        for kind, accuracy in outcome.losses:
            found[kind] = found[kind] + accuracy if kind in found else accuracy
    return {kind: Loss(found[kind]) for kind in sorted(found)}


def _refusal(error: CallProblem) -> InvalidInput:
    problem = error.problem
    part = "" if error.tensor.endswith(problem.part) else f"{problem.part}: "
    return InvalidInput(
        f"{part}expected {problem.expected}, found {problem.found} (rule {problem.rule})",
        subject=f"{error.tensor} ({error.file})",
        hint="take this module from another donor, or leave it out of the step with `ignore`",
    )


def _guarded(advance: Advance) -> Advance:
    """`advance`, for any number of threads."""
    lock = threading.Lock()

    def report(count: int) -> None:
        with lock:
            advance(count)

    return report


def _nothing() -> None:
    """What a thread prepares that computes nothing."""


def _arithmetic(device: str) -> AbstractContextManager[Callable[[], None]]:
    """A context in which torch computes on `device`, a thread for itself; gives back what every thread calls first.

    Raises:
        EnvironmentFault: there is no torch, or no such device.
    """
    evaluating = _evaluating()
    evaluating.require_device(device)
    context: AbstractContextManager[Callable[[], None]] = evaluating.computing()
    return context


def _evaluating() -> ModuleType:
    """The room with torch, which is imported only where something is computed."""
    try:
        from overlay.transforms import evaluating
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        hint = "pip install 'checkpoint-overlay[convert]'"
        raise EnvironmentFault("expected torch to convert tensors with, found none", hint=hint) from None
    return evaluating
