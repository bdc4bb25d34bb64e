"""What goes wrong while reading: which faults pass by themselves, what is said of the others, and that all of it ends."""

from __future__ import annotations

import re
import time
from contextlib import closing

import pytest

from overlay.errors import EnvironmentFault, Mismatch, OverlayError
from overlay.formats.references import HubReference
from overlay.storage.hub.opening import HubRepository, open_repository, resolve_commit
from overlay.storage.remote_headers import read_headers
from tests.hub.reading import DATA, IMPATIENT, NAME, REPO, TRIES, refused, whole
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub import faults as wrong
from tests.loopback_hub.faults import LISTING, Fault, Where, bytes_of, when

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


# What passes by itself


@pytest.mark.parametrize("where", [RESOLVE, bytes_of(NAME)], ids=["hub", "storage"])
@pytest.mark.parametrize(
    "fault",
    [
        wrong.server_error(500),
        wrong.server_error(502),
        wrong.server_error(503),
        wrong.server_error(504),
        wrong.refused(408),
        wrong.rate_limited(0),
        wrong.rate_limited(0, retry_after=True),
        wrong.dropped(),
        wrong.delayed(0.7),
    ],
    ids=["500", "502", "503", "504", "408", "RateLimit", "Retry-After", "dropped", "late"],
)
def test_three_failures_are_passed_over(
    hub: LoopbackHub, repository: HubRepository, where: Where, fault: Fault
) -> None:
    with hub.failing(when(where, fault, times=TRIES - 1)):
        assert DATA[1:] == whole(repository)


def test_a_listing_and_a_revision_are_asked_for_again_too(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, {NAME: DATA})

    with hub.failing(when(Where(stage="api"), wrong.server_error(), times=3)):
        assert commit == resolve_commit(HubReference(REPO, "main"))
    with hub.failing(when(LISTING, wrong.dropped(), times=3)):
        assert 1 == len(open_repository(REPO, commit).listing.files)


def test_a_cut_transfer_goes_on_where_it_stopped(hub: LoopbackHub, repository: HubRepository) -> None:
    with hub.failing(when(bytes_of(NAME), wrong.cut(after=100_000), times=2)):
        assert DATA[1:] == whole(repository)

    ranges = [record.range for record in hub.log.about(origin="cdn")]
    assert [f"bytes={begin}-{len(DATA) - 1}" for begin in (1, 100_001, 200_001)] == ranges


def test_a_transfer_that_gets_on_may_break_more_often_than_one_that_does_not(
    hub: LoopbackHub, repository: HubRepository
) -> None:
    with hub.failing(when(bytes_of(NAME), wrong.cut(after=70_000))):
        assert DATA[1:] == whole(repository)  # eight times

    with hub.failing(when(bytes_of(NAME), wrong.cut(after=1000))), pytest.raises(EnvironmentFault, match="broken"):
        whole(repository)


def test_a_signature_that_the_storage_refuses_at_once_is_asked_for_again(
    hub: LoopbackHub, repository: HubRepository
) -> None:
    with hub.failing(when(bytes_of(NAME), wrong.refused(403, "Request has expired"), times=2)):
        assert DATA[1:] == whole(repository)

    assert 3 == len(hub.log.about(stage="resolve"))


def test_the_wait_that_the_hub_asks_for_is_kept(hub: LoopbackHub, repository: HubRepository) -> None:
    begin = time.monotonic()

    with hub.failing(when(RESOLVE, wrong.rate_limited(1), times=1)):
        whole(repository)

    assert time.monotonic() - begin >= 1


# What ends in an error


@pytest.mark.parametrize("where", [RESOLVE, bytes_of(NAME)], ids=["hub", "storage"])
@pytest.mark.parametrize(
    "fault", [wrong.server_error(), wrong.dropped(), wrong.delayed(0.7)], ids=["503", "dropped", "late"]
)
def test_what_does_not_pass_ends_after_a_few_tries(
    hub: LoopbackHub, repository: HubRepository, where: Where, fault: Fault
) -> None:
    error = refused(hub, repository, when(where, fault))

    assert isinstance(error, EnvironmentFault)
    assert 5 == error.exit_code
    assert TRIES == len(hub.log.about(stage="resolve"))


def test_too_many_requests_say_how_long_to_wait(hub: LoopbackHub, repository: HubRepository) -> None:
    error = refused(hub, repository, when(RESOLVE, wrong.rate_limited(290)))

    assert "found too many requests: status 429 (Too many requests)" in error.problem
    assert "in 290 seconds; with a token the limits are higher: hf auth login" in error.hint
    assert 1 == len(hub.log)


def test_a_connection_that_is_always_cut_ends(hub: LoopbackHub, repository: HubRepository) -> None:
    error = refused(hub, repository, when(bytes_of(NAME), wrong.cut(after=1000)))

    assert "expected the whole answer, found a broken connection" in error.problem
    assert TRIES == len(hub.log.about(origin="cdn"))


@pytest.mark.parametrize(
    "fault", [wrong.drip(rate=20), wrong.stall(after=1000, seconds=3)], ids=["one byte at a time", "silence"]
)
def test_a_transfer_that_drips_ends(hub: LoopbackHub, repository: HubRepository, fault: Fault) -> None:
    begin = time.monotonic()

    error = refused(hub, repository, when(bytes_of(NAME), fault))

    assert "expected bytes to go on arriving" in error.problem
    assert time.monotonic() - begin < TRIES * (IMPATIENT.silence + IMPATIENT.window) + 1


def test_a_slow_reader_is_no_slow_server(hub: LoopbackHub, repository: HubRepository) -> None:
    with closing(repository.read(NAME, 0, len(DATA))) as pieces:  # type: ignore[type-var]
        read = next(pieces)
        time.sleep(2 * IMPATIENT.window)
        read += b"".join(pieces)

    assert DATA == read
    assert 2 == len(hub.log)


@pytest.mark.parametrize("begin", [0, 1], ids=["whole", "part"])
def test_a_login_page_is_described(hub: LoopbackHub, repository: HubRepository, begin: int) -> None:
    page = "<html>Please log in</html>\n"

    error = refused(hub, repository, when(RESOLVE, wrong.html_page(page)), begin=begin)

    assert f"found status 200, text/html, {len(page)} bytes" in error.problem
    assert "login page" in error.hint


def test_a_login_page_in_place_of_the_api_is_described(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, {NAME: DATA})

    with hub.failing(when(LISTING, wrong.html_page())), pytest.raises(EnvironmentFault) as caught:
        open_repository(REPO, commit)

    assert "expected a JSON document, found status 200, text/html, 27 bytes" in caught.value.problem


def test_a_server_that_ignores_ranges_is_not_read(hub: LoopbackHub) -> None:
    size = 50_000_000
    repository = open_repository(REPO, hub.seed(REPO, {NAME: bytes(size)}))
    fault = when(bytes_of(NAME), wrong.ignore_range())

    with hub.failing(fault), pytest.raises(EnvironmentFault, match=f"found status 200, .*, {size} bytes"):
        list(repository.read(NAME, 0, 1000))
    with hub.failing(fault), pytest.raises(EnvironmentFault, match=f"found status 200, .*, {size} bytes"):
        read_headers(repository, [NAME], {})

    assert hub.log.bytes_of(NAME) < size / 2  # what fits into the buffers of the connection


def test_where_the_whole_file_is_wanted_a_server_may_ignore_the_range(
    hub: LoopbackHub, repository: HubRepository
) -> None:
    with hub.failing(when(bytes_of(NAME), wrong.ignore_range())):
        assert DATA == whole(repository, begin=0)


WRONG_BODIES = {
    "Content-Range": (wrong.wrong_content_range(), EnvironmentFault, "found bytes 2-512000"),
    "other bytes": (wrong.other_range(-1), EnvironmentFault, "found bytes 0-511998"),
    "no Content-Range": (
        wrong.headers(Content_Range=None),
        EnvironmentFault,
        "expected status 206 with bytes 1-511999",
    ),
    "odd Content-Range": (wrong.headers(Content_Range="bytes 1-511999"), EnvironmentFault, "expected status 206"),
    "another size": (wrong.headers(Content_Range="bytes 1-511999/512001"), Mismatch, "found 512001"),
    "short": (wrong.short_body(), EnvironmentFault, "expected 511999 bytes, found status 206, .*, 511998 bytes"),
    "long": (wrong.long_body(), EnvironmentFault, "expected 511999 bytes, found status 206, .*, 512000 bytes"),
    "416": (wrong.refused(416), Mismatch, "expected more bytes in the file, found its end"),
    "404": (wrong.refused(404), EnvironmentFault, "found status 404"),
}


@pytest.mark.parametrize(("fault", "kind", "said"), WRONG_BODIES.values(), ids=WRONG_BODIES.keys())
def test_an_answer_about_other_bytes_is_refused(
    hub: LoopbackHub, repository: HubRepository, fault: Fault, kind: type[OverlayError], said: str
) -> None:
    error = refused(hub, repository, when(bytes_of(NAME), fault))

    assert kind is type(error)
    assert re.search(said, error.problem), error.problem


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X_Repo_Commit": "1" * 40}, "expected commit .*, as it is listed, found '1111"),
        ({"X_Linked_Etag": f'"{"a" * 64}"'}, "expected sha256 .*, as it is listed, found 'aaaa"),
        ({"X_Linked_Size": "5"}, "expected size 512000, as it is listed, found '5'"),
    ],
)
def test_another_file_than_the_listed_one_is_refused(
    hub: LoopbackHub, repository: HubRepository, headers: dict[str, str], said: str
) -> None:
    error = refused(hub, repository, when(RESOLVE, wrong.headers(**headers)))

    assert Mismatch is type(error)
    assert re.search(said, error.problem), error.problem


def test_an_etag_that_changes_between_two_ranges_is_refused(hub: LoopbackHub, repository: HubRepository) -> None:
    whole(repository, 1, 10)

    error = refused(hub, repository, when(bytes_of(NAME), wrong.etag("another")))

    assert Mismatch is type(error)
    assert "found ETag 'another' after" in error.problem


def test_a_weak_etag_promises_nothing(hub: LoopbackHub, repository: HubRepository) -> None:
    whole(repository, 1, 10)

    with hub.failing(when(bytes_of(NAME), wrong.headers(ETag='W/"another"'))):
        assert DATA[1:] == whole(repository)
