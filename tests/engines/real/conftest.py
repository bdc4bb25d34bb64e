"""What the engines really do, once a session for each base, and what lint says of the same directories."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engines.real.bases import FAMILIES
from tests.engines.real.matrix import ENGINES, VENV, Behaviour, Case, behaviours, run_engine, why_not, write_cases


@dataclass(frozen=True)
class Ran:
    """All variants of one base, and what each engine did with them."""

    cases: dict[str, Case]
    happened: dict[str, dict[Path, Any]]
    """By engine, then by folder: as the runner wrote it."""

    @functools.cached_property
    def real(self) -> dict[str, dict[str, Behaviour]]:
        """By engine, then by variant."""
        return {engine: behaviours(list(self.cases.values()), seen) for engine, seen in self.happened.items()}


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Ran]:
    """Every variant of a family in a scheme, loaded by every engine, when it is first asked for."""
    if reason := why_not(VENV):
        pytest.skip(reason)
    work = tmp_path_factory.mktemp("engines")

    @functools.cache
    def run(family: str, scheme: str) -> Ran:
        cases = write_cases(FAMILIES[family], scheme, work)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            seen = pool.map(lambda engine: run_engine(engine, cases, work), ENGINES)
        return Ran({case.variant: case for case in cases}, dict(zip(ENGINES, seen, strict=True)))

    return run


@pytest.fixture(scope="session", autouse=True)
def session_memory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What lint remembers stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERLAY_CACHE", str(tmp_path_factory.mktemp("memory")))
        yield
