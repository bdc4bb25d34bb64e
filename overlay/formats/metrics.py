"""Metrics: the text that a server prints for Prometheus, as samples.

The format is Prometheus' text exposition format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/): a
sample a line, ``name{label="value",…} number [timestamp]``, comments behind ``#``.  vLLM and SGLang write it with
prometheus_client.  A line that is not of this form is refused, so that a page of another kind is not taken for silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*+)(?:\s*+(\{.*\}))?\s++(\S++)(?:\s++-?\d++)?")
"""Possessive, so that a hostile line costs no more than its length."""
_LABEL: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_ESCAPES: Final = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_SHOWN: Final = 60
"""Characters of a line that an error quotes."""


class Sample(NamedTuple):
    """One number under a name and its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


class Metrics(tuple[Sample, ...]):
    """All samples of a page, in its order."""

    __slots__ = ()

    def total(self, name: str) -> float | None:
        """The sum of all samples called `name`, whatever their labels: over engines, ranks and so on; None without any."""
        values = [sample.value for sample in self if sample.name == name]
        return sum(values) if values else None

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The samples called `name`, summed for each value of `label`; those without the label are left out."""
        sums: dict[str, float] = {}
        for sample in self:
            if sample.name == name and label in sample.labels:
                key = sample.labels[label]
                sums[key] = sums.get(key, 0.0) + sample.value
        return sums

    def mentions(self, prefix: str) -> bool:
        """Whether a sample's name begins with `prefix`."""
        return any(sample.name.startswith(prefix) for sample in self)


def parse_metrics(data: bytes) -> Metrics:
    """The samples of a page of metrics; values may be NaN or infinite.

    Raises:
        ValueError: not UTF-8, or a line that is no sample and no comment; the message names the line by its number.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, found another byte at {error.start}") from None
    return Metrics(_samples(text))


def _samples(text: str) -> Iterator[Sample]:
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(stripped)
        labels = _labels(match[2] or "{}") if match is not None else None
        try:
            if match is None or labels is None:
                raise ValueError
            yield Sample(match[1], labels, float(match[3]))
        except ValueError:
            raise ValueError(f"line {number}: expected a metric and its value, found {stripped[:_SHOWN]!r}") from None


def _labels(braced: str) -> dict[str, str] | None:
    """The labels between braces; None where they are malformed."""
    inner, at = braced[1:-1].strip(), 0
    labels: dict[str, str] = {}
    while at < len(inner):
        match = _LABEL.match(inner, at)
        if match is None:
            return None
        labels[match[1]] = re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), match[2])
        at = match.end()
    return labels
