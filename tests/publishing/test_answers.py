"""Answers to a publish that are none: a line and a hint, and the next run finishes the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loopback_hub import LoopbackHub, faults
from tests.loopback_hub.faults import Fault, Where
from tests.publishing.cases import REPO, build, publish, published, seed

PAGE = faults.html_page()
NO_ANSWERS = {
    "head": (f"/api/models/{REPO}", PAGE),
    "head without a word": (f"/api/models/{REPO}", faults.edited(lambda document: [])),
    "create": ("/api/repos/create", PAGE),
    "card": ("/api/validate-yaml", PAGE),
    "preupload": ("*/preupload/*", PAGE),
    "commit": ("*/commit/*", PAGE),
}


@pytest.mark.parametrize(("path", "fault"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_a_page_instead_of_an_answer_is_one_line(hub: LoopbackHub, tmp_path: Path, path: str, fault: Fault) -> None:
    seed(hub)
    built = build(tmp_path)
    if "head" in path or path.endswith(REPO):
        hub.seed(REPO, {"README.md": b"# Before\n"})
    with hub.failing(faults.when(Where(path=path), fault)):
        ended = publish(built)

    assert 5 == ended.code
    assert ended.refusal is not None
    assert f"hf://{REPO}: expected" in ended.refusal.line
    assert "\n" not in ended.refusal.line
    assert ended.refusal.hint
    assert published(publish(built))["commit"]


def test_a_repository_that_has_to_be_paid_for_says_so(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    with hub.failing(faults.when(Where(path="/api/repos/create"), faults.refused(402, "Storage limit reached"))):
        ended = publish(built)

    assert 5 == ended.code
    assert ended.refusal is not None
    assert "status 402 (Storage limit reached)" in ended.refusal.line
    assert ended.refusal.hint.endswith("/settings/billing")
