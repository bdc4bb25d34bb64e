"""Probing: what a server's counters and answers say about its draft.  Pure: `running.probing` asks the server.

A draft that was never loaded right is silent: every answer is correct, only slower.  What gives it away is the *acceptance
length*, the tokens that one step of the target yields: 1 and what it accepted of the draft.  It is 1.0 when nothing is
ever accepted.  vLLM (0.33.0 v1/spec_decode/metrics.py:127) and SGLang (0.5.23
srt/managers/scheduler_components/metrics_reporter.py:973) count the token that comes for nothing in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from overlay.formats.metrics import Metrics
from overlay.formats.server_answers import Completion, Steps

EngineName = Literal["sglang", "vllm"]
ENGINES: Final[tuple[EngineName, ...]] = ("sglang", "vllm")
Verdict = Literal["active", "garbage", "inert", "unclear"]
VERDICTS: Final[tuple[Verdict, ...]] = ("active", "garbage", "inert", "unclear")
Source = Literal["answers", "counters", "average"]
SOURCES: Final[tuple[Source, ...]] = ("answers", "counters", "average")

GARBAGE_BELOW: Final = 0.05
"""Accepted tokens a draft below which a draft is garbage: guessing blindly is now and then right about an easy token."""
ENOUGH_DRAFTS: Final = 16
"""Drafts without which nobody can be said to have failed."""


DEFAULT_PROMPTS: Final = (
    "The history of the lighthouse begins with fires that were lit on hills. Later",
    'def fibonacci(n: int) -> int:\n    """The n-th number of Fibonacci."""\n',
    "Question: A train leaves at 9:40 and arrives at 12:15. How long is the journey?\nAnswer: Let us count step by step.",
    "Dear colleagues, thank you for your reports of last week. The next meeting will be on",
)
"""Prose, code, arithmetic and a letter: a draft is better at some of them than at others."""


class Counted(NamedTuple):
    """What a server counted, since its start or between two moments; None: it does not say."""

    tokens: float | None
    """Tokens that were generated."""
    drafts: float | None
    """Drafts that were made and looked at."""
    drafted: float | None = None
    """Draft tokens."""
    accepted: float | None = None
    """Draft tokens that were accepted."""
    positions: tuple[float, ...] = ()
    """Drafts of which the first, second … token was accepted."""
    started: float | None = None
    """When the process started, seconds since 1970."""


class Restarted(ValueError):
    """A counter is lower than it was: the server began anew in between, or another one answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What became of the drafts."""

    length: float
    """Tokens that one step of the target yields."""
    drafts: int | None
    """Drafts that were looked at; None where only the mean is known."""
    drafted: int | None
    """Draft tokens; None where they are not counted."""
    accepted: int | None
    """Draft tokens that were accepted; None where only the mean is known."""
    positions: tuple[float, ...]
    """Share of the drafts of which the first, second … token was accepted; empty where it is not said."""
    source: Source
    """``answers``: of the very completions; ``counters``: of everything in that time; ``average``: since the start."""

    def document(self) -> dict[str, Any]:
        """The acceptance as it stands in JSON documents."""
        return {
            "length": self.length,
            "drafts": self.drafts,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "positions": list(self.positions),
            "source": self.source,
        }


class Ran(NamedTuple):
    """Completions that were asked for, some at a time."""

    concurrency: int
    completions: tuple[Completion, ...]
    failed: int
    """Requests that were not answered."""
    seconds: float
    """From the first request to the last answer."""
    waited: float
    """Seconds a completion took, on average."""

    @property
    def tokens(self) -> int:
        """Tokens that were generated."""
        return sum(completion.tokens for completion in self.completions)

    @property
    def rate(self) -> float:
        """Generated tokens a second, of all requests together."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def document(self) -> dict[str, Any]:
        """The run as it stands in JSON documents."""
        return {
            "concurrency": self.concurrency,
            "requests": len(self.completions) + self.failed,
            "failed": self.failed,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.rate,
            "seconds_per_request": self.waited,
        }


class Seen(NamedTuple):
    """What was seen of a server while completions ran."""

    counted: Counted | None
    """What its counters moved by; None where it shows no metrics."""
    average: float | None
    """Mean acceptance length since its start, in case nothing better is known."""
    speculates: bool | None
    """Whether it says that it was started with speculation."""


class Judgement(NamedTuple):
    """What a probe came to."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What probing found."""

    server: str
    engine: EngineName
    version: str
    """The engine's own word for its version, or ""."""
    model: str
    max_tokens: int
    """Of each completion."""
    judgement: Judgement
    acceptance: Acceptance | None
    ran: Ran
    sweep: tuple[tuple[Ran, Acceptance | None], ...]
    notes: tuple[str, ...]
    """What a person should know when reading the numbers."""

    @property
    def active(self) -> bool:
        """Whether the draft fires and is right often enough."""
        return self.judgement.verdict == "active"

    def document(self) -> dict[str, Any]:
        """The probe as it stands in JSON documents."""
        return {
            "server": self.server,
            "engine": self.engine,
            "version": self.version,
            "model": self.model,
            "verdict": self.judgement.verdict,
            "reason": self.judgement.reason,
            "acceptance": self.acceptance.document() if self.acceptance is not None else None,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "completions": self.ran.document(),
            "sweep": [
                {**ran.document(), "acceptance_length": found.length if found is not None else None}
                for ran, found in self.sweep
            ],
            "notes": list(self.notes),
        }


def count_vllm(metrics: Metrics) -> Counted:
    """vLLM's counters, over all its engines.

    Source: vLLM 0.33.0 v1/spec_decode/metrics.py:224-266 (there only when it was started with speculation) and
    v1/metrics/loggers.py:798; prometheus_client adds ``_total`` to the names of counters.
    """
    rows = metrics.by_label("vllm:spec_decode_num_accepted_tokens_per_pos_total", "position")
    counts = {int(place): value for place, value in rows.items() if place.isdecimal() and len(place) < 4}
    places = [counts[place] for place in sorted(counts) if math.isfinite(counts[place])]
    return Counted(
        tokens=_total(metrics, "vllm:generation_tokens_total"),
        drafts=_total(metrics, "vllm:spec_decode_num_drafts_total"),
        drafted=_total(metrics, "vllm:spec_decode_num_draft_tokens_total"),
        accepted=_total(metrics, "vllm:spec_decode_num_accepted_tokens_total"),
        positions=tuple(places),
        started=_total(metrics, "process_start_time_seconds"),
    )


def count_sglang(metrics: Metrics) -> Counted:
    """SGLang's counters: tokens and verifications, of which the first mention comes with the first request that is done.

    Source: SGLang 0.5.23 srt/observability/metrics_collector.py:1860-1868, 2110-2112; 0.5.13 has the same names.  What
    was accepted is not counted there; its gauges hold the last few steps only and are not read.
    """
    return Counted(
        tokens=_total(metrics, "sglang:generation_tokens_total"),
        drafts=_total(metrics, "sglang:spec_verify_calls_total"),
        started=_total(metrics, "process_start_time_seconds"),
    )


def between(before: Counted, after: Counted) -> Counted:
    """What was counted between two moments; a counter that was not there before stood at 0.

    Raises:
        Restarted: a counter fell, or the process is another one.
    """
    if before.started is not None and after.started is not None and before.started != after.started:
        raise Restarted("expected the server that was asked first, found one that started since")
    for name in ("tokens", "drafts", "drafted", "accepted"):
        was, now = getattr(before, name), getattr(after, name)
        if was is not None and (now is None or now < was):
            raise Restarted(f"expected counters that grow, found {name} at {_number(now)} after {_number(was)}")
    old = (*before.positions, *[0.0] * len(after.positions))
    return Counted(
        tokens=_less(after.tokens, before.tokens),
        drafts=_less(after.drafts, before.drafts),
        drafted=_less(after.drafted, before.drafted),
        accepted=_less(after.accepted, before.accepted),
        positions=tuple(now - was for now, was in zip(after.positions, old, strict=False)),
    )


def find_acceptance(ran: Ran, seen: Seen) -> Acceptance | None:
    """What became of the drafts, by the best of what is known; None where no draft was seen.

    Answers that count their own drafts are exact whatever else the server does.  Counters cover everything it did in that
    time.  The average since its start comes last.
    """
    told = [completion.steps for completion in ran.completions if completion.steps is not None]
    if told and sum(steps.drafts for steps in told):
        return _from_answers(told)
    counted = seen.counted
    if counted is not None and counted.drafts:
        return _from_counters(counted, len(ran.completions))
    if seen.average is not None and (counted is None or counted.drafts is None):
        return Acceptance(length=seen.average, drafts=None, drafted=None, accepted=None, positions=(), source="average")
    return None


def judge(engine: EngineName, ran: Ran, seen: Seen, acceptance: Acceptance | None) -> Judgement:
    """Whether the draft fires, and why one says so."""
    if acceptance is None:
        return _judge_silence(engine, ran, seen)
    gain = acceptance.length - 1
    if gain >= GARBAGE_BELOW:
        return Judgement("active", f"{acceptance.length:.2f} tokens a step: the draft fires")
    if acceptance.drafts is not None and acceptance.drafts < ENOUGH_DRAFTS:
        reason = (
            f"expected at least {ENOUGH_DRAFTS} drafts to judge by, found {acceptance.drafts}: ask for more --tokens"
        )
        return Judgement("unclear", reason)
    reason = f"drafts are made and {acceptance.length:.2f} tokens come of a step: they are wrong, look at its weights"
    return Judgement("garbage", reason)


def find_notes(ran: Ran, seen: Seen, acceptance: Acceptance | None) -> tuple[str, ...]:
    """What a person should know about where the numbers come from."""
    notes = []
    if acceptance is not None and acceptance.source == "average":
        notes.append("the acceptance length is the mean since the server started; --enable-metrics would count it")
    tokens = seen.counted.tokens if seen.counted is not None else None
    counts = acceptance is not None and acceptance.source == "counters"
    if counts and tokens is not None and tokens > ran.tokens:
        notes.append(f"the server generated {_number(tokens)} tokens in that time, {ran.tokens} of them for this probe")
    if counts and tokens is not None and tokens < ran.tokens:
        notes.append(
            f"its counters saw {_number(tokens)} of {ran.tokens} tokens: do several servers share this address?"
        )
    return tuple(notes)


def _judge_silence(engine: EngineName, ran: Ran, seen: Seen) -> Judgement:
    """No draft was seen: there is none, or nobody counts."""
    counted = seen.counted
    if engine == "vllm":
        if counted is None or counted.tokens is None:
            return Judgement("unclear", "the server shows no metrics: start it without --disable-log-stats")
        if counted.drafts is None:
            return Judgement("inert", "the server was started without speculative decoding")
        return Judgement("inert", f"the server speculates, and made no draft for {ran.tokens} tokens")
    if seen.speculates is False:
        return Judgement("inert", "the server was started without speculative decoding")
    if counted is not None and counted.tokens:
        return Judgement("inert", f"the server counted no draft for {ran.tokens} tokens")
    return Judgement("unclear", "the server counts no drafts: start it with --enable-metrics")


def _from_answers(told: Sequence[Steps]) -> Acceptance:
    drafts, drafted = sum(steps.drafts for steps in told), sum(steps.drafted for steps in told)
    accepted = sum(steps.accepted for steps in told)
    return Acceptance(
        length=1 + accepted / drafts,
        drafts=drafts,
        drafted=drafted,
        accepted=accepted,
        positions=_positions([steps.histogram for steps in told if steps.drafts], drafts),
        source="answers",
    )


def _positions(histograms: Sequence[Sequence[int]], drafts: int) -> tuple[float, ...]:
    """Share of drafts whose token 1, 2 … was accepted: a draft of which k were accepted got its first k right."""
    if not all(histograms):
        return ()
    longest = max(map(len, histograms), default=0)
    return tuple(sum(sum(bars[place:]) for bars in histograms) / drafts for place in range(1, longest))


def _from_counters(counted: Counted, completions: int) -> Acceptance:
    """vLLM counts what was accepted.  SGLang does not: a step yields a token and what it accepted, and the first token
    of a completion takes no step.
    """
    drafts = counted.drafts or 0.0
    accepted = counted.accepted
    if accepted is None:
        accepted = max(0.0, (counted.tokens or 0.0) - completions - drafts)
    return Acceptance(
        length=1 + accepted / drafts,
        drafts=round(drafts),
        drafted=round(counted.drafted) if counted.drafted is not None else None,
        accepted=round(accepted),
        positions=tuple(value / drafts for value in counted.positions),
        source="counters",
    )


def _total(metrics: Metrics, name: str) -> float | None:
    """A counter, or None where it is not there or no number that anything can count to."""
    value = metrics.total(name)
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None else after - (before or 0.0)


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.15g}"
