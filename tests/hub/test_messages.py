"""What is said of others' complaints, how long is waited, and what the environment may say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from overlay.errors import EnvironmentFault, OverlayError
from overlay.formats.references import HubReference
from overlay.storage.hub.faults import Place, clean, fault_of_error, fault_of_status
from overlay.storage.hub.opening import resolve_commit
from overlay.storage.hub.patience import Patience, Transient, Tries, asked_wait
from tests.hub.reading import IMPATIENT, NAME, REPO
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.faults import Where

RESOLVE = Where(stage="resolve")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", IMPATIENT)


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
