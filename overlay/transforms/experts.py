"""Keeping some of the experts of a layer: names renumbered, router rows and biases sliced.

Pruning an expert takes four changes that must agree: its tensors go, those of the later ones move up, the rows of the
router and its bias go, and the count in the config falls.  An engine that finds one of them missing fails, or loads a
layer whose router sends tokens to the wrong experts.  Source: Cerebras REAP, `src/reap/prune.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from overlay.transforms.dtypes import describe
from overlay.transforms.problems import TransformProblem

_EXPERT: Final = re.compile(r"(.*\.experts\.)(0|[1-9][0-9]*)(\..+)")
_ROUTER: Final = re.compile(r".*\.(?:gate|router)\.(?:weight|bias|e_score_correction_bias)")


@dataclass(frozen=True, slots=True)
class KeepList:
    """Which experts of a layer stay.

    Raises:
        TransformProblem: `kept` is empty, repeats an expert, is not in ascending order, or names one that is not there.
    """

    experts: int
    """How many experts the layer has now."""
    kept: tuple[int, ...]
    """The experts that stay, by their present numbers; the new number of each is its position here."""

    def __post_init__(self) -> None:
        expected = f"ascending numbers from 0 to {self.experts - 1}"
        if not self.kept:
            raise TransformProblem("keep-list", "keep list", expected=expected, found="none")
        for before, expert in zip((-1, *self.kept), self.kept, strict=False):
            if not before < expert < self.experts:
                found = f"{expert}" if before < 0 else f"{expert} after {before}"
                raise TransformProblem("keep-list", "keep list", expected=expected, found=found)

    def renumber(self, name: str) -> str | None:
        """The name that the tensor `name` gets; None if it belongs to an expert that goes.

        Only ``….experts.NUMBER.…`` names an expert: shared and fused experts keep their names.
        """
        match = _EXPERT.fullmatch(name)
        if match is None:
            return name
        prefix, number, suffix = match.groups()
        if int(number) >= self.experts:
            raise TransformProblem("keep-list", name, expected=f"an expert below {self.experts}", found=number)
        return f"{prefix}{self.kept.index(int(number))}{suffix}" if int(number) in self.kept else None

    def slice_rows(self, tensor: Tensor, part: str = "router") -> Tensor:
        """The rows of `tensor`, [experts, …], of the experts that stay: a router, its bias, or fused experts.

        Raises:
            TransformProblem: `tensor` does not have one row for each expert.
        """
        if tensor.dim() < 1 or tensor.shape[0] != self.experts:
            raise TransformProblem("expert-rows", part, expected=f"{self.experts} rows", found=describe(tensor))
        return tensor.index_select(0, torch.tensor(self.kept, device=tensor.device))

    def require_even_groups(self, n_group: int) -> None:
        """Each of the `n_group` routing groups keeps as many experts as the others (``n_group`` of the config).

        A router picks groups first, and takes experts ``i * len / n_group`` onwards for the i-th.

        Raises:
            TransformProblem: one of them does not.
        """
        if n_group < 1 or self.experts % n_group:
            found = f"{self.experts} experts in {n_group}"
            raise TransformProblem("expert-groups", "keep list", expected="groups of one size", found=found)
        counts = Counter(expert * n_group // self.experts for expert in self.kept)
        kept = [counts[group] for group in range(n_group)]
        if len(set(kept)) > 1:
            expected = f"{len(self.kept) / n_group:g} experts in each of {n_group} groups"
            raise TransformProblem("expert-groups", "keep list", expected=expected, found=str(kept))


def is_router(name: str) -> bool:
    """Whether the tensor `name` has one row an expert because it belongs to a router."""
    return _ROUTER.fullmatch(name) is not None
