"""Digests of whole files: sha256 and xxh3-128 in one pass, a file a thread, the GIL released.

Constant memory: one block a thread.  The xxh3 costs a few hundredths of the time of the sha256.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

import xxhash

from overlay.core.checkpoint import FileSeen
from overlay.core.progress import Advance
from overlay.errors import EnvironmentFault
from overlay.formats.digest import Digests
from overlay.storage.files import fingerprint_of, hint_for_errno, open_regular
from overlay.storage.streams import read_range

BLOCK: Final = 1 << 20
"""Bytes a read; larger blocks leave the processor's cache, smaller ones cost calls."""


class Stopped(Exception):
    """Another thread failed, or the user interrupted."""


def default_jobs() -> int:
    """Threads that hashing can keep busy: the processors that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def hash_file(file: FileSeen, advance: Advance, stop: threading.Event | None = None) -> Digests:
    """Read `file` once and digest it.

    Raises:
        EnvironmentFault: it cannot be read to its end; the offset is named.
        Stopped: `stop` was set.
    """
    sha, xxh = hashlib.sha256(), xxhash.xxh3_128()
    buffer = memoryview(bytearray(BLOCK))
    done = 0
    if file.is_remote:
        for piece in read_range(file, 0, file.size):
            sha.update(piece)
            xxh.update(piece)
            advance(len(piece))
            if stop is not None and stop.is_set():
                raise Stopped
        return Digests(file.size, sha.hexdigest(), xxh.hexdigest())
    try:
        with open_regular(file.location) as descriptor:
            while count := os.readv(descriptor, [buffer]):
                block = buffer[:count]
                sha.update(block)
                xxh.update(block)
                done += count
                advance(count)
                if stop is not None and stop.is_set():
                    raise Stopped
                if done > file.size:  # it grows while it is read: `changed` below says so
                    break
            changed = fingerprint_of(os.fstat(descriptor)) != file.fingerprint
    except OSError as error:
        problem = f"expected to read {file.size} bytes, found at byte {done}: {error.strerror}"
        raise EnvironmentFault(problem, subject=file.name, hint=hint_for_errno(error.errno)) from None
    if changed:
        raise EnvironmentFault(
            "expected a file at rest, found one that changes while it is read",
            subject=file.name,
            hint="wait until the download is complete, then run the command again",
        )
    return Digests(done, sha.hexdigest(), xxh.hexdigest())


def hash_files(files: Iterable[FileSeen], advance: Advance, jobs: int = 0) -> Iterator[tuple[FileSeen, Digests]]:
    """Digest `files` in parallel, largest first, and give them back as they are done.

    The largest file bounds the time from below, so it starts first.

    Raises:
        EnvironmentFault: as `hash_file`; the other threads stop within one block.
    """
    queue = sorted(files, key=lambda file: -file.size)
    stop = threading.Event()
    lock = threading.Lock()

    def report(count: int) -> None:
        with lock:
            advance(count)

    with ThreadPoolExecutor(jobs or default_jobs()) as pool:
        futures: dict[Future[Digests], FileSeen] = {pool.submit(hash_file, file, report, stop): file for file in queue}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield futures[future], future.result()
        finally:
            stop.set()
            for future in pending:
                future.cancel()
