"""What goes wrong while reading: which faults pass by themselves, what is said of the others, and that all of it ends."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from overlay.errors import EnvironmentFault, Mismatch, OverlayError
from overlay.formats.references import HubReference
from overlay.storage.hub.faults import Place, clean, fault_of_error, fault_of_status
from overlay.storage.hub.opening import HubRepository, open_repository, resolve_commit
from overlay.storage.hub.patience import Patience, Transient, Tries, asked_wait
from overlay.storage.remote_headers import read_headers
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub import faults as wrong
from tests.loopback_hub.faults import LISTING, Fault, Where, bytes_of, when

REPO = "org/name"
DATA = bytes(range(256)) * 2000  # 512 kB
NAME = "model.safetensors"

RESOLVE = Where(stage="resolve")
TRIES = 4
IMPATIENT = Patience(
    tries=TRIES,
    first_wait=0.01,
    longest_wait=0.02,
    longest_asked=5,
    total=20,
    connect=1,
    silence=0.5,
    window=0.4,
    least_rate=1000,
    progress=1 << 16,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", IMPATIENT)


@pytest.fixture
def repository(hub: LoopbackHub) -> HubRepository:
    """A repository of one file, listed."""
    opened = open_repository(REPO, hub.seed(REPO, {NAME: DATA, "config.json": b"{}"}))
    hub.log.clear()
    return opened


def whole(repository: HubRepository, begin: int = 1, end: int = len(DATA)) -> bytes:
    return b"".join(repository.read(NAME, begin, end))


def refused(hub: LoopbackHub, repository: HubRepository, *faults: Fault, begin: int = 1) -> OverlayError:
    """The error with which a range is refused under `faults`."""
    with hub.failing(*faults), pytest.raises(OverlayError) as caught:
        whole(repository, begin)
    assert caught.value.line.startswith(f"{repository.listing.address}/{NAME}: expected ")
    assert caught.value.line.isprintable()
    assert hub.token not in f"{caught.value.line} {caught.value.hint}"
    assert caught.value.hint
    return caught.value


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


def test_nothing_is_logged_and_nothing_printed(
    hub: LoopbackHub, repository: HubRepository, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    refused(hub, repository, when(bytes_of(NAME), wrong.cut(after=1000)))

    assert hub.token not in caplog.text
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ("", "") == capfd.readouterr()


# Messages and waits, by themselves


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\nb\tc\x1b[31m\x00d", "a b c [31m d"),
        ("Bearer hf_secretSecret and hf_otherSecret", "[token] and [token]"),
        ("see https://cdn/x?Signature=abc&Key=d now", "see https://cdn/x?… now"),
        ("x" * 1000, "x" * 299 + "…"),
        ("\u202egnp.exe\u2066", "gnp.exe"),
    ],
)
def test_what_others_say_is_cleaned(said: str, shown: str) -> None:
    assert shown == clean(said)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "-7"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "٣"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=3;t=55'}, None),
        ({"ratelimit": '"api"; r = 0; t = 12'}, 12.0),
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert seconds == asked_wait(headers)


def test_what_nobody_knows_is_a_bug() -> None:
    assert fault_of_error(KeyError("x"), Place(REPO)) is None


def test_a_full_disk_is_the_machines_fault() -> None:
    fault = fault_of_error(OSError(28, "No space left on device"), Place(REPO, "main", NAME))

    assert fault is not None
    assert (5, "free space or choose a target on another file system") == (fault.exit_code, fault.hint)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 410, 416, 418, 429, 451, 500, 507, 599])
def test_every_refusal_has_a_line_and_a_hint(status: int) -> None:
    for headers in ({}, {"x-error-message": "no\r\nBearer hf_secretSecret"}):
        fault = fault_of_status(status, headers, Place(REPO, "main", "a\nb"))

        assert fault.line.startswith(f"hf://{REPO}@main/a b: expected ")
        assert (fault.line + fault.hint).isprintable()
        assert fault.hint
        assert "hf_secret" not in fault.line


def test_tries_end_by_time_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", Patience(tries=100, first_wait=0.05, total=0.2))
    tries, failure = Tries(), Transient(EnvironmentFault("x"))
    begin = time.monotonic()

    def for_ever() -> None:
        while True:
            tries.pause(failure)

    with pytest.raises(EnvironmentFault, match="x"):
        for_ever()

    assert time.monotonic() - begin < 0.5


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def hold() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def test_a_server_that_never_answers_ends(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, silent_server: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", silent_server)

    with pytest.raises(EnvironmentFault, match="expected bytes to go on arriving"):
        resolve_commit(HubReference(REPO))


def test_the_users_own_time_limit_counts(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, silent_server: str) -> None:
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", Patience(tries=1))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3")
    monkeypatch.setenv("HF_ENDPOINT", silent_server)
    begin = time.monotonic()

    with pytest.raises(EnvironmentFault):
        resolve_commit(HubReference(REPO))

    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("address", ["ftp://host", "host:80", "http://", "//x", "http://[::1"])
def test_an_endpoint_that_is_none_is_named(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)

    with pytest.raises(OverlayError) as caught:
        resolve_commit(HubReference(REPO))

    assert (2, "HF_ENDPOINT: expected the http(s) address of a Hub") == (caught.value.exit_code, caught.value.line)
