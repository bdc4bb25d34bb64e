"""Cards that strangers wrote: YAML that no JSON can say, that holds itself, or that grows when it is written out."""

from __future__ import annotations

import datetime
import time

import pytest

from overlay.core.carding import CardProblem, choose, front_of, merge, take_apart

PART = "## Ours"
PLAIN = b"---\nb: c\n---\nWords.\n"


@pytest.mark.parametrize(
    "front",
    ["1: a\nb: c\n", "no: a\nb: c\n", "2024-01-01: a\nb: {1: 2, x: 3}\n", "b: !!set {x, 1}\n", "b: !!binary aGk=\n"],
)
def test_keys_and_values_of_any_kind_are_compared_and_kept(front: str) -> None:
    card = f"---\n{front}---\nWords.\n".encode()

    chosen, _ = choose(card, PLAIN)
    first = merge(card, PART, {"license": "mit"})

    assert PLAIN == chosen
    assert front in first.decode()
    assert first == merge(first, PART, {"license": "mit"})
    assert take_apart(first).edited is False


def test_a_value_of_ours_that_is_no_text_is_ours_the_next_time_too() -> None:
    first = merge(b"Words.\n", PART, {"pipeline_tag": datetime.date(2024, 1, 1)})

    again = merge(first, PART, {"pipeline_tag": "text-generation"})

    assert {"pipeline_tag": "text-generation"} == front_of(again)


HOLDS_ITSELF = "a: &x [*x]\n"
GROWS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize("front", [HOLDS_ITSELF, GROWS])
def test_what_holds_itself_or_grows_is_no_front_matter(front: str) -> None:
    card = f"---\n{front}---\nWords.\n".encode()
    begun = time.monotonic()

    assert {} == front_of(card)
    assert PLAIN == choose(card, PLAIN)[0]
    with pytest.raises(CardProblem, match="expected no aliases"):
        merge(card, PART, {})
    assert time.monotonic() - begun < 5
