"""Generations of one small target; nothing here cuts the power, so that flushing would only cost time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.storage import proofs
from tests.generations.world import World


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave fsync out, and do not wait for the clock: every change here also changes a size or a time by itself."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(proofs, "_SETTLING_NS", 0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")
