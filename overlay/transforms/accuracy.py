"""How much a lossy transform lost: figures that add up over tensors, so that a class of tensors can be streamed.

torch adds up runs of a fixed length, none of which it splits between threads, and the sums of runs are added exactly: a
report is the same bytes whatever the number of threads.  A GPU adds in another order and may differ in the sixth digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from overlay.transforms.blocks import row_blocks
from overlay.transforms.checking import require_shape, require_weight
from overlay.transforms.problems import TransformProblem

_RUN: Final = 1 << 10
"""Elements that are added up by one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """What is lost between an original and what its encoded form stands for.  ``Accuracy()`` is that of no tensor."""

    tensors: int = 0
    elements: int = 0
    groups: int = 0
    """Groups that share a scale."""
    zero_groups: int = 0
    """Groups of which nothing but zeros is left."""
    vanished_groups: int = 0
    """Those of the zero groups whose original was not zero: all of it was lost."""
    saturated: int = 0
    """Elements beyond what the scale of their group can express, by more than rounding alone explains."""
    max_abs: float = 0.0
    """The greatest magnitude of the original."""
    max_abs_error: float = 0.0
    """The greatest distance of an element from its original."""
    sum_squares: float = 0.0
    """The sum of the squares of the original."""
    sum_squared_error: float = 0.0
    """The sum of the squares of the distances."""

    @property
    def relative_rms(self) -> float:
        """The root mean square of the error as a fraction of that of the original; infinite if only that is zero."""
        return _ratio(math.sqrt(self.sum_squared_error), math.sqrt(self.sum_squares))

    @property
    def relative_max(self) -> float:
        """The greatest error as a fraction of the greatest magnitude; infinite if only that is zero."""
        return _ratio(self.max_abs_error, self.max_abs)

    def __add__(self, other: Accuracy) -> Accuracy:
        """The figures of both taken together."""
        return Accuracy(
            tensors=self.tensors + other.tensors,
            elements=self.elements + other.elements,
            groups=self.groups + other.groups,
            zero_groups=self.zero_groups + other.zero_groups,
            vanished_groups=self.vanished_groups + other.vanished_groups,
            saturated=self.saturated + other.saturated,
            max_abs=max(self.max_abs, other.max_abs),
            max_abs_error=max(self.max_abs_error, other.max_abs_error),
            sum_squares=self.sum_squares + other.sum_squares,
            sum_squared_error=self.sum_squared_error + other.sum_squared_error,
        )


class Reach(NamedTuple):
    """What the scales of an encoded weight can express: ``low * scale`` to ``high * scale``, less the zero points.

    `scale` is [ceil(N / rows), groups], `zeros` (if any) of the same shape.  `low` and `high` are the least and greatest
    element, each widened by half a step, since what is nearer than that is rounded and not cut off.
    """

    scale: Tensor
    low: float
    high: float
    zeros: Tensor | None = None
    rows: int = 1

    def bounds(self, span: slice) -> tuple[Tensor, Tensor]:
        """F32 [rows of span, groups, 1] each: the least and the greatest value."""
        scale = self._lines(self.scale, span)
        zeros = 0.0 if self.zeros is None else self._lines(self.zeros, span)
        return (self.low - zeros) * scale, (self.high - zeros) * scale

    def _lines(self, values: Tensor, span: slice) -> Tensor:
        line = torch.arange(span.start, span.stop, device=values.device).div_(self.rows, rounding_mode="floor")
        first = span.start // self.rows
        some = values[first : -(-span.stop // self.rows)].to(torch.float32)
        return some.index_select(0, line - first)[..., None]


def measure(
    original: Tensor, restored: Tensor, *, group_size: int | None = None, reach: Reach | None = None
) -> Accuracy:
    """How far `restored` is from `original`, both [N, K] of BF16, F16 or F32.

    Args:
        original: the weight before the lossy step.
        restored: what the encoded weight stands for.
        group_size: columns that share a scale, the last group being as long as the columns last; None for a whole row.
        reach: what the scales can express; without it nothing counts as saturated.

    Scratch: a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: no matrices of floats of one shape, or NaN or infinity in one of them.
    """
    require_weight("original", original)
    require_weight("restored", restored)
    require_shape("restored", restored, tuple(original.shape))
    rows, columns = original.shape
    group = columns if group_size is None else group_size
    if group < 1:
        raise TransformProblem("group-divides", "original", expected="a positive group size", found=str(group))
    total = Accuracy(tensors=1, elements=rows * columns, groups=rows * -(-columns // group))
    for span in row_blocks(rows, columns):
        total += _measure_rows(original[span], restored[span], group, reach and reach.bounds(span))
    return total


def _measure_rows(original: Tensor, restored: Tensor, group: int, bounds: tuple[Tensor, Tensor] | None) -> Accuracy:
    """The figures of some rows, without their counts of tensors, elements and groups."""
    before, after = _in_groups(original, group), _in_groups(restored, group)
    low, high = _extremes(before)
    peaks = torch.maximum(low.neg(), high)
    least, greatest = _extremes(after)
    emptied = (least == 0) & (greatest == 0)
    error = after - before
    extremes = torch.aminmax(error)
    max_abs, max_abs_error = float(peaks.amax()), max(-float(extremes.min), float(extremes.max))
    if not math.isfinite(max_abs) or not math.isfinite(max_abs_error):
        raise TransformProblem(
            "finite-weight", "original or restored", expected="finite values", found="NaN or infinity"
        )
    return Accuracy(
        zero_groups=int(emptied.count_nonzero()),
        vanished_groups=int((emptied & (peaks != 0)).count_nonzero()),
        saturated=0 if bounds is None else _count_beyond(before, low, high, bounds),
        max_abs=max_abs,
        max_abs_error=max_abs_error,
        sum_squares=_sum_squares(before, max_abs),
        sum_squared_error=_sum_squares(error, max_abs_error),
    )


def _extremes(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest element of each group; `torch.aminmax` along a short axis takes four times as long."""
    return groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)


def _count_beyond(groups: Tensor, low: Tensor, high: Tensor, bounds: tuple[Tensor, Tensor]) -> int:
    """Elements below or above the bounds of their group; only groups whose extremes are beyond are looked into."""
    floor, ceiling = (bound.expand_as(low) for bound in bounds)
    beyond = ((low < floor) | (high > ceiling)).squeeze(-1)
    some = groups[beyond]
    return int((some != some.clamp(floor[beyond], ceiling[beyond])).count_nonzero())


def _in_groups(rows: Tensor, group: int) -> Tensor:
    """F32 [r, groups, G]: `rows`, the last group filled with zeros, which change none of the figures."""
    rest = -rows.shape[1] % group
    wide = rows.to(torch.float32)
    return (torch.nn.functional.pad(wide, (0, rest)) if rest else wide.contiguous()).view(rows.shape[0], -1, group)


def _sum_squares(values: Tensor, peak: float) -> float:
    """The sum of the squares of `values`, F32, whose greatest magnitude is `peak`."""
    # A power of two brings the peak near 1 exactly, so that squares in F32 neither overflow nor vanish beside it.
    exponent = max(math.frexp(peak)[1], -100)
    squares = values.reshape(-1).mul(0.5**exponent).square_()
    whole = squares.numel() // _RUN * _RUN
    runs = squares[:whole].view(-1, _RUN).sum(dim=1)
    return math.fsum((*runs.tolist(), float(squares[whole:].sum()))) * 4.0**exponent


def _ratio(part: float, whole: float) -> float:
    if whole:
        return part / whole
    return math.inf if part else 0.0
