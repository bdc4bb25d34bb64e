"""What tests of building share: a folder with donor, target and manifest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.demo.replica import write_dense
from tests.building.donors import draft_donor, manifest_text, target_sidecars
from tests.support.checkpoints import write_files


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power; that fsync is called, and when, is what law 2 checks."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with ``donor``, the small files of ``target``, and ``draft.yaml``, a standalone draft made of them."""
    write_dense(draft_donor(), tmp_path / "donor", 1)
    write_files(tmp_path / "target", target_sidecars(8))
    (tmp_path / "draft.yaml").write_text(manifest_text())
    return tmp_path
