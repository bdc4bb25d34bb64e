"""The small world of `tests.bad_inputs`, with the working directory in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_inputs.world import World, build


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    return build(tmp_path / "w")
