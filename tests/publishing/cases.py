"""A base and a donor on the hub, and the repository of the difference that is to be published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.fixtures import apply, environment
from tests.support.checkpoints import Checkpoint, donor, manifest_text, sharded
from tests.support.commands import Ended, overlay

BASE, DONOR, REPO = "org/base", "org/donor", "tester/result"
BASE_CARD = b"---\nlicense: mit\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n# Base\n"
DONOR_CARD = b"---\nlicense: apache-2.0\n---\n# Donor\n"
SHARD = "model-00003-of-00003.safetensors"
PATCH = [{"op": "add", "path": "/num_nextn_predict_layers", "value": 1}]


def seed(hub: LoopbackHub, base: Checkpoint | None = None) -> None:
    """Base and donor, each with its card."""
    hub.seed(BASE, {**(base or sharded()).files(), "README.md": BASE_CARD, ".gitattributes": b"* text\n"})
    hub.seed(DONOR, {**donor().files(), "README.md": DONOR_CARD})


def manifest(**changes: Any) -> str:
    """Grafts layer 2 of the donor on the base, and says so in the config."""
    value = {
        "base": f"hf://{BASE}@main",
        "donors": {"bf16": f"hf://{DONOR}"},
        "license": "mit",
        "summary": "Adds layer 2.",
        "files": {"config.json": {"patch": PATCH}},
        **changes,
    }
    return manifest_text(**value)


def build(folder: Path, **changes: Any) -> Path:
    """The repository of `manifest`, in ``folder/built``."""
    (folder / "tiny.yaml").write_text(manifest(**changes))
    ended = overlay("build", folder / "tiny.yaml", "-o", folder / "built")
    assert 0 == ended.code, (ended.refusal, ended.output)
    return folder / "built"


def publish(folder: Path, repo: str = f"hf://{REPO}", *options: str) -> Ended:
    """``overlay publish --json``."""
    return overlay("publish", folder, repo, "--json", *options)


def codes(ended: Ended) -> set[str]:
    """Codes of the errors among the findings."""
    assert ended.refusal is None, (ended.refusal.line, ended.refusal.hint)
    return {finding["code"] for finding in ended.document["findings"] if finding["severity"] == "error"}


def published(ended: Ended) -> dict[str, Any]:
    """The document of a publish that did not fail."""
    assert ended.refusal is None, (ended.refusal.line, ended.refusal.others)
    assert 0 == ended.code, ended.document["findings"]
    return ended.document


def done(ended: Ended, do: str) -> list[str]:
    """Files to which this was done."""
    return [entry["path"] for entry in published(ended)["plan"]["operations"] if entry["do"] == do]


def lock_in(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "overlay.lock.json").read_bytes())
    return document


@contextmanager
def world(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub with base and donor, the folder ``built`` that can be published to it, and ``unfit``, which cannot."""
    folder.mkdir()
    with LoopbackHub(folder / "served") as hub:
        apply(patch, environment(hub, folder))
        seed(hub)
        shutil.copytree(build(folder), folder / "unfit")
        (folder / "unfit" / ".env").write_text("KEY=1\n")
        yield hub
