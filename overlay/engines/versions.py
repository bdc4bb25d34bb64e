"""Engines and their versions: what a user may ask about, and which releases were looked at.

A rule holds for a range of releases.  Between releases that were looked at, the nearest one below speaks for what lies
above it; a release outside of what is known gets the nearest profile and a note that says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

Version = tuple[int, ...]

ENGINES: Final = ("vllm", "sglang", "transformers", "llama.cpp", "mlx")
"""The engines that there are rules for, in the order in which they are reported."""

TITLES: Final = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "transformers": "transformers",
    "llama.cpp": "llama.cpp (convert_hf_to_gguf)",
    "mlx": "mlx-lm",
}

KNOWN: Final[dict[str, tuple[str, ...]]] = {
    "vllm": (
        *("0.16.0", "0.17.1", "0.18.1", "0.19.1", "0.20.2", "0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.1"),
        *("0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"),
    ),
    "sglang": (
        *("0.5.8", "0.5.10", "0.5.11", "0.5.13", "0.5.14", "0.5.15", "0.5.16", "0.5.17", "0.5.18", "0.5.19"),
        *("0.5.20", "0.5.23"),
    ),
    "transformers": ("5.14.0", "5.17.0", "5.20.1", "5.23.0"),
    "llama.cpp": ("2026.11",),
    "mlx": ("0.32.4",),
}
"""Releases whose loaders were read or run, the oldest first.  A new release is a new entry here, and changed ranges in
`rules` where it behaves otherwise."""

SINCE: Final[dict[str, dict[str, str]]] = {
    "refuses missing files": {"vllm": "0.26.0", "sglang": "0.5.17"},
    "sorts files as text": {"sglang": "0.5.13"},
    "checks that the draft layer came": {"vllm": "0.17.0"},
    "fills part of an expert": {"vllm": "0.20.0"},
    "dequantises an FP8 indexer": {"vllm": "0.20.0"},
    "stacks the indexer": {"vllm": "0.20.0"},
    "has zero points of experts": {"vllm": "0.23.0", "sglang": "0.5.14"},
    "has a routed_experts module": {"vllm": "0.24.0"},
    "unties by any shard": {"vllm": "0.29.0"},
    "refuses scales left NaN": {"vllm": "0.30.0"},
}
"""What an engine does since a release; an engine that is not named does it never, or always did otherwise.

Sources: vLLM PR 41811 and the wheel of 0.26.0 (missing files), PR 35548 (layer), PR 44025 (zero points), wheels of the
releases named; SGLang PR 32279 (missing files), PR 27690 (zero points), `environ.py:293` of 0.5.13 (order).
"""

_TEXT: Final = re.compile(r"\d{1,6}(?:\.\d{1,6}){0,5}")
_WORD: Final = re.compile(r"([a-z.]+)(?:(?:==|@)v?([0-9][0-9A-Za-z.+-]{0,40}))?")


class VersionProblem(ValueError):
    """A text that names no engine or no version."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine at a version."""

    name: str
    version: str
    """As it is reported: what the user wrote, or the newest that is known."""
    profile: str
    """The release whose rules are used."""

    @property
    def at(self) -> Version:
        """The version that rules are looked up with."""
        return parse_version(self.profile)

    @property
    def title(self) -> str:
        """Name and version for people."""
        return f"{TITLES[self.name]} {self.version}"

    @property
    def exact(self) -> bool:
        """Whether the release itself was looked at."""
        return parse_version(self.version) == parse_version(self.profile)

    def has(self, change: str) -> bool:
        """Whether its profile does what `SINCE` calls so."""
        since = SINCE[change].get(self.name)
        return since is not None and self.at >= parse_version(since)


def parse_version(text: str) -> Version:
    """``0.33.0`` as numbers, trailing zeros left out, so that ``0.33`` equals it.

    Raises:
        VersionProblem: it does not begin with a number.
    """
    match = _TEXT.match(text)
    if match is None:
        raise VersionProblem(f"expected a version such as 0.33.0, found {text!r}")
    numbers = [int(part) for part in match[0].split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def parse_engine(text: str) -> Engine:
    """What ``--engine vllm`` or ``--engine vllm==0.33.0`` means; no version means the newest that is known.

    Raises:
        VersionProblem: no engine of that name, or no version.
    """
    match = _WORD.fullmatch(text.strip().lower())
    name = match[1] if match is not None else ""
    if match is None or name not in KNOWN:
        raise VersionProblem(f"expected {', '.join(ENGINES)}, with ==VERSION or without, found {text!r}")
    if match[2] is None:
        return newest(name)
    wanted = parse_version(match[2])
    older = [known for known in KNOWN[name] if parse_version(known) <= wanted]
    return Engine(name, match[2], older[-1] if older else KNOWN[name][0])


def newest(name: str) -> Engine:
    """The newest release of an engine that was looked at."""
    return Engine(name, KNOWN[name][-1], KNOWN[name][-1])
