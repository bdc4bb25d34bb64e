"""Run ``overlay`` in this process or as one of its own, and keep what it said."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from overlay.cli.main import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Said:
    """What one run came to."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def lines(self) -> list[str]:
        return [*self.out.splitlines(), *self.err.splitlines()]


def run_here(arguments: list[str]) -> Said:
    """The command in this process: what `main` prints and exits with.  A bug's traceback goes through."""
    out, err = _stream(), _stream()
    started = time.monotonic()
    with _restored(arguments), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return Said(code, _text_of(out), _text_of(err), time.monotonic() - started)


def run_process(
    arguments: list[str],
    *,
    folder: Path | None = None,
    timeout: float = 60,
    environment: Mapping[str, str] | None = None,
) -> Said:
    """The command as a process, in `folder`."""
    started = time.monotonic()
    done = subprocess.run(
        command(arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        check=False,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
    )
    return Said(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "overlay", *arguments]


def _stream() -> io.TextIOWrapper:
    """What a process has for its output: UTF-8, strictly, with bytes below."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def _text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@contextlib.contextmanager
def _restored(arguments: list[str]) -> Iterator[None]:
    """`main` takes arguments, signals and the collector over, as it may; give them back."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with mock.patch.object(sys, "argv", ["overlay", *arguments]):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.enable()
