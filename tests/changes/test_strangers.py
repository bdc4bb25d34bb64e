"""A repository that came from somewhere brings a manifest that nobody read: it may only take files of its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import small
from tests.support.commands import Ended, overlay

SECRET = b"hf_secret"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    small.base().write(tmp_path / "base")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "token").write_bytes(SECRET)
    folder = tmp_path / "repo"
    folder.mkdir()
    return folder


def _with(repository: Path, path: str) -> Path:
    text = f'overlay: 1\nname: x\nbase: {repository.parent / "base"}\nfiles: {{x.json: {{from: "{path}"}}}}\n'
    (repository / "overlay.yaml").write_text(text)
    return repository


def _apply(source: Path, *more: str | Path) -> Ended:
    return overlay("apply", source, "-o", source.parent / "serve", *more)


@pytest.mark.parametrize("path", ["../secret/token", "{root}/secret/token", "./../secret/token"])
def test_a_file_elsewhere_is_refused(repository: Path, path: str) -> None:
    ended = _apply(_with(repository, path.replace("{root}", str(repository.parent))))
    assert ended.code == 3
    assert ended.refusal is not None
    assert "token" in ended.refusal.line
    assert not (repository.parent / "serve").exists()


@pytest.mark.parametrize("verb", ["audit", "diff"])
def test_looking_at_it_does_not_read_the_file_either(repository: Path, verb: str) -> None:
    _with(repository, "../secret/token")
    others = [] if verb == "audit" else [repository.parent / "base"]
    assert overlay(verb, *others, repository).code == 3


def test_a_folder_that_the_user_allows_may_be_read(repository: Path) -> None:
    ended = _apply(_with(repository, "../secret/token"), "--allow-root", repository.parent / "secret")
    assert ended.code == 0
    assert (repository.parent / "serve" / "x.json").read_bytes() == SECRET


def test_a_manifest_that_the_user_names_may_take_what_it_says(repository: Path) -> None:
    manifest = _with(repository, "../secret/token") / "overlay.yaml"
    assert overlay("apply", manifest, "-o", repository.parent / "serve").code == 0
    assert (repository.parent / "serve" / "x.json").read_bytes() == SECRET


def test_its_own_files_may_be_taken(repository: Path) -> None:
    (repository / "own.json").write_bytes(b"{}")
    assert _apply(_with(repository, "own.json")).code == 0
