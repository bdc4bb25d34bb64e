"""The commands: words, documents and exit codes."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from overlay.cli import main
from tests.generations.conftest import World, flip


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main._run(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def _document(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = _run(capfd, *arguments, "--json")
    return code, json.loads(out)


def test_status_says_the_state_first_and_exits_0_only_when_clean(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    target = str(world.target)
    world.apply("a")
    world.apply("b")

    assert _run(capfd, "status", target) == (0, f"clean: {target} (generation 2; kept: 1)\n", "")
    assert _run(capfd, "status", "-q", target)[:2] == (0, "clean\n")
    flip(world.target / "config.json")
    code, out, _ = _run(capfd, "status", target)
    assert (code, out.splitlines()[0]) == (1, f"modified: {target} (generation 2; kept: 1)")
    assert out.splitlines()[1].startswith("error: LCK001 config.json: ")


def test_the_document_of_status(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.apply("a")

    assert _document(capfd, "status", str(world.target)) == (
        0,
        {
            "kind": "status",
            "format": 1,
            "target": str(world.target),
            "state": ["clean"],
            "generation": 1,
            "generations": [1],
            "findings": [],
        },
    )


def test_undo_says_what_came_back_and_what_is_kept(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    target = str(world.target)
    world.apply("a")
    world.apply("b")
    (world.target / "mine.txt").write_text("mine\n")

    code, out, _ = _run(capfd, "undo", target)

    assert code == 0
    assert out.splitlines() == [
        f"{target}: generation 1 is back (a, 7 tensors, total_size {world.apply('a').receipt.total_size})",
        f"generation 2 is kept: overlay undo {target} --to 2",
        "note: mine.txt, which overlay did not place, stays in generation 2",
    ]


def test_the_document_of_undo(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    receipt = world.apply("a").receipt.model_dump(mode="json")
    world.apply("b")

    assert _document(capfd, "undo", str(world.target), "--to", "1") == (
        0,
        {
            "kind": "undo",
            "format": 1,
            "target": str(world.target),
            "generation": 1,
            "replaced": 2,
            "left": [],
            "receipt": receipt,
            "findings": [],
        },
    )


def test_undo_without_a_generation_exits_4_with_a_hint(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.apply("a")

    code, out, err = _run(capfd, "undo", str(world.target))

    assert (code, out) == (4, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "hint"]


def test_history_lists_generations_and_marks_the_current_one(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    first = world.apply("a").receipt
    world.apply("b")

    code, out, _ = _run(capfd, "history", str(world.target))
    marks = [line.split()[0] for line in out.splitlines()[1:]]
    _, document = _document(capfd, "history", str(world.target))

    assert (code, marks) == (0, ["1", "*"])
    assert first.state[:12] in out
    assert document["current"] == 2
    assert document["generations"][0] == {
        "generation": 1,
        "current": False,
        "name": "a",
        "tensors": first.tensors,
        "total_size": first.total_size,
        "state": first.state,
        "manifest_sha256": first.manifest_sha256,
        "path": str(world.history / "000001"),
    }


def test_history_tells_a_lost_tree_from_one_whose_receipt_is_broken(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.apply("a")
    world.apply("b")
    receipt = world.target / ".overlay" / "receipt.json"
    receipt.write_text("{")
    _, broken, _ = _run(capfd, "history", str(world.target))
    world.target.rename(world.root / "elsewhere")
    _, lost, _ = _run(capfd, "history", str(world.target))

    assert "no receipt that can be read" in broken
    assert "overlay undo" not in broken
    assert "overlay undo" in lost


@pytest.mark.parametrize("verb", ["status", "undo", "history"])
def test_what_is_not_a_target_exits_3(world: World, capfd: pytest.CaptureFixture[str], verb: str) -> None:
    code, document = _document(capfd, verb, str(world.root / "base"))

    assert (code, document["kind"], document["error"]["kind"]) == (3, "error", "invalid")


@pytest.mark.parametrize("verb", ["status", "undo", "history"])
def test_help_says_what_is_read_and_written_and_how_it_exits(verb: str) -> None:
    command = main.cli.get_command(click.Context(main.cli), verb)

    assert command is not None
    text = command.get_help(click.Context(command, info_name=verb))
    assert all(word in text for word in ("Reads:", "Writes:", "Exits:", f"Example: overlay {verb} serve/"))
