"""Who may read what, and where the token goes."""

from __future__ import annotations

import logging

import pytest

from overlay.errors import EnvironmentFault
from overlay.storage.hub.opening import HubRepository, open_repository
from tests.hub.reading import DATA, IMPATIENT, NAME, REPO, TRIES, refused, whole
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub import faults as wrong
from tests.loopback_hub.faults import Where, bytes_of, when

RESOLVE = Where(stage="resolve")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", IMPATIENT)


@pytest.fixture
def repository(hub: LoopbackHub) -> HubRepository:
    """A repository of one file, listed."""
    opened = open_repository(REPO, hub.seed(REPO, {NAME: DATA, "config.json": b"{}"}))
    hub.log.clear()
    return opened


# Access


def test_a_gated_repository_names_the_page_of_its_licence(hub: LoopbackHub, repository: HubRepository) -> None:
    hub.gate(REPO)

    error = refused(hub, repository)

    assert (
        "expected access, found a gated repository: status 403 (Access to model org/name is restricted" in error.problem
    )
    assert f"accept the licence at {hub.url}/{REPO}, and log in: hf auth login" == error.hint


def test_without_a_token_a_gated_repository_says_the_same(
    hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gate(REPO)
    monkeypatch.delenv("HF_TOKEN")

    assert "accept the licence" in refused(hub, repository).hint


def test_a_file_that_is_gone_is_named(hub: LoopbackHub, repository: HubRepository) -> None:
    error = refused(hub, repository, when(RESOLVE, wrong.refused(404, "Entry not found", "EntryNotFound")))

    assert "expected this file, found none: status 404 (Entry not found)" == error.problem


def test_a_disabled_repository_is_said_to_be_one(hub: LoopbackHub, repository: HubRepository) -> None:
    error = refused(hub, repository, when(RESOLVE, wrong.refused(403, "Access to this resource is disabled.")))

    assert "a repository that the Hub has disabled" in error.problem


# The token


def test_the_token_goes_to_the_hub_alone(hub: LoopbackHub, repository: HubRepository) -> None:
    whole(repository)
    whole(repository, 5, 10)
    b"".join(repository.read("config.json", 0, 2))

    assert {f"Bearer {hub.token}"} == {record.authorization for record in hub.log.about(origin="hub")}
    assert {None} == {record.authorization for record in hub.log.about(origin="cdn")}


def test_a_redirect_to_a_stranger_does_not_get_the_token(hub: LoopbackHub, repository: HubRepository) -> None:
    error = refused(hub, repository, when(Where(stage="resolve", origin="hub"), wrong.redirected(hub.cdn_url)))

    assert "localhost" in error.problem
    assert [None] * TRIES == [record.authorization for record in hub.log.about(origin="cdn")]


@pytest.mark.parametrize("location", ["ftp://host/x", "file:///etc/passwd", "http://[", "https://"])
def test_a_redirect_to_something_else_is_not_followed(
    hub: LoopbackHub, repository: HubRepository, location: str
) -> None:
    error = refused(hub, repository, when(RESOLVE, wrong.refused(302, Location=location)))

    assert "expected a redirect to an https address" in error.problem
    assert 1 == len(hub.log)


def test_a_circle_of_redirects_ends(hub: LoopbackHub, repository: HubRepository) -> None:
    error = refused(hub, repository, when(RESOLVE, wrong.redirected("", 307)))

    assert "found 6 redirects" in error.problem


@pytest.mark.parametrize("token", ["hf_with\nnewline", "hf_ünicode", "hf_nul\0byte"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)

    with pytest.raises(EnvironmentFault) as caught:
        whole(repository)
    with pytest.raises(EnvironmentFault) as other:
        repository.download(NAME, lambda count: None)

    assert "HF_TOKEN: expected a token of plain characters, found others" == caught.value.line == other.value.line


def test_a_token_of_any_form_that_the_hub_repeats_is_not_shown(
    hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-another-form-4711")

    error = refused(hub, repository, when(RESOLVE, wrong.refused(403, "of-another-form-4711 may not do that")))

    assert "status 403 ([token] may not do that)" in error.problem
    assert "4711" not in str(error)


def test_nothing_is_logged_and_nothing_printed(
    hub: LoopbackHub, repository: HubRepository, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    refused(hub, repository, when(bytes_of(NAME), wrong.cut(after=1000)))

    assert hub.token not in caplog.text
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ("", "") == capfd.readouterr()
