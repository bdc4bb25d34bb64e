"""The real Hub, for those who have it: ``pytest -m network``.  Everything else here runs against the loopback one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import overlay

REPO = "HuggingFaceTB/SmolLM2-135M"
"""Public, one shard of 269 MB, not expected to go away."""

pytestmark = pytest.mark.network


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_headers_of_a_public_repository_are_read_without_its_weights(private_caches: Path) -> None:
    ended = overlay("inspect", f"hf://{REPO}", "--json")

    assert ended.code == 0
    held = sum(path.stat().st_size for path in private_caches.rglob("*") if path.is_file())
    assert held < 20_000_000


def test_a_repository_that_is_not_there_ends_with_5() -> None:
    assert overlay("inspect", "hf://HuggingFaceTB/there-is-no-such-model").code == 5
