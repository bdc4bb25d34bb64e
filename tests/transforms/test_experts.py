"""Keep lists: names, router rows and groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overlay.transforms import (
    TransformProblem,
    fuse_experts,
    fuse_rows,
    fuse_shared,
    keep_rows,
    split_experts,
    split_rows,
)


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=1))))
def test_rows_are_kept_in_the_order_asked_for(case: tuple[int, list[int]]) -> None:
    experts, kept = case
    router = torch.arange(experts * 3).view(experts, 3)

    assert router.tolist() == keep_rows(router, range(experts)).tolist()
    assert [router[old].tolist() for old in kept] == keep_rows(router, kept).tolist()


def test_bias_and_fused_experts_are_sliced_too() -> None:
    assert [1.0, 2.0] == keep_rows(torch.arange(4.0), (1, 2)).tolist()
    assert (2, 5, 6) == keep_rows(torch.zeros(4, 5, 6), (1, 2)).shape


@pytest.mark.parametrize("bad", [torch.zeros(7, 3), torch.tensor(1.0)], ids=["too few rows", "a scalar"])
@pytest.mark.parametrize("rows", [(7,), (0, -8)])
def test_a_router_without_a_row_for_an_expert(bad: torch.Tensor, rows: tuple[int, ...]) -> None:
    with pytest.raises(TransformProblem, match="expert-rows"):
        keep_rows(bad, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8, torch.float8_e4m3fn, torch.int32], ids=str)
@pytest.mark.parametrize("interleave", [False, True])
def test_fusing_and_splitting_are_inverse(dtype: torch.dtype, interleave: bool) -> None:
    gates, ups = ([torch.randint(0, 99, (4, 6)).to(torch.uint8).to(dtype) for _ in range(3)] for _ in range(2))

    fused = fuse_experts([fuse_rows(gate, up, interleave=interleave) for gate, up in zip(gates, ups, strict=True)])

    assert (3, 8, 6) == fused.shape
    for expert, gate, up in zip(split_experts(fused), gates, ups, strict=True):
        first, second = split_rows(expert, interleave=interleave)
        assert torch.equal(gate.view(torch.uint8), first.contiguous().view(torch.uint8))
        assert torch.equal(up.view(torch.uint8), second.contiguous().view(torch.uint8))


def test_gate_comes_first_and_interleaving_alternates() -> None:
    gate, up = torch.tensor([[1], [2]]), torch.tensor([[3], [4]])

    assert [1, 2, 3, 4] == fuse_rows(gate, up).flatten().tolist()
    assert [1, 3, 2, 4] == fuse_rows(gate, up, interleave=True).flatten().tolist()


def test_what_cannot_be_fused() -> None:
    one = torch.zeros(2, 2)
    for call, rule in (
        (lambda: fuse_rows(one, torch.zeros(2, 3)), "same-parts"),
        (lambda: fuse_rows(one, one.bfloat16()), "same-parts"),
        (lambda: fuse_rows(one[0], one[1]), "same-parts"),
        (lambda: fuse_experts([]), "same-parts"),
        (lambda: split_rows(torch.zeros(3, 2)), "same-parts"),
        (lambda: split_experts(torch.tensor(1)), "same-parts"),
        (lambda: fuse_shared("weight_scale_2", torch.tensor(1.0), torch.tensor(2.0)), "shared-scale"),
    ):
        with pytest.raises(TransformProblem) as caught:
            call()
        assert rule == caught.value.rule
    assert 1.0 == fuse_shared("weight_scale_2", torch.tensor(1.0), torch.tensor(1.0)).item()
