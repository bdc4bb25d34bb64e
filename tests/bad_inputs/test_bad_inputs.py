"""Hostile and broken inputs: each is refused in words, with the right exit code, and nothing is touched.

The cases are data (`checkpoint_cases`, `document_cases`, `control_cases`); this is the judge.  A case passes when the
exit code is the promised one, one line of the output names file and key, a hint follows, no traceback shows, no byte of
the world changed and no stage is left, and nothing of the file outside is printed or placed.

``adapter.json`` beside this file maps the verbs of tool-agnostic batteries (``verify``, ``apply``, ``lock``, …) to our
commands, with ``{target}``, ``{base}``, ``{graft}``, ``{dest}`` and ``{work}`` to be filled in.
"""

from __future__ import annotations

import collections
import shlex
import shutil
from pathlib import Path

import pytest

from tests.bad_inputs import checkpoint_cases, control_cases, document_cases
from tests.bad_inputs.case import Case
from tests.bad_inputs.running import Said, run_here, run_process
from tests.bad_inputs.world import CANARY, World, build, snapshot

CASES = [*checkpoint_cases.cases(), *document_cases.cases(), *control_cases.cases()]
LOCK_FILE = ".serve.overlay.lock"
"""Beside a target, and never removed: to remove a lock file is a race by itself."""


@pytest.fixture(scope="module")
def good_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("good"))


@pytest.fixture
def world(good_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    root = tmp_path / "w"
    shutil.copytree(good_world.root, root, symlinks=True)
    monkeypatch.chdir(root)
    return World(root)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_input_is_judged_in_words_and_nothing_is_touched(case: Case, world: World) -> None:
    for line in case.before:
        assert 0 == run_here(shlex.split(line)).code, line
    case.damage(world)
    before = snapshot(world.root, [LOCK_FILE])

    said = _run(case, world)

    assert case.exit == said.code, said
    _require_words(case, said)
    _require_untouched(case, world, before)
    assert said.seconds < case.seconds


def test_the_battery_is_as_large_as_it_claims_and_no_case_is_there_twice() -> None:
    groups = collections.Counter(case.group for case in CASES)
    twice = [name for name, count in collections.Counter((c.group, c.what, c.run) for c in CASES).items() if count > 1]

    assert [] == twice
    assert {
        "header",
        "index",
        "paths",
        "overlay",
        "locked",
        "manifest",
        "lock",
        "receipt",
        "resource",
        "control",
    } == set(groups)
    assert len(CASES) >= 90


def _run(case: Case, world: World) -> Said:
    arguments = shlex.split(case.run)
    return run_process(arguments, folder=world.root) if case.process else run_here(arguments)


def _require_words(case: Case, said: Said) -> None:
    assert any(all(word in line for word in case.says) for line in said.lines), (case.says, said.lines)
    assert "Traceback" not in said.err
    assert CANARY not in said.out + said.err
    assert not any(ord(letter) < 32 for line in said.lines for letter in line)
    if case.exit > 1:
        assert "" == said.out
        assert said.err.startswith("error: ")
    if case.exit:
        hints = [line for line in said.lines if line.strip().startswith("hint: ")]
        assert hints
        assert all(len(hint) > len("hint: ") + 5 for hint in hints)
    assert len(said.lines) < 60


def _require_untouched(case: Case, world: World, before: dict[str, tuple[object, ...]]) -> None:
    after = snapshot(world.root, [LOCK_FILE])
    if case.writes:
        made = ("serve", "recipe/mtp.lock.json")
        before = {name: state for name, state in before.items() if not name.startswith(made)}
        after = {name: state for name, state in after.items() if not name.startswith(made)}
        placed = [path for path in (world / "serve").rglob("*") if path.is_file()]
        assert not any(CANARY.encode() in path.read_bytes() for path in placed)
    assert before == after
