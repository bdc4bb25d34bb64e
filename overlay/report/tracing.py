"""What a finding means, and where a tensor came from, as text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from overlay.core.codes import CODES, Meaning
from overlay.core.tracing import Held, Origin, Trace
from overlay.report.blocks import Block, Heading, Marked, Table
from overlay.report.text import in_bytes

_FAMILIES: Final = {
    "SHD": "shards and headers",
    "IDX": "index",
    "CFG": "sidecars",
    "QNT": "quantisation",
    "MTP": "draft layer",
    "ENG": "engines",
    "LNK": "links",
    "LCK": "lock and receipt",
    "SEC": "security",
}
_PLACED: Final = {
    "reflink": "reflinked",
    "symlink": "symlinked",
    "hardlink": "hard-linked",
    "copy": "copied",
    "build": "built",
    "trim": "trimmed",
}


def meaning_document(code: str, meaning: Meaning) -> dict[str, Any]:
    """A code as it stands in JSON documents."""
    return {
        "code": code,
        "severity": meaning.severity.value,
        "title": meaning.title,
        "hint": meaning.hint,
        "detail": meaning.detail,
        "engines": dict(meaning.engines),
        "references": list(meaning.references),
    }


def meaning_lines(code: str, meaning: Meaning) -> Iterator[Block]:
    """What a code means, what engines do then, and what to do about it."""
    yield Marked(f"{code} (", meaning.severity.value, f"): {meaning.title}")
    paragraphs = (meaning.detail, f"what to do: {meaning.hint}")
    yield Table([(paragraph,) for paragraph in paragraphs if paragraph])
    if meaning.engines:
        yield Heading("engines")
        yield Table(list(meaning.engines.items()))
    if meaning.references:
        yield Heading("references")
        yield from (f"  {reference}" for reference in meaning.references)


def register_lines() -> Iterator[Block]:
    """Every code with its title, by family."""
    for family, codes in groupby(sorted(CODES), key=lambda code: code[:3]):
        yield Heading(f"{family}: {_FAMILIES.get(family, family)}")
        yield Table([(code, CODES[code].severity.value, CODES[code].title) for code in codes], kinds=1)


def trace_lines(trace: Trace) -> Iterator[Block]:
    """A tensor: where it lies, what belongs to it, where it came from."""
    at = trace.at
    yield Heading(trace.tensor)
    yield Table(
        [
            ("shard", at.file.name),
            ("bytes", f"{at.begin} to {at.end} ({in_bytes(at.end - at.begin)})"),
            ("dtype", f"{at.dtype} {list(at.shape)}"),
            ("sha256", trace.sha256),
            *(("also in", f"{shard} (engines load both)") for shard in trace.also_in),
            ("scheme", trace.scheme.label),
            *(("partner", f"{p.name} {p.dtype} {list(p.shape)} in {p.shard}") for p in trace.partners),
            *_origin_rows(trace.origin),
        ]
    )
    yield from (Marked("", "note", f": {note}") for note in trace.origin.notes)


def _origin_rows(origin: Origin) -> Iterator[tuple[str, str]]:
    words = {"checkpoint": "the checkpoint itself", "base": "the base", "graft": "a graft"}
    commit = f", commit {origin.commit}" if origin.commit else ""
    placed = f", its shard {_PLACED.get(origin.how, origin.how)}" if origin.how else ""
    yield "origin", f"{words[origin.kind]}{placed}{commit}"
    if origin.source is not None:
        yield "source", _place(origin.source)
    elif origin.link:
        yield "link to", origin.link
    if origin.donated is not None:
        yield "donor", f"{origin.donor}, {origin.reference}" if origin.reference else origin.donor
        yield "taken from", _place(origin.donated)
    if origin.inputs:
        yield "donor", f"{origin.donor}, {origin.reference}" if origin.reference else origin.donor
    yield from (("made from", _place(held)) for held in origin.inputs)
    yield from (("step", step) for step in origin.steps)
    if origin.superseded is not None:
        form = f"{origin.superseded.dtype} {list(origin.superseded.shape)}"
        yield "replaces", f"{form} of the base in {_place(origin.superseded)}"


def _place(held: Held) -> str:
    return f"{held.file}, bytes {held.begin} to {held.end}"
