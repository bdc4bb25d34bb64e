"""Finding a repository in the Hub's cache by path alone, with the client's own environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.errors import EnvironmentFault
from overlay.formats.references import HubReference
from overlay.storage.hub_cache import cache_root, find_snapshot

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


@pytest.mark.parametrize(
    ("revision", "locked", "commit"),
    [
        ("", None, NEW),
        ("main", None, NEW),
        ("pr/1", None, OLD),
        (OLD, None, OLD),
        ("main", OLD, OLD),
        ("", OLD, OLD),
        ("gone", NEW, NEW),
    ],
)
def test_a_revision_leads_to_its_snapshot_and_a_locked_commit_goes_first(
    revision: str, locked: str | None, commit: str, repository: Path
) -> None:
    found = find_snapshot(HubReference("org/name", revision), locked)

    assert str(repository / "snapshots" / commit) == found


@pytest.mark.parametrize("text", ["", "main", "a" * 39, "a" * 41, "../../outside", "A" * 40, "\u00e9" * 40])
def test_a_ref_that_holds_no_commit_leads_nowhere(text: str, repository: Path) -> None:
    (repository / "refs" / "main").write_bytes(text.encode())

    with pytest.raises(EnvironmentFault):
        find_snapshot(HubReference("org/name", "main"))


@pytest.mark.parametrize(("repo", "revision"), [("org/other", "main"), ("org/name", "gone"), ("org/name", "c" * 40)])
def test_what_is_not_there_is_said_with_the_command_that_fetches_it(repo: str, revision: str, repository: Path) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        find_snapshot(HubReference(repo, revision))

    assert f"hf://{repo}" == fault.value.subject
    assert f"expected revision {revision} in the local cache {repository.parent}" in str(fault.value)
    assert f"hf download {repo} --revision {revision}" in str(fault.value.hint)


def test_a_snapshot_whose_ref_outlived_it_is_not_there(repository: Path) -> None:
    (repository / "snapshots" / NEW).rmdir()

    with pytest.raises(EnvironmentFault):
        find_snapshot(HubReference("org/name", "main"))


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
