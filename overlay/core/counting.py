"""Counting parameters: what ``total_parameters`` of an index may say.

transformers writes `num_parameters()`: the elements of everything that is a parameter.  Headers do not say what is one.
Buffers (the bias of a router, running means, often the scales of a quantised weight) are left out; packed bytes count
once; tools that count by hand unpack them.  So there is no one right number, but there are numbers that cannot be right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from overlay.formats.dtypes import count_elements
from overlay.formats.header import Header

_PACKED: Final = {"U8": 2, "I8": 2, "I32": 8}
"""Values that a container of this dtype may hold: two or eight of four bits."""

_NO_WEIGHTS: Final = frozenset({"BOOL", "I64", "U64"})
"""Masks, positions and tables of places: buffers, whatever their shape."""


class ParameterRange(NamedTuple):
    """Numbers of parameters that tensors can come to."""

    least: int
    """Elements of the tensors that are weights beyond doubt: two dimensions or more, no mask, no scale."""
    elements: int
    """Elements of all tensors; packed dtypes count their containers."""
    most: int
    """The same, with packed values counted one by one."""


def parameter_range(headers: Iterable[Header]) -> ParameterRange:
    """What the tensors of `headers` come to; costs one look at each name."""
    kinds: Counter[tuple[str, tuple[int, ...], bool]] = Counter()
    for header in headers:
        # Scales and zero points of a quantised weight are parameters in some tools only.
        beside = ["scale" in name or "zero" in name for name in header.names]
        kinds.update(zip(header.dtypes, header.shapes, beside, strict=True))
    least = elements = most = 0
    for (dtype, shape, is_beside), count in kinds.items():
        size = count_elements(shape) * count
        elements += size
        most += size * _PACKED.get(dtype, 1)
        if len(shape) > 1 and not is_beside and dtype not in _NO_WEIGHTS:
            least += size
    return ParameterRange(least, elements, most)
