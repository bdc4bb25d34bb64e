"""Fixtures: tiny checkpoints that other libraries wrote, and the real command line.

A checkpoint is built once a session, because the writing library is slow to import; nothing in a test may change it.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

# Both are read when huggingface_hub is first imported, which any test of this folder may be the first to do.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from tests.oracles.checkpoints import Family, Pair, families, write_pair


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    document: Any
    """The JSON document on stdout."""
    errors: str


@dataclass(frozen=True)
class CommandLine:
    """The installed command, in a process of its own and with a memory of its own."""

    cache: Path

    def __call__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "overlay", *map(str, arguments), "--json"],
            env={**os.environ, "OVERLAY_CACHE": str(self.cache), **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Ran(done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr)


@dataclass(frozen=True)
class Assembled:
    """A pair of checkpoints that the command line put together."""

    pair: Pair
    manifest: Path
    target: Path
    locked: Ran
    applied: Ran
    verified: Ran


@pytest.fixture(scope="session", autouse=True)
def session_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of a session hash stays out of the user's cache; each test has a memory of its own besides."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERLAY_CACHE", str(tmp_path_factory.mktemp("session-memory")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of a few hundred elements: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def overlay(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "overlay-cache")


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], Pair]:
    """The pair of a family, written when it is first asked for."""
    return functools.cache(lambda family: write_pair(family, tmp_path_factory.mktemp(family.name)))


@pytest.fixture(scope="session", params=families(), ids=lambda family: family.name)
def pair(request: pytest.FixtureRequest, write: Callable[[Family], Pair]) -> Pair:
    return write(request.param)


@pytest.fixture(scope="session", params=[f for f in families() if f.drafts], ids=lambda family: family.name)
def drafting(request: pytest.FixtureRequest, assemble: Callable[[Family], Assembled]) -> Assembled:
    """A family whose draft layer the library can not only load but run."""
    return assemble(request.param)


@pytest.fixture(scope="session")
def glm4_moe(write: Callable[[Family], Pair]) -> Pair:
    """The shallowest family, for what does not depend on the family."""
    return write(families()[0])


@pytest.fixture(scope="session")
def assemble(
    write: Callable[[Family], Pair], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Family], Assembled]:
    """Lock, apply and verify the pair of a family, once."""

    @functools.cache
    def run(family: Family) -> Assembled:
        pair = write(family)
        folder = tmp_path_factory.mktemp(f"{family.name}-work")
        manifest, target = pair.write_manifest(folder), folder / "serve"
        overlay = CommandLine(folder / "overlay-cache")
        return Assembled(
            pair=pair,
            manifest=manifest,
            target=target,
            locked=overlay("lock", manifest, "--level", "headers"),
            applied=overlay("apply", manifest, "-o", target),
            verified=overlay("verify", target, "--level", "content"),
        )

    return run


@pytest.fixture(scope="session")
def assembled(pair: Pair, assemble: Callable[[Family], Assembled]) -> Assembled:
    return assemble(pair.family)
