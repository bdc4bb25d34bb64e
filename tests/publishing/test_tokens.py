"""A publish whose token cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import build, publish, seed


@pytest.mark.parametrize("token", ["hf_\u00fcnicode", "hf_nul\x7fbyte"])
def test_a_token_that_cannot_be_sent_is_one_line_and_not_shown(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    seed(hub)
    built = build(tmp_path)
    hub.log.clear()
    monkeypatch.setenv("HF_TOKEN", token)

    ended = publish(built)

    assert 5 == ended.code
    assert ended.refusal is not None
    assert "HF_TOKEN: expected a token of plain characters, found others" == ended.refusal.line
    assert 0 == len(hub.log)
