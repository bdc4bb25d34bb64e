"""Patterns: the automaton against a slow, plainly right reading."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.formats.patterns import Pattern, select


@cache
def described(pattern: str, name: str) -> bool:
    """The meaning, word by word: `*` is any characters but a dot, two or more are any characters."""
    if not pattern:
        return not name
    if pattern.startswith("*"):
        stars = len(pattern) - len(pattern.lstrip("*"))
        swallowed = bool(name) and (stars > 1 or name[0] != ".")
        return described(pattern[stars:], name) or (swallowed and described(pattern, name[1:]))
    return name[:1] == pattern[0] and described(pattern[1:], name[1:])


@settings(max_examples=1500)
@given(st.text("ab.*", max_size=9), st.text("ab.", max_size=9))
@example("**", "")
@example("*", ".")
@example("a**b*", "a.b.")
@example("***.a", "a.a.a")
def test_matching_agrees_with_the_plain_reading(text: str, name: str) -> None:
    pattern = Pattern(text)

    assert described(text, name) == pattern.matches(name)


@settings(max_examples=300)
@given(st.text(st.characters(codec="utf-8", exclude_characters="*"), max_size=8), st.text(max_size=8))
@example("a\nb", "a\nb")
@example("[a]?", "a")
def test_without_a_star_a_pattern_describes_itself_and_nothing_else(text: str, name: str) -> None:
    pattern = Pattern(text)

    assert (True, text == name) == (pattern.matches(text), pattern.matches(name))


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("model.layers.78.**", "model.layers.78.mlp.experts.0.w1.weight", True),
        ("model.layers.78.**", "model.layers.780.mlp", False),
        ("model.layers.78.**", "model.layers.78", False),
        ("model.layers.*.weight", "model.layers.78.weight", True),
        ("model.layers.*.weight", "model.layers.78.mlp.weight", False),
        ("model.layers.**.weight", "model.layers.78.mlp.weight", True),
        ("**.weight_scale", "model.layers.1.up_proj.weight_scale", True),
        ("**.weight_scale", "model.layers.1.up_proj.weight_scale_2", False),
        ("*.weight", "lm_head.weight", True),
        ("w[12].+", "w1.x", False),
        ("w[12].+", "w[12].+", True),
        ("a.b", "axb", False),
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("a*", "a\n", True),
    ],
)
def test_a_tensor_is_described_or_not(text: str, name: str, expected: bool) -> None:
    actual = Pattern(text).matches(name)

    assert expected == actual


def test_a_pattern_made_to_backtrack_finishes() -> None:
    pattern = Pattern("**a**a**a**a**a**a**b")

    assert (False, True) == (pattern.matches("a" * 5000), pattern.matches("a" * 5000 + "b"))


def test_a_long_pattern_against_a_long_name_finishes() -> None:
    pattern = Pattern("*a**" * 500 + "b")

    assert (False, True) == (pattern.matches("a" * 5000), pattern.matches("a" * 5000 + "b"))


def test_patterns_of_equal_text_are_equal() -> None:
    patterns = {Pattern("a.*"), Pattern("a.*"), Pattern("a.**")}

    assert {"a.*", "a.**"} == {str(pattern) for pattern in patterns}
    assert 2 == len(patterns)
    assert "Pattern('a.*')" == repr(Pattern("a.*"))


def test_select_keeps_the_order_of_the_names_and_reports_idle_patterns() -> None:
    patterns = [Pattern("b.**"), Pattern("a.*"), Pattern("c"), Pattern("a.x"), Pattern("c")]

    actual = select(patterns, iter(["z", "a.x", "b.1.2", "a.y", "a.x.y", "b"]))

    assert (["a.x", "b.1.2", "a.y"], [Pattern("c"), Pattern("c")]) == actual


def test_select_reads_its_patterns_once() -> None:
    actual = select((Pattern(text) for text in ("a", "b")), ["a", "c", "a"])

    assert (["a", "a"], [Pattern("b")]) == actual


@pytest.mark.parametrize(("patterns", "names"), [([], ["a"]), (["a"], [])])
def test_select_from_nothing_gives_nothing(patterns: list[str], names: list[str]) -> None:
    compiled = [Pattern(text) for text in patterns]

    assert ([], compiled) == select(compiled, names)


@settings(max_examples=200)
@given(
    st.lists(st.text("ab.*", max_size=4), max_size=3),
    st.lists(st.text("ab.", max_size=4), max_size=6),
)
def test_select_agrees_with_the_plain_reading(texts: list[str], names: list[str]) -> None:
    chosen, idle = select([Pattern(text) for text in texts], names)

    assert (
        [name for name in names if any(described(text, name) for text in texts)],
        [text for text in texts if not any(described(text, name) for name in names)],
    ) == (chosen, [str(pattern) for pattern in idle])
