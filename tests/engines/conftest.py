"""Lint in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from overlay import api
from overlay.engines.predicting import Prediction
from tests.engines.tiny import Tiny

Predict = Callable[..., Prediction]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def predict(tmp_path: Path) -> Predict:
    """What one engine does with a checkpoint, given as one or as the folder that it was written into."""
    written: list[Path] = []

    def call(what: Tiny | Path, engine: str, **options: int) -> Prediction:
        if isinstance(what, Tiny):
            written.append(what.write(tmp_path / f"checkpoint-{len(written)}"))
            what = written[-1]
        (prediction,) = api.lint(str(what), [engine], **options).predictions
        return prediction

    return call
