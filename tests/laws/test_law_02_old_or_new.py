"""Law 2: killed at any instant, a target is the old generation or the new one; a re-run finishes the work."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlay import api
from overlay.errors import OverlayError
from overlay.storage import proofs
from overlay.storage.generations import folder_of
from overlay.storage.linking import LinkMode
from tests.support.checkpoints import GRAFT_SHARD, contents_of, manifest_text, snapshot_of, write_graft
from tests.support.faults import Change, Strike, died, failing, interrupting, killing, nothing, watched

Contents = dict[str, tuple[int, str, bytes]] | None

_OLD_GRAFT = {"shard": GRAFT_SHARD, "from": "bf16", "tensors": ["model.layers.2.**"]}
_NEW_GRAFT = {"shard": "model-00004-of-00004.safetensors", "from": "bf16", "tensors": ["lm_head.weight"]}


@dataclass
class World:
    """A folder with inputs, and a target that is brought from one generation to the next."""

    root: Path
    link: LinkMode
    existing: bool
    old: Contents = None
    new: Contents = None

    def __post_init__(self) -> None:
        (self.root / "out").mkdir(parents=True)
        manifest = write_graft(self.root, grafts=[_OLD_GRAFT])
        (self.root / "notes.txt").write_text("carried along\n")
        text = manifest_text(grafts=[_OLD_GRAFT, _NEW_GRAFT], files={"sub/notes.txt": {"from": "notes.txt"}})
        self.newer = self.root / "newer.yaml"
        self.newer.write_text(text)
        self.older = manifest
        self.target = self.root / "out" / "serve"
        self.go_back()
        self.old = contents_of(self.target)
        self.go_on()
        self.new = contents_of(self.target)
        self.go_back()
        self.inputs = snapshot_of(*self.input_paths())
        assert self.old != self.new

    def input_paths(self) -> list[Path]:
        return [path for path in sorted(self.root.iterdir()) if path.name != "out"]

    def go_back(self) -> None:
        """Make the target what it was at first, without a history."""
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.rmtree(folder_of(str(self.target)), ignore_errors=True)
        if self.existing:
            api.apply(api.Request(sources=(str(self.older),)), str(self.target), link=self.link)

    def go_on(self) -> None:
        """Make the target the new generation."""
        api.apply(api.Request(sources=(str(self.newer),)), str(self.target), link=self.link)

    def is_whole(self) -> bool:
        """Whether the target is exactly old or exactly new, and the inputs are what they were."""
        return contents_of(self.target) in (self.old, self.new) and snapshot_of(*self.input_paths()) == self.inputs

    def is_new(self) -> bool:
        return contents_of(self.target) == self.new

    def left_over(self) -> set[str]:
        """What lies beside the target and is no part of it: not its lock file, nor the old tree, kept or about to be."""
        names = set(os.listdir(self.target.parent)) - {"serve", ".serve.overlay.lock", ".serve.overlay-generations"}
        return {name for name in names if self.old is None or contents_of(self.target.parent / name) != self.old}


@pytest.fixture(params=[(False, "auto"), (True, "hardlink"), (True, "copy")], ids=["absent", "hardlinked", "copied"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(proofs, "_SETTLING_NS", 0)  # nothing here changes a file behind our back
    existing, link = request.param
    return World(tmp_path / "world", link, existing)


def _each_change(world: World) -> Iterator[int]:
    """The number of each change that bringing the target on makes, the target being old at each."""
    with watched() as changes:
        world.go_on()
    for number in range(1, len(changes) + 1):
        if contents_of(world.target) != world.old:
            world.go_back()
        yield number


@pytest.mark.parametrize(
    "error",
    [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow), pytest.param(errno.EROFS, marks=pytest.mark.slow)],
)
def test_a_call_that_fails_leaves_the_target_old_or_new_and_no_stage(world: World, error: int) -> None:
    for number in _each_change(world):
        outcome = _outcome(world, before=failing(number, error))

        assert world.is_whole(), outcome
        assert world.left_over() == set(), outcome
        assert outcome.said in ("done", "refused"), outcome
        assert world.is_new() or outcome.said == "refused", outcome


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_at_any_call_leaves_the_target_old_or_new_and_no_stage(world: World, moment: str) -> None:
    for number in _each_change(world):
        outcome = _outcome(world, **{moment: interrupting(number)})

        assert world.is_whole(), outcome
        assert world.left_over() == set(), outcome
        assert outcome.said == "interrupted" or (world.is_new() and outcome.at is None), outcome


def test_a_process_killed_at_any_call_leaves_the_target_old_or_new_and_a_rerun_finishes(world: World) -> None:
    for number in _each_change(world):
        assert died(world.go_on, killing(number))
        assert world.is_whole(), number

        world.go_on()

        assert world.is_new(), number
        assert world.left_over() == set(), number


def test_a_process_killed_at_a_random_moment_leaves_the_target_old_or_new(world: World) -> None:
    _kill_at_random(world, runs=5)


@pytest.mark.slow
def test_a_process_killed_at_a_hundred_random_moments_leaves_the_target_old_or_new(world: World) -> None:
    _kill_at_random(world, runs=100)


def test_everything_that_the_new_tree_consists_of_is_durable_before_the_commit(world: World) -> None:
    with watched() as changes:
        world.go_on()
    commit = next(at for at, change in enumerate(changes) if change.call == "commit")

    assert set(_not_durable(changes[:commit], str(world.target.parent))) == set()
    assert changes[commit + 1] == Change("fsync", str(world.target.parent))


def test_a_base_that_cannot_be_made_durable_is_not_linked(world: World) -> None:
    with watched() as changes:
        world.go_on()
    flushes = [at for at, change in enumerate(changes, 1) if change.call == "fsync" and "/world/base/" in change.path]
    assert flushes
    for number in flushes:
        world.go_back()

        outcome = _outcome(world, before=failing(number, errno.EIO))

        assert outcome.said == "refused"
        assert contents_of(world.target) == world.old


@pytest.mark.parametrize("existing", [False, True], ids=["absent", "existing"])
def test_a_lock_whose_writing_fails_is_old_or_new_and_leaves_nothing_beside_it(tmp_path: Path, existing: bool) -> None:
    manifest = write_graft(tmp_path)
    if existing:
        api.lock(str(manifest), level="headers")
    before = contents_of(tmp_path)
    with watched() as changes:
        api.lock(str(manifest), upgrade=True)
    after = contents_of(tmp_path)
    assert before is not None
    for number in range(1, len(changes) + 1):
        for strike in (failing(number, errno.EIO), interrupting(number)):
            (tmp_path / "overlay.lock.json").unlink(missing_ok=True)
            if existing:
                (tmp_path / "overlay.lock.json").write_bytes(before["overlay.lock.json"][2])

            with watched(strike):
                _said(lambda: api.lock(str(manifest), upgrade=True))

            assert contents_of(tmp_path) in (before, after), (number, changes)


def test_the_check_of_durability_finds_what_was_not_flushed() -> None:
    parent = "/p"
    changes = [
        Change("mkdir", "/p/.s.overlay-stage-1"),
        Change("create", "/p/.s.overlay-stage-1/a"),
        Change("fsync", "/p/.s.overlay-stage-1/a"),
        Change("write", "/p/.s.overlay-stage-1/a"),
        Change("fsync", "/p/.s.overlay-stage-1"),
        Change("symlink", "/p/.s.overlay-stage-1/b"),
    ]

    assert set(_not_durable(changes, parent)) == {"/p/.s.overlay-stage-1/a", "/p/.s.overlay-stage-1", parent}


@dataclass(frozen=True)
class Outcome:
    """How bringing the target on ended, and where it was struck."""

    said: str
    at: Change | None
    """None: the call failed by itself, so that nothing came after it."""


def _outcome(world: World, before: Strike = nothing, after: Strike = nothing) -> Outcome:
    struck: list[int] = []

    def noted(strike: Strike) -> Strike:
        def note(number: int) -> None:
            try:
                strike(number)
            except BaseException:
                struck.append(number)
                raise

        return note

    with watched(noted(before), noted(after)) as changes:
        said = _said(world.go_on)
    return Outcome(said, changes[struck[0] - 1] if struck else None)


def _said(action: Callable[[], object]) -> str:
    try:
        action()
    except KeyboardInterrupt:
        return "interrupted"
    except OverlayError:
        return "refused"
    return "done"


def _kill_at_random(world: World, runs: int) -> None:
    command = [
        sys.executable,
        "-m",
        "overlay",
        "apply",
        str(world.newer),
        "-o",
        str(world.target),
        "--link",
        world.link,
    ]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole_run = time.monotonic() - started
    moments = random.Random(runs)
    for _ in range(runs):
        world.go_back()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(whole_run / 2, whole_run))  # the first half starts the interpreter
        process.kill()
        process.wait()
        assert world.is_whole()

        world.go_on()

        assert world.is_new()
        assert world.left_over() == set()


def _not_durable(changes: list[Change], parent: str) -> Iterator[str]:
    """Files and folders of the stage that a power cut at the end of `changes` could lose, and the parent likewise."""
    pending: dict[str, int] = {}
    for at, (call, path) in enumerate(changes):
        if call == "fsync":
            pending.pop(path, None)
        elif "overlay-stage-" in path:
            if call in ("unlink", "rmdir"):
                pending.pop(path, None)
            if call in ("create", "write", "pwrite", "ftruncate", "chmod", "mkdir"):
                pending[path] = at
            if call in ("create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "replace"):
                pending[os.path.dirname(path)] = at
    assert all(path.startswith(parent) for path in pending)
    yield from pending
