"""Law 1: the base is never opened for writing, and nothing that a target calls its own lets a write reach it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import api
from overlay.storage.linking import LINK_MODES, LinkMode
from tests.support.checkpoints import (
    Case,
    donor,
    manifest_text,
    overlays,
    sharded,
    single_file,
    snapshot_of,
    write_diff_only,
    write_hub_cache,
)
from tests.support.commands import overlay

WORKING_LINKS: tuple[LinkMode, ...] = ("auto", "symlink", "hardlink", "copy")
"""Those that every file system can do."""

LAYOUTS = ("plain", "single file", "one hop", "two hops")


@pytest.fixture(params=LAYOUTS)
def inputs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with ``store`` (the base in some layout), ``donor``, ``repo`` (a diff-only one) and ``manifest``."""
    root = tmp_path / "inputs"
    match request.param:
        case "plain":
            base = sharded().write(root / "store" / "base")
        case "single file":
            base = single_file().write(root / "store" / "base")
        case "one hop":
            base = write_hub_cache(root / "store", sharded(), hops=1)
        case _:
            base = write_hub_cache(root / "store", sharded(), hops=2)
    donor().write(root / "donor")
    if request.param != "single file":
        write_diff_only(root / "repo")
    (root / "base").symlink_to(base)
    (root / "manifest").mkdir()
    text = manifest_text(base="../base", donors={"bf16": "../donor"})
    (root / "manifest" / "overlay.yaml").write_text(text)
    return root


def test_no_command_changes_anything_of_base_donor_or_manifest(inputs: Path, tmp_path: Path) -> None:
    manifest = inputs / "manifest" / "overlay.yaml"
    assert overlay("lock", manifest, "--level", "headers").code == 0
    assert overlay("lock", manifest, "--upgrade").code == 0
    before = snapshot_of(inputs)
    codes = set()

    for arguments in _commands(inputs, tmp_path):
        codes.add(overlay(*arguments).code)

        assert snapshot_of(inputs) == before, arguments
    assert codes == {0, 1, 2, 3, 4, 5}


def _commands(inputs: Path, out: Path) -> Iterator[tuple[str | Path, ...]]:
    """Every command that there is, those that must fail included."""
    manifest, base, repo = inputs / "manifest" / "overlay.yaml", inputs / "base", inputs / "repo"
    yield ("schema",)
    yield "lock", manifest
    yield "lock", manifest, "--level", "headers"
    for link in LINK_MODES:
        target = out / f"by-{link}"
        yield "plan", manifest, "-o", target, "--link", link
        yield "apply", manifest, "-o", target, "--link", link, "--dry-run"
        yield "apply", manifest, "-o", target, "--link", link
        yield "apply", manifest, "-o", target, "--link", link, "--level", "content"
        if link != "reflink":  # which may be impossible here
            for level in ("structure", "headers", "content"):
                yield "verify", target, "--level", level
            yield "inspect", target, "--shards"
    yield "apply", manifest, "-o", out / "by-copy", "--link", "symlink"
    if repo.exists():
        yield "init", "--base", base, "--graft", repo, "-o", out / "derived.yaml"
        yield "init", "--base", base, "--graft", repo, "-o", out / "derived.yaml"
        yield "lock", out / "derived.yaml"
        yield "apply", "--base", base, "--graft", repo, "-o", out / "pair"
    for level in ("structure", "headers", "content"):
        yield "verify", manifest, "--level", level
        yield "verify", base, "--level", level
    yield "inspect", base
    # What must fail
    (out / "by-copy" / "LICENSE").write_text("edited")
    yield "verify", out / "by-copy"
    yield "apply", manifest, "-o", inputs / "store"
    yield "apply", manifest, "-o", base / "inside"
    yield "apply", manifest, "-o", inputs / "donor"
    yield "apply", manifest, "-o", inputs / "nowhere" / "serve"
    yield "apply", manifest, "-o", out / "x", "--base", out / "nothing"
    yield "apply", manifest, "-o", out / "x", "--base", inputs / "donor"
    yield "apply", manifest, "-o", manifest
    yield "init", "--base", base, "--graft", base, "-o", out / "none.yaml"
    yield "init", "--base", "hf://org/absent", "--graft", base
    yield "verify", inputs / "manifest"
    yield "inspect", out / "nothing"


@pytest.mark.parametrize("link", WORKING_LINKS)
def test_editing_every_private_file_of_a_target_leaves_the_base_alone(
    inputs: Path, tmp_path: Path, link: LinkMode
) -> None:
    before = snapshot_of(inputs)
    target = tmp_path / "serve"
    _apply(inputs / "manifest" / "overlay.yaml", target, link)

    _overwrite(target)

    assert snapshot_of(inputs) == before


def test_deleting_a_target_leaves_the_base_alone(inputs: Path, tmp_path: Path) -> None:
    before = snapshot_of(inputs)
    for link in WORKING_LINKS:
        target = tmp_path / link
        _apply(inputs / "manifest" / "overlay.yaml", target, link)
        for folder, _, files in os.walk(target, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)

    assert snapshot_of(inputs) == before


def _check(case: Case, link: LinkMode) -> None:
    with tempfile.TemporaryDirectory() as root:
        manifest = case.write(f"{root}/inputs")
        before = snapshot_of(f"{root}/inputs")

        _apply(manifest, Path(root, "serve"), link)
        _overwrite(Path(root, "serve"))
        _apply(manifest, Path(root, "serve"), link)

        assert snapshot_of(f"{root}/inputs") == before


_cases = given(case=overlays(), link=st.sampled_from(WORKING_LINKS))


@_cases
@settings(max_examples=15, deadline=None)
def test_no_overlay_changes_its_inputs(case: Case, link: LinkMode) -> None:
    _check(case, link)


@pytest.mark.slow
@_cases
@settings(max_examples=400, deadline=None)
def test_no_overlay_changes_its_inputs_at_full_depth(case: Case, link: LinkMode) -> None:
    _check(case, link)


def _apply(manifest: Path, target: Path, link: LinkMode) -> None:
    api.apply(api.Request(sources=(str(manifest),)), str(target), link=link)


def _overwrite(target: Path) -> None:
    """Write to every file that the receipt does not call a link to the base, and to the receipt."""
    files = json.loads((target / ".overlay" / "receipt.json").read_bytes())["files"]
    private = [name for name, placed in files.items() if placed["how"] in ("build", "copy", "write")]
    assert private
    for name in (*private, ".overlay/receipt.json"):
        with open(target / name, "a") as stream:
            stream.write("edited")
        with open(target / name, "w") as stream:
            stream.write("replaced")
        os.chmod(target / name, 0o600)
        os.utime(target / name, (1, 1))
