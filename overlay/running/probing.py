"""Probing: ask a running server for a few completions, and look at what it says of its drafts before and after."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn, TypeVar

from overlay.core.probing import (
    Acceptance,
    Counted,
    EngineName,
    Probe,
    Ran,
    Restarted,
    Seen,
    between,
    count_sglang,
    count_vllm,
    find_acceptance,
    find_notes,
    judge,
)
from overlay.errors import EnvironmentFault, InvalidInput, OverlayError
from overlay.formats.metrics import Metrics, parse_metrics
from overlay.formats.server_answers import (
    Completion,
    Model,
    ServerInfo,
    read_completion,
    read_model,
    read_server_info,
    read_version,
)
from overlay.storage.files import read_document
from overlay.storage.serving import Answer, Server, ask

Value = TypeVar("Value")

_WAITS_S: Final = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Counters follow the answers by a moment; so long is waited until they have seen every token."""
_MAX_PROMPTS_BYTES: Final = 4 * 1024 * 1024
_QUOTED: Final = 200
"""Characters of a server's own message that an error quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is asked of a server."""

    prompts: tuple[str, ...]
    """Each is completed once, one after the other."""
    tokens: int = 64
    """How many tokens a completion may have."""
    sweep: tuple[int, ...] = ()
    """Then completions so many at a time, for each number."""
    engine: EngineName | None = None
    """None: the server says what it is."""


def probe_server(server: Server, trial: Trial) -> Probe:
    """Ask `server` what `trial` says, and judge its draft.

    Costs a completion to warm up and one for each prompt, and for each number of the sweep twice as many, but at least one
    for each prompt.

    Raises:
        EnvironmentFault: it cannot be reached, wants a key, restarted meanwhile, or is of no engine that is known here.
    """
    model = _read(server, "/v1/models", read_model)
    engine = trial.engine or _tell_engine(server, model)
    session = _Session(server, engine, model.name, trial)
    _, before = session.complete(1, 1, session.look())  # the first completion may wait for compilers
    ran, after = session.complete(1, len(trial.prompts), before)
    seen = session.compare(before, after)
    acceptance = find_acceptance(ran, seen)
    sweep: list[tuple[Ran, Acceptance | None]] = []
    for concurrency in trial.sweep:
        before = after
        requests = max(2 * concurrency, len(trial.prompts))
        swept, after = session.complete(concurrency, requests, before, strict=False)
        found = find_acceptance(swept, session.compare(before, after)._replace(average=None))
        sweep.append((swept, found))
    return Probe(
        server=str(server),
        engine=engine,
        version=after.version,
        model=model.name,
        max_tokens=trial.tokens,
        judgement=judge(engine, ran, seen, acceptance),
        acceptance=acceptance,
        ran=ran,
        sweep=tuple(sweep),
        notes=find_notes(ran, seen, acceptance),
    )


def read_prompts(path: str) -> tuple[str, ...]:
    """The lines of the file at `path` that are not empty.

    Raises:
        InvalidInput: it is not there, too large, not UTF-8, or holds no line.
        EnvironmentFault: it cannot be read.
    """
    data = read_document(path, _MAX_PROMPTS_BYTES, "file of prompts")
    try:
        prompts = tuple(line for line in re.split("\r?\n", data.decode("utf-8-sig")) if line.strip())
    except UnicodeDecodeError as error:
        found = f"expected UTF-8, found another byte at {error.start}"
        raise InvalidInput(found, subject=path, hint="save the file as UTF-8, a prompt a line") from None
    if not prompts:
        raise InvalidInput("expected a prompt a line, found none", subject=path, hint="write at least one line")
    return prompts


class _Look(NamedTuple):
    """What a server says of itself at one moment."""

    counted: Counted | None
    info: ServerInfo | None
    version: str


@dataclass(frozen=True, slots=True)
class _Session:
    """A server whose engine and model are known."""

    server: Server
    engine: EngineName
    model: str
    trial: Trial

    def look(self) -> _Look:
        """Metrics, and for SGLang what it says of itself."""
        metrics = _find(self.server, "/metrics", parse_metrics)
        if self.engine == "vllm":
            counted = count_vllm(metrics) if metrics is not None and metrics.mentions("vllm:") else None
            return _Look(counted, None, _find(self.server, "/version", read_version) or "")
        # Before its first request SGLang's page may hold nothing of its own; 0 tokens were counted then.
        info = _find(self.server, "/server_info", read_server_info)
        info = info or _find(self.server, "/get_server_info", read_server_info)
        return _Look(count_sglang(metrics) if metrics is not None else None, info, info.version if info else "")

    def complete(self, concurrency: int, requests: int, before: _Look, *, strict: bool = True) -> tuple[Ran, _Look]:
        """Completions, `concurrency` at a time, and what the server says once it has counted them.

        Raises:
            EnvironmentFault: one of them was not answered, and all must be (`strict`).
        """
        ran = _run(concurrency, [self._task(number) for number in range(requests)], strict=strict)
        after = self.look()
        for wait in _WAITS_S:
            if self._has_counted(before, after, ran.tokens):
                break
            time.sleep(wait)
            after = self.look()
        return ran, after

    def compare(self, before: _Look, after: _Look) -> Seen:
        """What was seen between two moments.

        Raises:
            EnvironmentFault: the server was another one before.
        """
        info = after.info
        counted = None
        if after.counted is not None:
            try:
                counted = between(before.counted or Counted(None, None), after.counted)
            except Restarted as problem:
                hint = "wait until the server is up and name one server, then run the command again"
                raise EnvironmentFault(str(problem), subject=f"{self.server}/metrics", hint=hint) from None
        return Seen(counted, info.average if info else None, info.speculates if info else None)

    def _task(self, number: int) -> Callable[[], Completion]:
        body = {
            "model": self.model,
            "prompt": self.trial.prompts[number % len(self.trial.prompts)],
            "max_tokens": self.trial.tokens,
            "temperature": 0,
            "stream": False,
            **({"return_spec_tokens_details": True} if self.engine == "sglang" else {}),
        }
        return lambda: _read(self.server, "/v1/completions", read_completion, body)

    def _has_counted(self, before: _Look, after: _Look, tokens: int) -> bool:
        if after.counted is None or (after.counted.tokens is None and self.engine == "vllm"):
            return True  # nothing is going to be counted; SGLang's counter comes with the first request
        was = before.counted.tokens if before.counted is not None else None
        return (after.counted.tokens or 0.0) - (was or 0.0) >= tokens


def _tell_engine(server: Server, model: Model) -> EngineName:
    """Which engine a server is of: by the owner of its models, else by its metrics.

    Raises:
        EnvironmentFault: neither tells.
    """
    if model.owner in ("sglang", "vllm"):
        return "vllm" if model.owner == "vllm" else "sglang"
    metrics = _find(server, "/metrics", parse_metrics) or Metrics()
    for engine in ("sglang", "vllm"):
        if metrics.mentions(f"{engine}:"):
            return "vllm" if engine == "vllm" else "sglang"
    raise EnvironmentFault(
        "expected a server of SGLang or vLLM, found one that does not say so",
        subject=f"{server}/v1/models",
        hint="name the engine with --engine, or the server itself where a router stands in front of it",
    )


def _find(server: Server, path: str, parse: Callable[[bytes], Value]) -> Value | None:
    """What stands at `path`; None where the server has nothing of that kind there.

    Raises:
        EnvironmentFault: no answer, or one that is wanted and cannot be had.
    """
    answer = ask(server, path)
    if answer.status in (401, 403):
        _refuse(server, path, answer)
    if answer.status != 200:
        return None
    try:
        return parse(answer.data)
    except ValueError:
        return None


def _read(server: Server, path: str, parse: Callable[[bytes], Value], body: dict[str, object] | None = None) -> Value:
    """What the server answers on `path`, which it must.

    Raises:
        EnvironmentFault: another status than 200, or an answer of another form.
    """
    answer = ask(server, path, body)
    if answer.status != 200:
        _refuse(server, path, answer)
    try:
        return parse(answer.data)
    except ValueError as problem:
        hint = "name a server that speaks OpenAI's API, without the path of a page"
        raise EnvironmentFault(str(problem), subject=f"{server}{path}", hint=hint) from None


def _refuse(server: Server, path: str, answer: Answer) -> NoReturn:
    """Say what a status other than 200 means.

    Raises:
        EnvironmentFault: always.
    """
    said = " ".join(answer.data[:4096].decode(errors="replace").split())
    if server.key:
        said = said.replace(server.key, "***")
    found = f"expected status 200, found {answer.status}"
    hint = "check the address: its root, without the path of a page"
    if answer.status in (401, 403):
        found = f"expected to be let in, found {answer.status}: " + (
            "the key is refused" if server.key else "no key given"
        )
        hint = (
            "put the server's key into the environment variable OVERLAY_API_KEY, or name another one with --api-key-env"
        )
    elif 300 <= answer.status < 400:
        place = answer.location.replace(server.key, "***") if server.key else answer.location
        hint = f"name the server that it leads to: {place[:_QUOTED]}"
    elif said and not said.startswith("<"):
        found += f": {said[:_QUOTED]}"
        hint = "the server's log says more"
    raise EnvironmentFault(found, subject=f"{server}{path}", hint=hint)


def _run(concurrency: int, tasks: Sequence[Callable[[], Completion]], *, strict: bool) -> Ran:
    """Carry out `tasks`, `concurrency` at a time.

    The threads are daemons: an interrupt ends the command at once, and with it the connections.

    Raises:
        EnvironmentFault: a task failed, and all must succeed (`strict`).
    """
    waiting: queue.SimpleQueue[Callable[[], Completion]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[Completion | BaseException, float]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    begun = time.monotonic()
    for _ in range(min(concurrency, len(tasks))):
        threading.Thread(target=_work, args=(waiting, ended), daemon=True).start()
    completions: list[Completion] = []
    failures: list[BaseException] = []
    waited = 0.0
    try:
        while len(completions) + len(failures) < len(tasks):
            outcome, seconds = ended.get()
            if isinstance(outcome, Completion):
                completions.append(outcome)
                waited += seconds
                continue
            failures.append(outcome)
            if strict or not isinstance(outcome, OverlayError):
                raise outcome
    finally:
        _drain(waiting)
    seconds = time.monotonic() - begun
    return Ran(concurrency, tuple(completions), len(failures), seconds, waited / max(1, len(completions)))


def _drain(waiting: queue.SimpleQueue[Callable[[], Completion]]) -> None:
    """Leave nothing for the threads to begin."""
    with suppress(queue.Empty):
        while True:
            waiting.get_nowait()


def _work(
    waiting: queue.SimpleQueue[Callable[[], Completion]],
    ended: queue.SimpleQueue[tuple[Completion | BaseException, float]],
) -> None:
    """Take tasks until none is left."""
    while True:
        try:
            task = waiting.get_nowait()
        except queue.Empty:
            return
        begun = time.monotonic()
        try:
            ended.put((task(), time.monotonic() - begun))
        except BaseException as error:  # the thread that waits for it raises it
            ended.put((error, time.monotonic() - begun))
