"""What a transform refuses, and by which rule.

A transform never guesses: what would decode to garbage, or would be stored as garbage, raises a `TransformProblem`
before anything is returned.  The caller knows the names of tensor and file and puts them in front.
"""

from __future__ import annotations

from typing import Final

RULES: Final[dict[str, str]] = {
    "matrix": "a weight and its partners are matrices, rows by columns",
    "dtype": "every partner has the dtype that its format names",
    "shape": "the shapes of weight and partners fit together",
    "group-divides": "the group size divides the number of columns",
    "block-size": "a block has at least one row and one column",
    "bits": "codes are as wide as the format allows",
    "finite-weight": "weights are neither NaN nor infinite",
    "finite-scale": "scales are neither NaN nor infinite",
    "positive-scale": "a scale of a whole tensor is greater than zero",
    "overflow": "a finite value stays finite in the dtype it is stored in",
    "group-index": "a group index names a group that exists",
    "expert-rows": "a router has one row for each expert",
    "same-parts": "what is fused has the same dtype and shape, and what is split divides evenly",
    "shared-scale": "parts that are fused share the scale of the whole tensor",
}
"""Every rule, by the stable name that errors carry."""


class TransformProblem(ValueError):
    """Tensors that a rule forbids to transform.

    Args:
        rule: a key of `RULES`.
        part: which of the tensors is concerned, by its suffix, such as ``weight_scale``.
        expected: what the rule asks for.
        found: what is there instead.
    """

    def __init__(self, rule: str, part: str, *, expected: str, found: str) -> None:
        self.rule = rule
        self.part = part
        self.expected = expected
        self.found = found
        super().__init__(f"{part}: expected {expected}, found {found} (rule {rule}: {RULES[rule]})")
