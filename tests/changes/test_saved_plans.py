"""`apply --plan FILE` carries out that very plan, or says what moved since it was saved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_inputs.running import Said, run_here
from tests.support import damage, small
from tests.support.checkpoints import snapshot_of
from tests.support.small import FIRST, NEW, SECOND

APPLY = ["apply", "small.yaml", "-o", "serve", "--plan", "plan.json"]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(*options: str) -> None:
    said = run_here(["plan", "small.yaml", "-o", "serve", "--json", *options])
    assert 0 == said.code, said
    Path("plan.json").write_text(said.out)


def refused(said: Said) -> list[str]:
    """The problems that a refusal names; the target must not have come to be."""
    assert 4 == said.code, said
    assert "" == said.out
    *errors, hint = said.err.splitlines()
    assert hint.startswith("hint: look at the new plan")
    assert errors[0].startswith("error: the saved plan is stale: ")
    return [line.removeprefix("error: ").removeprefix("the saved plan is stale: ") for line in errors]


def test_it_is_carried_out_when_nothing_moved(world: Path) -> None:
    save()

    assert 0 == run_here(APPLY).code
    assert [FIRST, SECOND, NEW] == sorted(path.name for path in (world / "serve").glob("*.safetensors"))


def test_an_empty_plan_is_carried_out_by_doing_nothing(world: Path) -> None:
    assert 0 == run_here(["apply", "small.yaml", "-o", "serve"]).code
    save()
    before = snapshot_of(world / "serve")

    assert 0 == run_here(APPLY).code
    assert before == snapshot_of(world / "serve")


def test_what_makes_no_difference_does_not_count() -> None:
    save()
    Path("small.yaml").write_text("# a comment\n" + small.manifest(summary="other words"))
    os.utime("base/LICENSE", (1, 1))

    assert 0 == run_here(APPLY).code


def _edit_a_sidecar() -> None:
    Path("base/LICENSE").write_bytes(b"Mit\n")


def _edit_the_patched_sidecar() -> None:
    Path("base/config.json").write_bytes(small.CONFIG_TEXT.replace(b"tiny", b"tony"))


def _flip(folder: str, shard: str) -> Callable[[], None]:
    def act() -> None:
        damage.flip_last_data_byte(Path(folder), shard)
        os.utime(Path(folder, shard), ns=(1, 1))  # certainly another time than before

    return act


def _change_the_patch() -> None:
    Path("small.yaml").write_text(small.manifest(files={"config.json": {"patch": small.PATCH[:1]}}))


def _drop_another() -> None:
    Path("small.yaml").write_text(small.manifest(drop=["model.layers.2.**", "model.layers.1.norm.weight"]))


def _add_a_sidecar() -> None:
    Path("base/extra.json").write_bytes(b"{}")


def _apply() -> None:
    assert 0 == run_here(["apply", "small.yaml", "-o", "serve"]).code


MOVED: list[tuple[str, Callable[[], None], list[str]]] = [
    (
        "a sidecar of the base",
        _edit_a_sidecar,
        ["LICENSE: expected copy (bytes 4, sha256 ", "found copy (bytes 4, sha256 "],
    ),
    ("a patched sidecar", _edit_the_patched_sidecar, ["config.json: expected write (bytes ", "found write (bytes "]),
    ("a linked shard", _flip("base", SECOND), [f"{SECOND}: expected link (bytes ", "found link (bytes "]),
    ("a trimmed shard", _flip("base", FIRST), [f"{FIRST}: expected trim (bytes ", "found trim (bytes "]),
    ("the donor", _flip("donor", "all.safetensors"), [f"{NEW}: expected build (bytes ", "found build (bytes "]),
    ("a patch of the manifest", _change_the_patch, ["config.json: expected write (bytes ", "found write (bytes "]),
    ("a drop of the manifest", _drop_another, [f"{SECOND}: expected link (bytes ", "found trim (bytes "]),
    ("a new sidecar of the base", _add_a_sidecar, ["extra.json: expected no action, found copy (bytes 2, "]),
    ("the target", _apply, ["LICENSE: expected copy (bytes 4, ", "found no action"]),
]


@pytest.mark.parametrize(("move", "words"), [row[1:] for row in MOVED], ids=[row[0] for row in MOVED])
def test_it_is_stale_when_something_moved_which_is_named(
    move: Callable[[], None], words: list[str], world: Path
) -> None:
    save()
    move()
    before = snapshot_of(world)

    problems = refused(run_here(APPLY))

    assert any(all(word in problem for word in words) for problem in problems), problems
    assert before.keys() | {f"{world}/.serve.overlay.lock"} >= snapshot_of(world).keys()
    assert {p: s for p, s in before.items() if os.path.isfile(p)} == {
        p: s for p, s in snapshot_of(world).items() if p in before and os.path.isfile(p)
    }


def test_only_what_moved_is_named() -> None:
    save()
    _flip("donor", "all.safetensors")()

    assert [NEW] == [problem.partition(":")[0] for problem in refused(run_here(APPLY))]


def test_a_damaged_target_is_no_target_of_an_empty_plan() -> None:
    _apply()
    save()
    Path("serve/LICENSE").unlink()

    assert f"{FIRST}: expected no action, found trim (bytes " in "\n".join(refused(run_here(APPLY)))


def test_another_target_is_named(world: Path) -> None:
    save()

    problems = refused(run_here([*APPLY[:2], "-o", "elsewhere", *APPLY[4:]]))

    assert [f"target: expected {world}/serve, found {world}/elsewhere"] == problems


def test_another_way_of_linking_is_named() -> None:
    save()

    assert ["link: expected auto, found symlink"] == [
        problem for problem in refused(run_here([*APPLY, "--link", "symlink"])) if not problem.startswith("state")
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "plan.json: expected a document of the kind plan"),
        ('{"kind": "plan", "format": 1, "plan": []}', "plan.json: expected a document of the kind plan"),
        ("{", "plan.json: "),
    ],
)
def test_what_is_no_plan_is_invalid(text: str, problem: str) -> None:
    Path("plan.json").write_text(text)

    said = run_here(APPLY)

    assert (3, True) == (said.code, said.err.startswith(f"error: {problem}"))


@pytest.mark.parametrize("plan", [{"actions": 3}, {"actions": [3]}, {"actions": [{"name": 4}]}, {}], ids=json.dumps)
def test_a_plan_of_another_shape_is_stale_and_no_bug(plan: object) -> None:
    Path("plan.json").write_text(json.dumps({"kind": "plan", "format": 1, "plan": plan}))

    assert run_here(APPLY).code in (3, 4)
