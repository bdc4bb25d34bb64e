"""Several overlays: in any order that does not matter, and on whatever their base is, they come to the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import api
from tests.support.changes import Stack, after_all, described_by, sidecars_of, stacks
from tests.support.checkpoints import contents_of, read_tensors, snapshot_of


def _check_order(stack: Stack, other: list[int]) -> None:
    with tempfile.TemporaryDirectory() as root:
        manifests = [str(path) for path in stack.write(root)]
        orders = [manifests, [manifests[place] for place in other if place < len(manifests)]]

        plans = [api.plan(api.Request(sources=tuple(order)), f"{root}/serve").document() for order in orders]
        for number, order in enumerate(orders):
            api.apply(api.Request(sources=tuple(order)), f"{root}/{number}", link="copy")

        assert plans[0] == plans[1]
        assert contents_of(f"{root}/0") == contents_of(f"{root}/1")


def _check_directory_as_base(stack: Stack) -> None:
    """What stands on a directory that the overlays below were applied to is what stands on their manifest."""
    with tempfile.TemporaryDirectory() as root:
        manifests = stack.write(root)
        api.apply(api.Request(sources=tuple(map(str, manifests))), f"{root}/whole")
        if stack.below:
            api.apply(api.Request(sources=(f"{root}/{stack.below[-1].name}.yaml",)), f"{root}/applied")
            for overlay in stack.tops:
                overlay.write(root, "applied")
        before = snapshot_of(*(path for path in (Path(root, "applied"), Path(root, "base")) if path.exists()))

        api.apply(api.Request(sources=tuple(map(str, manifests))), f"{root}/serve")

        assert before == snapshot_of(*(path for path in (Path(root, "applied"), Path(root, "base")) if path.exists()))
        held = {name: entry for name, (_, entry) in read_tensors(f"{root}/serve").items()}
        assert stack.model.tensors == held
        assert dict(stack.model.files) == sidecars_of(f"{root}/serve")
        assert {name: entry for name, (_, entry) in read_tensors(f"{root}/whole").items()} == held


def _check_one_by_one(stack: Stack) -> None:
    """Independent overlays side by side come to what each on the one before comes to."""
    with tempfile.TemporaryDirectory() as root:
        manifests = stack.write(root)
        api.apply(api.Request(sources=tuple(map(str, manifests))), f"{root}/together")
        ordered = sorted(stack.tops, key=lambda overlay: overlay.name)
        below = stack.below[-1].name + ".yaml" if stack.below else "base"
        for overlay in ordered:
            below = overlay.write(root, below).name
        steps = [after_all(stack.start, [*stack.below, *ordered[:count]]) for count in range(len(ordered))]
        met = [
            described_by(d.pattern, step.tensors) - d.names
            for o, step in zip(ordered, steps, strict=True)
            for d in o.drops
        ]
        if any(met) or not all(step.shards for step in steps):
            return  # a pattern that describes what another overlay adds is not independent of it

        api.apply(api.Request(sources=(f"{root}/{below}",)), f"{root}/chained")

        names = {"receipt": ".overlay/receipt.json"}
        together, chained = (contents_of(f"{root}/{name}") or {} for name in ("together", "chained"))
        assert {n: c for n, c in together.items() if n not in names.values()} == {
            n: c for n, c in chained.items() if n not in names.values()
        }


@given(stack=stacks(), other=st.permutations(range(3)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_independent_manifests_does_not_matter(stack: Stack, other: list[int]) -> None:
    _check_order(stack, other)


@given(stack=stacks())
@settings(max_examples=15, deadline=None)
def test_a_base_may_be_a_manifest_or_the_directory_that_it_was_applied_to(stack: Stack) -> None:
    _check_directory_as_base(stack)


@given(stack=stacks())
@settings(max_examples=10, deadline=None)
def test_overlays_side_by_side_come_to_what_they_come_to_one_on_the_other(stack: Stack) -> None:
    _check_one_by_one(stack)


@given(stack=stacks(tops=1))
@settings(max_examples=10, deadline=None)
def test_a_manifest_that_another_stands_on_may_be_named_as_well(stack: Stack) -> None:
    with tempfile.TemporaryDirectory() as root:
        manifests = stack.write(root)
        lower = [f"{root}/{overlay.name}.yaml" for overlay in stack.below]

        one = api.plan(api.Request(sources=(*lower, str(manifests[0]))), f"{root}/serve")
        other = api.plan(api.Request(sources=(str(manifests[0]),)), f"{root}/serve")

        assert one == other


@given(stack=stacks(tops=1))
@settings(max_examples=12, deadline=None)
def test_two_locks_of_one_stack_are_equal_and_its_target_is_what_they_pin(stack: Stack) -> None:
    with tempfile.TemporaryDirectory() as root:
        (manifest,) = stack.write(root)
        lock = manifest.with_suffix(".lock.json")
        texts = []
        for _ in range(2):
            lock.unlink(missing_ok=True)
            api.lock(str(manifest))
            texts.append(lock.read_bytes())

        api.apply(api.Request(sources=(str(manifest),)), f"{root}/serve", level="content")
        verdict = api.verify(f"{root}/serve", level="content")

        assert texts[0] == texts[1]
        assert (True, (), len(stack.model.shards)) == (verdict.ok, verdict.uncompared, verdict.compared)
        assert api.verify(str(manifest), level="content").ok


_DEEP: list[Callable[[Stack], None]] = [_check_directory_as_base, _check_one_by_one]


@pytest.mark.slow
@pytest.mark.parametrize("check", _DEEP)
@given(stack=stacks())
@settings(max_examples=300, deadline=None)
def test_stacks_at_full_depth(check: Callable[[Stack], None], stack: Stack) -> None:
    check(stack)


@pytest.mark.slow
@given(stack=stacks(), other=st.permutations(range(3)))
@settings(max_examples=300, deadline=None)
def test_the_order_of_independent_manifests_does_not_matter_at_full_depth(stack: Stack, other: list[int]) -> None:
    _check_order(stack, other)
