"""Keep lists: names, router rows and groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overlay.transforms import (
    KeepList,
    TransformProblem,
    fuse_experts,
    fuse_rows,
    fuse_shared,
    is_router,
    split_experts,
    split_rows,
)


def test_experts_move_up_and_the_others_go() -> None:
    keep = KeepList(8, (0, 3, 7))
    layer = "model.layers.78.mlp"

    assert f"{layer}.experts.1.up_proj.weight_packed" == keep.renumber(f"{layer}.experts.3.up_proj.weight_packed")
    assert f"{layer}.experts.2.down_proj.weight" == keep.renumber(f"{layer}.experts.7.down_proj.weight")
    assert keep.renumber(f"{layer}.experts.1.gate_proj.weight") is None


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.78.mlp.shared_experts.up_proj.weight",
        "model.layers.78.mlp.experts.gate_up_proj",
        "model.layers.78.mlp.gate.weight",
        "model.layers.3.self_attn.q_proj.weight",
    ],
)
def test_other_names_stay(name: str) -> None:
    assert name == KeepList(8, (1,)).renumber(name)


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_names_and_rows_agree(case: tuple[int, set[int]]) -> None:
    experts, kept = case
    keep = KeepList(experts, tuple(sorted(kept)))
    router = torch.arange(experts * 3).view(experts, 3)

    names = {keep.renumber(f"mlp.experts.{old}.w"): old for old in range(experts)}
    rows = keep.slice_rows(router)

    names.pop(None, None)
    assert [f"mlp.experts.{new}.w" for new in range(len(kept))] == list(names)
    assert all(torch.equal(router[old], rows[new]) for new, old in enumerate(names.values()))


def test_bias_and_fused_experts_are_sliced_too() -> None:
    keep = KeepList(4, (1, 2))

    assert [1.0, 2.0] == keep.slice_rows(torch.arange(4.0)).tolist()
    assert (2, 5, 6) == keep.slice_rows(torch.zeros(4, 5, 6)).shape
    assert [True] * 5 == [
        is_router(f"model.layers.1.mlp.{name}")
        for name in ("gate.weight", "gate.e_score_correction_bias", "router.weight", "router.bias", "gate.bias")
    ]
    assert not any(map(is_router, ("a.gate_proj.weight", "a.gate.weight_scale", "gate.weight", "a.gate_up.weight")))


@pytest.mark.parametrize("kept", [(), (1, 1), (2, 1), (-1,), (8,), (0, 8), (0, 3, 2)])
def test_bad_keep_lists(kept: tuple[int, ...]) -> None:
    with pytest.raises(TransformProblem) as caught:
        KeepList(8, kept)

    assert "keep-list" == caught.value.rule


def test_a_router_with_another_number_of_rows() -> None:
    for bad in (torch.zeros(7, 3), torch.tensor(1.0)):
        with pytest.raises(TransformProblem, match="expert-rows"):
            KeepList(8, (0,)).slice_rows(bad)


def test_an_expert_beyond_the_layer() -> None:
    with pytest.raises(TransformProblem, match=r"expected an expert below 8, found 8"):
        KeepList(8, (0,)).renumber("mlp.experts.8.up_proj.weight")


def test_routing_groups_keep_the_same_number() -> None:
    KeepList(8, (0, 3, 4, 6)).require_even_groups(2)
    KeepList(8, (0, 3, 5)).require_even_groups(1)
    for kept, groups in (((0, 1, 2, 4), 2), ((0, 1), 2), ((0, 4), 3)):
        with pytest.raises(TransformProblem, match="expert-groups"):
            KeepList(8, kept).require_even_groups(groups)


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
