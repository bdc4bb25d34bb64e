"""A target, its inputs, and the verbs on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.running.applying import Applied
from overlay.storage import proofs
from tests.support.checkpoints import GRAFT_SHARD, manifest_text, snapshot_of, write_graft

LAYER = "model.layers.2.**"


@dataclass
class World:
    """A folder with inputs in it, and the verbs on its target."""

    root: Path
    base_may_change: bool = False

    @property
    def target(self) -> Path:
        return self.root / "out" / "serve"

    @property
    def history(self) -> Path:
        return self.root / "out" / ".serve.overlay-generations"

    @property
    def graft(self) -> Path:
        return self.target / GRAFT_SHARD

    def request(self, name: str, tensors: str = LAYER) -> api.Request:
        """The manifest `name`, which is the others with another text for a sidecar."""
        (self.root / f"{name}.txt").write_text(f"{name}\n")
        path = self.root / f"{name}.yaml"
        grafts = [{"shard": GRAFT_SHARD, "from": "bf16", "tensors": [tensors]}]
        path.write_text(manifest_text(name=name, grafts=grafts, files={"notes.txt": {"from": f"{name}.txt"}}))
        return api.Request(sources=(str(path),))

    def apply(self, name: str, tensors: str = LAYER, **options: Any) -> Applied:
        return api.apply(self.request(name, tensors), str(self.target), **options)

    def undo(self, **options: Any) -> int:
        return api.undo(str(self.target), **options).generation.number

    def status(self) -> tuple[list[str], set[tuple[str, str]]]:
        """The state words, and the findings as (code, file)."""
        status = api.status(str(self.target))
        return [state.value for state in status.states], {(finding.code, finding.file) for finding in status.findings}

    def numbers(self) -> list[int]:
        return [generation.number for generation in api.history(str(self.target))]

    def current(self) -> int | None:
        return next((generation.number for generation in api.history(str(self.target)) if generation.current), None)

    def kept(self) -> list[str]:
        return sorted(os.listdir(self.history)) if self.history.exists() else []

    def left_over(self) -> set[str]:
        """What lies beside the target that no finished run leaves."""
        return set(os.listdir(self.target.parent)) - {"serve", ".serve.overlay.lock", ".serve.overlay-generations"}

    def tree(self) -> dict[str, tuple[Any, ...]]:
        """The target as it is: modes, links, bytes, and the files' times of change; folders have no lasting ones."""
        return tree_at(self.target)


def tree_at(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything in `folder` by relative name."""
    return {
        os.path.relpath(path, folder): (seen.mode, seen.link, seen.data, 0 if os.path.isdir(path) else seen.mtime_ns)
        for path, seen in snapshot_of(folder).items()
    }


def flip(path: Path) -> None:
    """Change the last byte of a file in place."""
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing here cuts the power
    monkeypatch.setattr(proofs, "_SETTLING_NS", 0)  # nothing here changes a file within the tick that it was hashed in
    write_graft(tmp_path)
    (tmp_path / "out").mkdir()
    made = World(tmp_path)
    inputs = tmp_path / "base", tmp_path / "donor"
    before = snapshot_of(*inputs)
    yield made
    if not made.base_may_change:
        assert snapshot_of(*inputs) == before
