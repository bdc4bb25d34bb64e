"""Law 8: an index that nothing was added to keeps its bytes; a changed one differs only in what was changed."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings

from overlay import api
from tests.support.checkpoints import INDEX, Case, overlays


def _check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as root:
        request, target = api.Request(sources=(str(case.write(root)),)), Path(root, "serve")
        api.apply(request, str(target))
        before = Path(root, "base", INDEX).read_text()
        after = (target / INDEX).read_text()

        assert {"metadata": _expected_metadata(case, before), "weight_map": case.weight_map} == json.loads(after)
        assert case.added == _inserted(before, _with_sizes_of(after, before))


def _expected_metadata(case: Case, before: str) -> dict[str, object]:
    metadata: dict[str, object] = json.loads(before)["metadata"]
    if case.added:
        metadata["total_size"] = case.base.total_size + case.added_bytes
        if "total_parameters" in metadata:
            added = sum(entry.elements for graft in case.grafts for entry in graft.tensors)
            metadata["total_parameters"] = case.base.total_parameters + added
    return metadata


def _with_sizes_of(text: str, model: str) -> str:
    """`text` with the total size and parameters that `model` states."""
    for key in ("total_size", "total_parameters"):
        pattern = rf'("{key}":\s*)(\d+)'
        stated = re.search(pattern, model)
        if stated is not None:
            text = re.sub(pattern, lambda found, value=stated[2]: found[1] + value, text)  # type: ignore[misc]
    return text


def _inserted(before: str, after: str) -> dict[str, str]:
    """The members that `after` has in one place more than `before`; all other text must be the same."""
    start = next((at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before))
    rest = len(before) - start
    assert before[start:] == after[len(after) - rest :]
    inserted = after[start : len(after) - rest]
    assert inserted[:1] in ("", ",")
    members: dict[str, str] = json.loads("{" + inserted[1:] + "}")
    return members


@given(case=overlays())
@settings(max_examples=40, deadline=None)
def test_an_index_differs_only_in_the_members_that_were_added_and_the_sizes(case: Case) -> None:
    assume(case.base.index is not None)
    _check(case)


@pytest.mark.slow
@given(case=overlays())
@settings(max_examples=1000, deadline=None)
def test_an_index_differs_only_in_the_members_that_were_added_and_the_sizes_at_full_depth(case: Case) -> None:
    assume(case.base.index is not None)
    _check(case)


def test_the_check_sees_a_changed_blank() -> None:
    with pytest.raises(AssertionError):
        _inserted('{"a": "b",\n "c": "d"}', '{"a": "b", "c": "d", "e": "f"}')
