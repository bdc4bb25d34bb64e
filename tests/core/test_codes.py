"""The register of finding codes: complete, and each entry in the same form."""

from __future__ import annotations

import re

import pytest

from overlay.core.codes import CODES, Meaning, Severity
from overlay.core.findings import about
from overlay.report.text import finding_lines

_CODE = re.compile(r"(SHD|IDX|CFG|QNT|MTP|ENG|LNK|LCK|SEC)\d{3}")
_ENGINE = re.compile(r"(vLLM|SGLang|transformers|safetensors) \d|[A-Z][\w. /-]+|llama\.cpp / mlx-lm \(.+\)")


@pytest.mark.parametrize("code", CODES)
def test_an_entry_of_the_register_is_complete(code: str) -> None:
    meaning = CODES[code]

    assert _CODE.fullmatch(code)
    assert isinstance(meaning.severity, Severity)
    assert meaning.title
    assert len(meaning.hint) > 8
    assert meaning.detail.endswith(".")


@pytest.mark.parametrize("code", CODES)
def test_titles_and_hints_are_parts_of_sentences(code: str) -> None:
    title, hint = CODES[code].title, CODES[code].hint

    assert not title.endswith((".", "!"))
    assert not hint.endswith((".", "!"))
    assert "\n" not in title + hint


@pytest.mark.parametrize("code", CODES)
def test_engines_are_named_and_say_one_short_thing(code: str) -> None:
    for engine, behaviour in CODES[code].engines.items():
        assert _ENGINE.match(engine), engine
        assert behaviour
        assert not behaviour.endswith(".")
        assert len(behaviour) < 120


@pytest.mark.parametrize("code", CODES)
def test_references_are_addresses_and_each_is_there_once(code: str) -> None:
    references = CODES[code].references

    assert all(re.fullmatch(r"https://[\w./#?=%-]+", address) for address in references)
    assert len(set(references)) == len(references)


def test_codes_of_the_index_on_which_engines_differ_say_so() -> None:
    silent = {code for code, meaning in CODES.items() if code.startswith("IDX") and not meaning.engines}

    assert {"IDX001", "IDX011", "IDX012"} == silent


def test_a_finding_carries_what_its_code_says() -> None:
    finding = about("IDX009", "model.safetensors.index.json", "expected metadata, found none")

    document = finding.document()

    assert {"code", "subject", "message", "file", "tensor", "severity", "hint", "engines"} == document.keys()
    assert "KeyError: 'metadata'" == document["engines"]["transformers 5.23"]
    assert dict(CODES["IDX009"].engines) == document["engines"]


def test_a_meaning_needs_only_three_things() -> None:
    meaning = Meaning(Severity.NOTE, "a title", "a hint")

    assert ({}, "", ()) == (dict(meaning.engines), meaning.detail, meaning.references)


def test_engines_and_hint_come_once_a_code_and_engines_that_do_the_same_stand_together() -> None:
    findings = [about("IDX009", "a", "one"), about("LCK002", "b", "two"), about("IDX009", "c", "three")]

    assert [
        "error: LCK002 b: two",
        "  hint: apply again",
        "warning: IDX009 a: one",
        "warning: IDX009 c: three",
        "  engines: vLLM 0.33, SGLang 0.5.23: loads it; transformers 5.23: KeyError: 'metadata'",
        f"  hint: {CODES['IDX009'].hint}",
    ] == list(finding_lines(findings))


def test_of_many_findings_of_one_code_the_first_are_printed_and_the_rest_is_counted() -> None:
    findings = [about("IDX005", "model.safetensors", "orphan", tensor=f"t.{number:04d}") for number in range(5000)]

    lines = list(finding_lines([*findings, about("IDX007", "x", "duplicate")]))

    assert [f"error: IDX005 model.safetensors: t.{number:04d}: orphan" for number in range(5)] == lines[:5]
    assert "  and 4,995 more IDX005; --json lists all" == lines[5]
    assert 2 == sum(line.startswith("  hint: ") for line in lines)
    assert len(lines) < 12
