"""What every test shares: the user's caches are out of reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.loopback_hub.fixtures"]

# The default run tries the same examples every time, so that it passes here when it passes there; `make test-slow` draws
# new ones, through HYPOTHESIS_RANDOM=1.
settings.register_profile("same", derandomize=True, deadline=None, max_examples=50)
if not os.environ.get("HYPOTHESIS_RANDOM"):
    settings.load_profile("same")


@pytest.fixture(autouse=True)
def private_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of overlay's and one of the Hub's, both new and empty; and no network."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("OVERLAY_CACHE", str(folder / "overlay"))
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the fixtures of tests.loopback_hub take it back
    return folder
