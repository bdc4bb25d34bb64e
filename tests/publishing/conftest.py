"""What tests of publishing share: a hub with base and donor, and a repository that was built over them."""

from __future__ import annotations

import os

import pytest

from tests.loopback_hub.fixtures import hub, xet_hub

__all__ = ["hub", "xet_hub"]


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
