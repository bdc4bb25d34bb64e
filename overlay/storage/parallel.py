"""The same for many things, in threads that nobody waits for: an interrupt, or the first that fails, ends it at once.

What is under way then goes on for a while, so it must be harmless: it reads, or makes files that have no name yet.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def in_parallel(work: Callable[[str], Result], names: Sequence[str], threads: int) -> dict[str, Result]:
    """Name to what `work` makes of it, for each of `names`, which are different ones; up to `threads` at a time.

    What `work` raises first goes through; the names that were not begun are left.
    """
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, Result | None, BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()
    for name in names:
        todo.put(name)

    def run() -> None:
        while not stop.is_set():
            try:
                name = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((name, work(name), None))
            except BaseException as error:  # it goes to the caller
                done.put((name, None, error))

    for _ in range(min(threads, len(names))):
        threading.Thread(target=run, daemon=True, name="in-parallel").start()
    results: dict[str, Result] = {}
    try:
        while len(results) < len(names):
            name, result, error = done.get()
            if error is not None:
                raise error
            results[name] = result  # type: ignore[assignment]  # without an error there is one
    finally:
        stop.set()
    return results
