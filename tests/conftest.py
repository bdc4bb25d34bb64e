"""What every test shares: the user's caches are out of reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The default run tries the same examples every time, so that it passes here when it passes there; `make test-slow` draws
# new ones, through HYPOTHESIS_RANDOM=1.
settings.register_profile("same", derandomize=True, deadline=None)
if not os.environ.get("HYPOTHESIS_RANDOM"):
    settings.load_profile("same")


@pytest.fixture(autouse=True)
def private_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of overlay's and one of the Hub's, both new and empty."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("OVERLAY_CACHE", str(folder / "overlay"))
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return folder
