"""How status, history and undo speak."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.bad_inputs.running import run_here
from tests.generations.world import GRAFTED, WITH_NOTES, World
from tests.support.checkpoints import manifest_text
from tests.support.commands import overlay


@pytest.fixture
def twice(world: World) -> World:
    """A target at generation 2, with 1 kept."""
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    return world


def test_status_as_json(twice: World) -> None:
    (twice.target / "config.json").write_text("{}")

    ended = overlay("status", twice.target, "--json")

    document = ended.document
    findings = document.pop("findings")
    expected = {
        "kind": "status",
        "format": 1,
        "target": str(twice.target),
        "state": ["modified"],
        "generation": 2,
        "generations": [1],
    }
    assert (1, expected) == (ended.code, document)
    assert {"code", "severity", "subject", "message", "hint", "file", "tensor"} == set(findings[0])


def test_history_as_json(twice: World) -> None:
    document = overlay("history", twice.target, "--json").document

    keys = {"generation", "current", "name", "tensors", "total_size", "state", "manifest_sha256"}
    assert {"kind", "format", "target", "generations"} == set(document)
    assert ("history", 1, str(twice.target)) == (document["kind"], document["format"], document["target"])
    assert [(1, False), (2, True)] == [(entry["generation"], entry["current"]) for entry in document["generations"]]
    assert all(keys == set(entry) for entry in document["generations"])


def test_history_of_a_deleted_target_marks_none_as_current(twice: World) -> None:
    twice.delete_target()

    document = overlay("history", twice.target, "--json").document

    assert [(1, False)] == [(entry["generation"], entry["current"]) for entry in document["generations"]]


def test_undo_as_json(twice: World) -> None:
    ended = overlay("undo", twice.target, "--json")

    document = ended.document
    assert {"kind", "format", "target", "receipt"} == set(document)
    assert (0, "undo", 1, 1) == (ended.code, document["kind"], document["format"], document["receipt"]["generation"])


def test_a_refusal_as_json(world: World) -> None:
    world.apply(GRAFTED)

    said = run_here(["undo", str(world.target), "--json"])

    assert 4 == said.code
    assert said.out.startswith('{"kind": "error", "format": 1, "error": {"kind": "conflict"')


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["status"], "clean"), (["history"], "2"), (["undo"], "1"), (["undo", "--to", "1"], "1")],
)
def test_quiet_is_one_word(twice: World, arguments: list[str], expected: str) -> None:
    assert f"{expected}\n" == overlay(*arguments, twice.target, "-q").output


def test_quiet_status_names_every_state(twice: World) -> None:
    (twice.target / "config.json").write_text("{}")
    (twice.root / "base" / "model-00001-of-00002.safetensors").unlink()

    ended = overlay("status", twice.target, "-q")

    assert (1, "modified, dangling\n") == (ended.code, ended.output)


def test_the_words_for_people(twice: World) -> None:
    assert f"clean: {twice.target} (generation 2, kept: 1)\n" == overlay("status", twice.target).output
    lines = overlay("history", twice.target).output.splitlines()
    assert [" ", "*"] == [line[2] for line in lines]
    assert all(re.search(r"tiny-mtp  7 tensors  total_size \d+  state [0-9a-f]{12}  manifest", line) for line in lines)
    undone = overlay("undo", twice.target).output
    assert f"{twice.target}: generation 1 (tiny-mtp), 7 tensors\n" == undone
    assert f"clean: {twice.target} (generation 1, kept: 2)\n" == overlay("status", twice.target).output


def test_a_finding_and_its_hint_are_lines_of_their_own(twice: World) -> None:
    (twice.target / "mine.txt").write_text("x")

    lines = overlay("status", twice.target).output.splitlines()

    assert f"modified: {twice.target} (generation 2, kept: 1)" == lines[0]
    assert "error: LCK003 mine.txt: expected only files of the receipt, found one more" == lines[1]
    assert lines[2].startswith("  hint: ")


def test_names_that_would_move_the_cursor_are_escaped(tmp_path: Path) -> None:
    hostile = "a\n\x1b[31mb\u202ec"
    world = World(tmp_path / "hostile")
    world.target = world.out / hostile
    world.manifest.write_text(manifest_text())
    world.apply({"name": "x"})
    world.apply(WITH_NOTES)
    (world.target / f"mine-{hostile}").write_text("x")

    for arguments in (["status"], ["history"], ["undo"], ["undo", "--to", "2"], ["undo", "--force", "--to", "2"]):
        said = run_here([*arguments, str(world.target)])

        assert not re.search("[\x1b\u202e]", said.out + said.err), arguments
        shown = os.fspath(world.target).replace(hostile, "a\\n\\x1b[31mb\\u202ec")
        assert shown in said.out + said.err or arguments == ["history"]
