"""Finding a repository in the Hub's cache by path alone, with the client's own environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.storage.hub_cache import cache_root, read_ref, snapshot_folder

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """org/name with two snapshots; ``main`` is the new one, the branch ``pr/1`` the old one."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--name"
    for commit in (OLD, NEW):
        (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs" / "pr").mkdir(parents=True)
    (folder / "refs" / "main").write_text(NEW)
    (folder / "refs" / "pr" / "1").write_text(f"{OLD}\n")
    return folder


@pytest.mark.parametrize(("revision", "commit"), [("main", NEW), ("pr/1", OLD), ("gone", ""), ("../snapshots", "")])
def test_a_ref_leads_to_its_commit(revision: str, commit: str, repository: Path) -> None:
    assert commit == read_ref("org/name", revision)


@pytest.mark.parametrize("text", ["", "main", "a" * 39, "a" * 41, "../../outside", "A" * 40, "\u00e9" * 40])
def test_a_ref_that_holds_no_commit_leads_nowhere(text: str, repository: Path) -> None:
    (repository / "refs" / "main").write_bytes(text.encode())

    assert not read_ref("org/name", "main")


def test_a_commit_has_a_folder_whether_or_not_it_is_there(repository: Path) -> None:
    assert str(repository / "snapshots" / NEW) == snapshot_folder("org/name", NEW)


def test_the_cache_is_where_the_client_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("HF_HUB_CACHE", "/cache")
    monkeypatch.setenv("HF_HOME", "/hf")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert "/cache" == cache_root()
    monkeypatch.delenv("HF_HUB_CACHE")
    assert "/hf/hub" == cache_root()
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert "/home/user/hf/hub" == cache_root()
    monkeypatch.delenv("HF_HOME")
    assert "/xdg/huggingface/hub" == cache_root()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert "/home/user/.cache/huggingface/hub" == cache_root()
