"""Servers that are slow, endless, broken, gone, or somebody else: one line, exit 5, and no secret in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlay.cli import main
from overlay.storage import serving as client
from tests.probing.servers import VLLM, Engine, SGLang, serving
from tests.support.commands import Ended, overlay

KEY = "sk-very+secret/0123456789=="
PAGE = b"<!DOCTYPE html>\n<html><title>Welcome to nginx!</title></html>\n"


def refused(*arguments: str | Path, code: int = 5) -> str:
    """The error's line and hint, both in one."""
    ended = overlay("probe", *arguments)
    assert (code, True) == (ended.code, ended.refusal is not None), ended
    assert ended.refusal is not None
    return f"{ended.refusal.line}; {ended.refusal.hint}"


@contextmanager
def socket_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does what `talk` does, for every connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                talk(connection)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def sending(*pieces: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return talk


# Gone, slow, endless, broken


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    said = refused(f"http://127.0.0.1:{port}")

    assert f"http://127.0.0.1:{port}/v1/models: the system says: Connection refused; check that the server runs" in said


def test_a_name_without_an_address() -> None:
    assert "expected a host, found no address for its name" in refused("http://nowhere.invalid:8000")


@pytest.mark.parametrize(
    "talk",
    [
        lambda connection: time.sleep(60),
        sending(*[b"H"] * 600, pause=0.1),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n", *[b" "] * 600, pause=0.1),
        sending(b"HTTP/1.1 200 OK\r\n\r\n{", *[b" "] * 600, pause=0.1),
        sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 600, pause=0.1),
    ],
    ids=["silence", "status line", "sized body", "open body", "chunks"],
)
def test_an_answer_that_takes_too_long_is_cut_off_whole(talk: Callable[[socket.socket], None]) -> None:
    with socket_server(talk) as url:
        begun = time.monotonic()
        said = refused(url, "--timeout", "0.5")

    assert "/v1/models: expected an answer within 0.5 s, found none; allow more: --timeout" in said
    assert time.monotonic() - begun < 5


def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 100_000)
    with socket_server(sending(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 10_000] * 1000)) as url:
        assert "expected at most 100000 bytes, found more" in refused(url)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b""], "expected an answer in HTTP, found something else"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], "expected an answer in HTTP, found something else"),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"], "expected an answer in HTTP, found something else"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n"], "expected an answer in HTTP, found something else"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"], "expected a whole answer, found one that was cut off"),
        ([b"HTTP/1.1 200 OK\r\n\r\n"], "expected JSON, found nothing"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + PAGE], "expected JSON, found a web page"),
        ([b"HTTP/1.1 200 OK\r\n\r\n[1]"], "expected a JSON object, found another value"),
        ([b"HTTP/1.1 200 OK\r\n\r\n{}"], "expected a list of models under data, found none"),
        ([b'HTTP/1.1 200 OK\r\n\r\n{"data": []}'], "expected a list of models under data, found none"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000], "expected JSON, found something else"),
        ([b"HTTP/1.1 404 Not Found\r\n\r\n" + PAGE], "expected status 200, found 404; check the address"),
        ([b"HTTP/1.1 500 X\r\n\r\nout of\n\tmemory\x1b[2J"], "expected status 200, found 500: out of memory"),
    ],
    ids=range(13),
)
def test_what_is_no_answer(pieces: list[bytes], expected: str) -> None:
    with socket_server(sending(*pieces)) as url:
        assert expected in refused(url)


def test_tls_where_there_is_none() -> None:
    with serving(VLLM()) as url:
        said = refused(url.replace("http:", "https:"))

    assert "expected TLS, the library says: " in said
    assert "name the server with http:// if it has no TLS" in said


def test_a_redirection_is_not_followed() -> None:
    engine = VLLM(key=KEY)
    engine.overrides["/v1/models"] = lambda: (307, "text/plain", b"")
    with serving(engine) as url:
        said = refused(url)

    assert "expected status 200, found 307; name the server that it leads to: http://elsewhere.example/" in said


# Answers of another form later on


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, "text/html", PAGE), "/v1/completions: expected JSON, found a web page"),
        ((200, "application/json", b"{}"), "expected a completion with choices, found none"),
        ((200, "application/json", b'{"choices": [], "usage": null}'), "under usage.completion_tokens, found none"),
        (
            (200, "application/json", b'{"choices": [], "usage": {"completion_tokens": true}}'),
            "under usage.completion_tokens, found none",
        ),
        (
            (400, "application/json", b'{"error": {"message": "max_tokens is too large"}}'),
            'found 400: {"error": {"message": "max_tokens is too large"}}',
        ),
    ],
    ids=["page", "empty", "no usage", "true", "refused"],
)
def test_a_completion_that_is_none(answer: tuple[int, str, bytes], expected: str) -> None:
    engine = VLLM(overrides={"/v1/completions": lambda: answer})
    with serving(engine) as url:
        assert expected in refused(url)


@pytest.mark.parametrize(
    "text",
    [PAGE, b"\xff", b"vllm:generation_tokens_total{engine=0} 1\n", b"vllm:generation_tokens_total one\n"],
    ids=["page", "bytes", "labels", "word"],
)
def test_metrics_that_are_none_count_nothing(text: bytes) -> None:
    engine = VLLM(overrides={"/metrics": lambda: (200, "text/plain", text)})
    with serving(engine) as url:
        ended = overlay("probe", url, "--json")

    assert (1, "unclear") == (ended.code, ended.document["verdict"])


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e400"])
def test_counters_that_no_count_comes_to_are_none(value: str) -> None:
    text = f"vllm:generation_tokens_total {value}\nvllm:spec_decode_num_drafts_total {value}\n".encode()
    engine = VLLM(overrides={"/metrics": lambda: (200, "text/plain", text)})
    with serving(engine) as url:
        assert "unclear" == overlay("probe", url, "--json").document["verdict"]


@pytest.mark.parametrize(
    "details", [[], 7, {"spec_verify_ct": "1"}, {"spec_verify_ct": 3, "spec_num_correct_drafts": -1}]
)
def test_details_of_another_form_are_ignored(details: Any) -> None:
    engine = SGLang()
    engine.extra = lambda body, steps: {"sglext": {"spec_tokens_details": details}}  # type: ignore[method-assign]
    with serving(engine) as url:
        assert "counters" == overlay("probe", url, "--json").document["acceptance"]["source"]


def _restart(engine: Engine) -> None:
    if len(engine.bodies) == 5:
        engine.counts.clear()
        engine.positions.clear()


def _replace(engine: Engine) -> None:
    engine.started += 60 * (len(engine.bodies) == 3)


@pytest.mark.parametrize(
    "engine", [VLLM(on_completion=_restart), VLLM(on_completion=_replace)], ids=["fell", "started"]
)
def test_a_server_that_restarts_meanwhile_is_not_judged(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.running.probing._WAITS_S", (0.0,))
    with serving(engine) as url:
        said = refused(url)

    assert "/metrics: expected " in said
    assert "wait until the server is up" in said


# The key


def spoken(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code, and everything that a run says."""
    code = main._run(["probe", *arguments])
    out, err = capfd.readouterr()
    return code, out + err


@pytest.mark.parametrize("engine", [VLLM(key=KEY), SGLang(key=KEY)], ids=["vllm", "sglang"])
def test_the_key_comes_from_the_environment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(engine) as url:
        assert 0 == overlay("probe", url, "--api-key-env", "MY_KEY").code
        assert "found 401: no key given; put the server's key into" in refused(url)
        monkeypatch.setenv("OVERLAY_API_KEY", KEY)
        assert 0 == overlay("probe", url).code


def test_the_key_is_in_nothing_that_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OVERLAY_API_KEY", KEY)
    echo = VLLM(overrides={"/v1/completions": lambda: (500, "text/plain", f"bad key {KEY}".encode())})
    for engine in (VLLM(key="another"), echo, VLLM(key=KEY), SGLang(key=KEY)):
        with serving(engine) as url:
            for form in ("--json", "--format=human"):
                _, said = spoken(capfd, url, form)
                assert KEY not in said
                assert "secret" not in said


def test_the_key_goes_to_nobody_but_the_server() -> None:
    engine = VLLM()
    with serving(engine) as url:
        overlay("probe", url)

    assert [] == [headers for _, headers in engine.asked if "authorization" in headers]


@pytest.mark.parametrize("key", ["sécret", "secret\nX-Evil: 1", "two words"])
def test_a_key_that_no_header_can_hold(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAY_API_KEY", key)

    said = refused("http://127.0.0.1:9", code=2)

    assert said == "expected a key of visible ASCII, found other characters; check the variable's value"


# Usage


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:8000", "expected http://HOST:PORT"),
        ("localhost:8000", "expected http://HOST:PORT"),
        ("ftp://host", "expected http://HOST:PORT"),
        ("http://", "expected http://HOST:PORT"),
        ("http://host:port", "cannot be taken apart"),
        ("http://host:99999", "cannot be taken apart"),
        ("http://[::1", "cannot be taken apart"),
        ("http://me:hunter2@host:8000", "expected no user name in the address, found one"),
        ("http://host:8000/?key=hunter2", "expected an address without ? and #"),
        ("http://host:8000/a b", "expected an address in visible ASCII"),
        ("http://hösť:8000", "expected an address in visible ASCII"),
    ],
)
def test_addresses_that_are_none(url: str, expected: str) -> None:
    said = refused(url, code=2)

    assert expected in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "options",
    [
        ("--sweep", "0"),
        ("--sweep", "1,,2"),
        ("--sweep", "a"),
        ("--sweep", "1000"),
        ("--sweep", "٣"),
        ("--tokens", "0"),
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--engine", "ollama"),
        ("--api-key-env", "NOT_SET_ANYWHERE"),
        ("--markdown", "gone/page.md"),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense(options: tuple[str, ...]) -> None:
    assert 2 == overlay("probe", "http://127.0.0.1:9", *options).code


@pytest.mark.parametrize(("data", "expected"), [(b"", "found none"), (b"\n \n", "found none"), (b"\xff", "UTF-8")])
def test_prompts_that_are_none(data: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(data)

    assert expected in refused("http://127.0.0.1:9", "--prompts", tmp_path / "prompts.txt", code=3)


def test_prompts_that_are_not_there(tmp_path: Path) -> None:
    assert "found nothing there" in refused("http://127.0.0.1:9", "--prompts", tmp_path / "gone.txt", code=3)


def test_an_error_is_a_document_too() -> None:
    ended: Ended = overlay("probe", "http://127.0.0.1:1", "--json")

    assert (5, "environment") == (ended.code, ended.refusal.kind if ended.refusal else "")


def test_an_interrupt_ends_a_long_completion_at_once() -> None:
    engine = VLLM(per_token=1.0)
    with serving(engine) as url:
        command = [sys.executable, "-m", "overlay", "probe", url, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
        try:
            while process.poll() is None and "/v1/completions" not in {path for path, _ in engine.asked}:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()

    assert 130 == process.returncode, err
    assert "interrupted" == json.loads(out)["error"]["kind"]
