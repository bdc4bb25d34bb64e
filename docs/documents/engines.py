"""The page ``engines.md``: the rules of lint, and what changed between the releases of engines."""

from __future__ import annotations

from collections.abc import Iterator

from overlay.core.codes import CODES
from overlay.engines.families import FAMILIES
from overlay.engines.rules import RULES
from overlay.engines.versions import KNOWN, SINCE, TITLES


def engines_page(note: str) -> Iterator[str]:
    """The lines of the page."""
    yield from ("# What engines do with a checkpoint", "", note, "")
    yield "`overlay lint` predicts what each engine will do with a checkpoint, target and draft: `ok`, `refuses` (ends"
    yield "with an error), `wrong` (loads, and weights differ or stay unset) or `absent` (no draft, and no error says so)."
    yield "It reads headers, the index, configs and a few bytes of scales. What it predicts is held against the loaders of"
    yield "the engines themselves by `make engines`."
    yield from ("", "## Releases that were looked at", "", "| engine | releases |", "|---|---|")
    yield from (f"| {TITLES[name]} | {', '.join(releases)} |" for name, releases in KNOWN.items())
    yield from ("", "The nearest older release speaks for one that is not in the list, and a note says so.")
    yield from ("", "## What changed with a release", "", "| since | the engine |", "|---|---|")
    for change, engines in SINCE.items():
        since = ", ".join(f"{TITLES[name]} {release}" for name, release in engines.items())
        yield f"| {since} | {change} |"
    yield from ("", "## Families whose drafts are known", "")
    yield from (
        "| family | draft | shared with the target | vLLM | SGLang | transformers drafts |",
        "|---|---|---|---|---|---|",
    )
    for family in FAMILIES:
        place = f"`{family.beside}.*`" if family.beside else "`model.layers.N.*`, N = num_hidden_layers"
        drafts = (
            "no" if family.transformers_keys is None else "as layer " + ", ".join(map(str, family.transformers_layers))
        )
        yield f"| {family.name} | {place} | {family.shared} | {family.vllm_class} | {family.sglang_class} | {drafts} |"
    yield from ("", "For other families the rules about files, names and declarations apply, and a note says so.")
    yield from (
        "",
        "## The rules",
        "",
        "| rule | codes | engines | a person sees | read or measured in |",
        "|---|---|---|---|---|",
    )
    for rule in RULES:
        codes = ", ".join(f"[{code}](findings.md#{code.lower()})" for code in rule.codes)
        seen, engines = " or ".join(rule.symptoms), ", ".join(TITLES[name] for name in rule.engines)
        yield f"| {rule.number}. {rule.title} | {codes} | {engines} | {seen} | {rule.evidence} |"
    yield from ("", "What to do about each:", "")
    named = dict.fromkeys(code for rule in RULES for code in rule.codes)
    yield from (f"- {code}: {CODES[code].hint}." for code in named)
    yield ""
