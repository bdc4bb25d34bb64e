"""Looking at checkpoints: nothing here cuts the power, so that flushing would only cost time."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave fsync out."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
