"""Law 7: the same inputs give the same plan, index, lock and graft shard, to the byte."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from overlay import api
from tests.support.checkpoints import INDEX, Case, overlays
from tests.support.commands import overlay


def _check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as root:
        one, other = Path(root, "one"), Path(root, "elsewhere", "other")
        case.write(one)
        shutil.copytree(one, other)  # keeps the times of change, which are part of a plan's state

        made = [_make(folder) for folder in (one, other)]

        assert made[0] == made[1]


def _make(folder: Path) -> dict[str, Any]:
    """Lock, plan and apply in `folder`: what must not depend on where that is."""
    manifest, target = folder / "overlay.yaml", folder / "serve"
    api.lock(str(manifest))
    plan = overlay("plan", manifest, "-o", target, "--json")
    api.apply(api.Request(sources=(str(manifest),)), str(target))
    built = {path.name: path.read_bytes() for path in target.glob("graft-*.safetensors") if not path.is_symlink()}
    index = target / INDEX
    return {
        "lock": (folder / "overlay.lock.json").read_bytes(),
        "plan": _without_place(plan.document, folder),
        "index": index.read_bytes() if index.exists() else None,
        "built": built,
    }


def _without_place(document: dict[str, Any], folder: Path) -> str:
    """A plan's text without the folder; `state` is a digest that binds in where links lead."""
    del document["plan"]["state"]
    return json.dumps(document).replace(json.dumps(str(folder))[1:-1], "FOLDER")


@given(case=overlays())
@settings(max_examples=15, deadline=None)
def test_the_same_inputs_in_two_folders_give_the_same_bytes(case: Case) -> None:
    _check(case)


@given(case=overlays())
@settings(max_examples=10, deadline=None)
def test_the_same_inputs_give_the_same_plan_and_lock_again(case: Case) -> None:
    with tempfile.TemporaryDirectory() as root:
        manifest, lock = case.write(root), Path(root, "overlay.lock.json")
        command = ("plan", manifest, "-o", f"{root}/serve", "--json")

        plans = [overlay(*command).output for _ in range(2)]
        locks = []
        for _ in range(2):
            lock.unlink(missing_ok=True)
            api.lock(str(manifest))
            locks.append(lock.read_bytes())

        assert plans[0] == plans[1]
        assert locks[0] == locks[1]


@pytest.mark.slow
@given(case=overlays())
@settings(max_examples=400, deadline=None)
def test_the_same_inputs_in_two_folders_give_the_same_bytes_at_full_depth(case: Case) -> None:
    _check(case)
