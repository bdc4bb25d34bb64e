"""Nothing here cuts the power, so that flushing would only cost time."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave fsync out; that it is called, and when, is what law 2 checks."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
