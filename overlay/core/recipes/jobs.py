"""Jobs: which outputs of a recipe are computed together, and in which order.

Outputs that need one and the same call belong together: the partners of a weight, the parts of a split, and neighbours that
share a scale.  Nothing else does, so that a job is the least that must be in memory at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overlay.core.checkpoint import TensorSource
from overlay.core.recipes.values import Call, Value, calls_below, inputs_of


@dataclass(frozen=True, slots=True)
class Job:
    """Outputs that are computed together."""

    outputs: tuple[Value, ...]
    calls: tuple[Call, ...]
    """What has to be computed, none before what it needs."""
    inputs: tuple[TensorSource, ...]
    """What has to be read, by file and offset."""

    @property
    def input_bytes(self) -> int:
        """Bytes to read."""
        return sum(source.end - source.begin for source in self.inputs)

    @property
    def peak_bytes(self) -> int:
        """Bytes of all tensors that the job sees, as if none was released before its end; scratch comes on top."""
        return self.input_bytes + sum(spec.nbytes for call in self.calls for spec in call.outputs)


def group_jobs(outputs: Sequence[Value]) -> tuple[Job, ...]:
    """The outputs that are computed, in jobs; in the order of their first inputs, so that reading moves forwards.

    Costs a few steps for each output and each call that it needs.
    """
    computed = [value for value in outputs if value.call is not None]
    needed = [calls_below([value]) for value in computed]
    leaders = _Leaders(len(computed))
    first: dict[int, int] = {}
    for position, calls in enumerate(needed):
        for call in calls:
            leaders.join(first.setdefault(id(call), position), position)
    members: dict[int, list[Value]] = {}
    for position, value in enumerate(computed):
        members.setdefault(leaders.find(position), []).append(value)
    jobs = [_job(values) for values in members.values()]
    return tuple(sorted(jobs, key=lambda job: [(s.file.name, s.begin) for s in job.inputs[:1]]))


def _job(values: Sequence[Value]) -> Job:
    calls = calls_below(values)
    return Job(tuple(values), tuple(calls), tuple(inputs_of(calls)))


class _Leaders:
    """Disjoint sets of positions, each known by its least one."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def find(self, position: int) -> int:
        while self._above[position] != position:
            self._above[position] = self._above[self._above[position]]
            position = self._above[position]
        return position

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        self._above[high] = low
