"""Law 3: applying twice is applying once, and a second plan is empty."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import api
from overlay.storage.linking import LinkMode
from tests.support.checkpoints import Case, contents_of, inodes_of, overlays

LINKS: tuple[LinkMode, ...] = ("auto", "symlink", "hardlink", "copy")
_cases = given(case=overlays(), link=st.sampled_from(LINKS), locked=st.booleans())


def _check(case: Case, link: LinkMode, locked: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        request, target = api.Request(sources=(str(case.write(root)),)), f"{root}/serve"
        if locked:
            api.lock(str(request.sources[0]))
        first = api.apply(request, target, link=link)
        inodes = inodes_of(target)

        plan = api.plan(request, target, link=link)
        second = api.apply(request, target, link=link)

        assert plan.actions == ()
        assert (True, False) == (first.changed, second.changed)
        assert first.receipt == second.receipt
        assert inodes_of(target) == inodes


def _check_elsewhere(case: Case, link: LinkMode) -> None:
    with tempfile.TemporaryDirectory() as root:
        request = api.Request(sources=(str(case.write(root)),))

        for name in ("one", "other"):
            api.apply(request, f"{root}/{name}", link=link)

        assert contents_of(f"{root}/one") == contents_of(f"{root}/other")


@_cases
@settings(max_examples=20, deadline=None)
def test_applying_twice_changes_nothing_the_second_time(case: Case, link: LinkMode, locked: bool) -> None:
    _check(case, link, locked)


@given(case=overlays(), link=st.sampled_from(LINKS))
@settings(max_examples=10, deadline=None)
def test_two_targets_of_one_manifest_are_equal(case: Case, link: LinkMode) -> None:
    _check_elsewhere(case, link)


@pytest.mark.slow
@_cases
@settings(max_examples=500, deadline=None)
def test_applying_twice_changes_nothing_the_second_time_at_full_depth(case: Case, link: LinkMode, locked: bool) -> None:
    _check(case, link, locked)
