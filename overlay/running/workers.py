"""Workers: tasks on threads, begun in their order, as many at once as there are threads and memory for.

A task that needs more than all the memory runs alone.  When one fails, those after it stop and those before it end, so
that the error that comes out is the first in the order of tasks, however they were timed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Generic, NamedTuple, TypeVar

from overlay.storage.hashing import Stopped

Result = TypeVar("Result")

Check = Callable[[], None]
"""Raises `Stopped` when the task need not go on."""

_NOBODY: Final = 1 << 62
_EVERYBODY: Final = -1


class Task(NamedTuple, Generic[Result]):
    """Something to do on one thread."""

    memory: int
    """Bytes that it takes at most."""
    run: Callable[[Check], Result]


class Workers(AbstractContextManager["Workers[Result]"], Generic[Result]):
    """Threads that carry out `tasks`; a context, at the end of which none of them is left.

    Args:
        tasks: what is to be done, in order; they are known by their positions.
        threads: how many run at once, at most.
        memory: bytes that all tasks that run may take together.
        prepare: called once in every thread.
    """

    def __init__(
        self, tasks: Sequence[Task[Result]], threads: int, memory: int, prepare: Callable[[], None] = lambda: None
    ) -> None:
        self._tasks = tasks
        self._memory = memory
        self._taken = 0
        self._failed = _NOBODY
        """The first task that failed; those after it need not go on."""
        self._turn = threading.Lock()
        self._change = threading.Condition()
        self._pool = ThreadPoolExecutor(threads, "overlay", prepare)
        self._futures: list[Future[Result]] = []

    def __enter__(self) -> Workers[Result]:
        try:
            self._futures = [self._pool.submit(self._run, number) for number in range(len(self._tasks))]
        except BaseException:  # an interrupt, when threads run already
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fail(_EVERYBODY)
        interrupt = None
        while True:  # a second interrupt must not let the caller close what threads still write to
            try:
                self._pool.shutdown(cancel_futures=True)
                break
            except KeyboardInterrupt as again:
                interrupt = again
        if interrupt is not None:
            raise interrupt

    def result(self, number: int) -> Result:
        """What a task came to; waits for it.

        Raises:
            Exception: the first of those that tasks ended with.
        """
        if self._futures[number].exception() is not None:
            self._raise_first()
        return self._futures[number].result()

    def results(self) -> list[Result]:
        """What all tasks came to, in their order; waits for them.

        Raises:
            Exception: as `result`.
        """
        return [self.result(number) for number in range(len(self._tasks))]

    def check(self) -> None:
        """Go on only if no task has failed.

        Raises:
            Exception: as `result`.
        """
        if self._failed != _NOBODY:
            self._raise_first()

    def _raise_first(self) -> None:
        for future in self._futures:
            try:
                error = future.exception()
            except CancelledError:
                continue
            if error is not None and not isinstance(error, Stopped):
                raise error

    def _run(self, number: int) -> Result:
        task = self._tasks[number]
        with self._turn:  # who is first in line waits for memory, and nobody passes by
            self._reserve(number, task.memory)
        try:
            return task.run(lambda: self._check(number))
        except BaseException:
            self._fail(number)
            raise
        finally:
            self._release(task.memory)

    def _check(self, number: int) -> None:
        if number > self._failed:
            raise Stopped

    def _reserve(self, number: int, memory: int) -> None:
        with self._change:
            while self._taken and self._taken + memory > self._memory:
                self._check(number)
                self._change.wait()
            self._check(number)
            self._taken += memory

    def _release(self, memory: int) -> None:
        with self._change:
            self._taken -= memory
            self._change.notify_all()

    def _fail(self, number: int) -> None:
        with self._change:
            self._failed = min(self._failed, number)
            self._change.notify_all()
