"""Lint of the founding base at its real size, on sparse files."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay import api
from overlay.demo.layout import base_layout
from overlay.demo.replica import write_sparse


@pytest.mark.slow
def test_every_tensor_of_the_full_size_base_is_known(tmp_path: Path) -> None:
    write_sparse(base_layout(), tmp_path / "base")

    found = api.lint(str(tmp_path / "base"), ["vllm", "sglang"])

    assert [("ok", "refuses"), ("ok", "absent")] == [(one.target, one.draft) for one in found.predictions]
    codes = {said.finding.code for one in found.predictions for said in one.remarks}
    assert {"MTP001", "QNT016"} == codes
