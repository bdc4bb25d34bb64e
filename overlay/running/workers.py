"""Workers: tasks on threads, begun in their order, as many at once as there are threads and memory for.

A task that needs more than all the memory runs alone.  When one fails, those after it stop and those before it end, so
that the error that comes out is the first in the order of tasks, however they were timed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Generic, NamedTuple, TypeVar

from overlay.storage.hashing import Stopped

Result = TypeVar("Result")

Check = Callable[[], None]
"""Raises `Stopped` when the task need not go on."""

_NOBODY: Final = 1 << 62


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
        self._stopped = False
        """Whether nobody need go on.  Set without a lock, which an interrupt could leave locked."""
        self._begin = threading.Event()
        """No task begins before all are known."""
        self._turn = threading.Lock()
        self._change = threading.Condition()
        self._pool = ThreadPoolExecutor(threads, "overlay", prepare)
        self._futures: list[Future[Result]] = []

    def __enter__(self) -> Workers[Result]:
        try:
            for number in range(len(self._tasks)):
                self._futures.append(self._pool.submit(self._run, number))
        except BaseException:  # an interrupt, perhaps
            self.__exit__(None, None, None)
            raise
        self._begin.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped = True
        self._begin.set()
        interrupt = None
        while True:  # a second interrupt must not let the caller close what threads still write to
            try:
                wait(self._futures)
                self._pool.shutdown()
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
            error = future.exception()
            if error is not None and not isinstance(error, Stopped):
                raise error

    def _run(self, number: int) -> Result:
        task = self._tasks[number]
        self._begin.wait()
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
        if self._stopped or number > self._failed:
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
