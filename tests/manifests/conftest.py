"""A Hub cache of replicas, and copies of the manifests that we publish."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.checkpoints import write_files

MANIFESTS = Path(__file__).parents[2] / "manifests"


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power; that fsync is called, and when, is what law 2 checks."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache."""
    folder = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with copies of the manifests and of the lists beside them, so that locks can be written there."""
    files = [path for path in MANIFESTS.iterdir() if path.suffix in (".yaml", ".json")]
    return write_files(tmp_path / "work", {path.name: path.read_bytes() for path in files})
