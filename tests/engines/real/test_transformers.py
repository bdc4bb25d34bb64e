"""The part of the matrix that needs nothing but the development environment: transformers, on the shallowest family."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.real.bases import FAMILIES
from tests.engines.real.matrix import Behaviour, Case, behaviours, predictions, run_engine, write_cases

FAMILY = FAMILIES["glm4_moe"]
EXPECTED = {
    "assembled": ("ok", "ok"),
    "no draft layer": ("ok", "refuses"),
    "eh_proj missing": ("ok", "refuses"),
    "one expert missing": ("ok", "refuses"),
    "unknown weight": ("ok", "ok"),
    "layer number too high": ("ok", "refuses"),
    "stale copy in a later shard": ("ok", "wrong"),
    "stale copy of a base tensor in the graft": ("wrong", "ok"),
    "index metadata missing": ("refuses", "refuses"),
    "graft listed and missing": ("refuses", "refuses"),
    "model.safetensors beside the index": ("wrong", "refuses"),
    "base: norm missing": ("wrong", "ok"),
    "base: one expert missing": ("refuses", "refuses"),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    names = {*EXPECTED, "draft in the keys of transformers"}
    written = write_cases(FAMILY, "bf16", tmp_path_factory.mktemp("matrix"), only=names)
    return {case.variant: case for case in written}


@pytest.fixture(scope="module")
def real(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Behaviour]:
    every = list(cases.values())
    return behaviours(every, run_engine("transformers", every, tmp_path_factory.mktemp("work")))


@pytest.fixture(autouse=True)
def own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path))


@pytest.mark.parametrize("variant", EXPECTED)
def test_transformers_does_what_is_written_here_and_lint_predicts_it(
    cases: dict[str, Case], real: dict[str, Behaviour], variant: str
) -> None:
    did = real[variant]

    predicted = predictions(cases[variant], engines=("transformers",))["transformers"]

    assert (did.target, did.draft) == EXPECTED[variant], did.errors
    assert (predicted.target, predicted.draft) == EXPECTED[variant], predicted.errors
