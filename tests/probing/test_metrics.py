"""Reading the metrics of a server, which may be anybody's."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.probing import Counted, Restarted, between, count_vllm
from overlay.formats.metrics import parse_metrics

# As prometheus_client 0.23 writes them.
PAGE = r"""# HELP vllm:spec_decode_num_drafts_total Number of\nspec \\ drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="a\"b\\c\nd{e},f=\"g\""} 5.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="x"} 7.0
# TYPE vllm:spec_decode_num_drafts_created gauge
vllm:spec_decode_num_drafts_created{engine="0",model_name="x"} 1.7637e+09
# TYPE h histogram
h_bucket{le="+Inf"} 1.0
g NaN
i_info{a="é"} 1.0
old_style  3  1395066363000
 spaced { a = "b" , } 1
"""


def test_a_page_of_metrics() -> None:
    found = parse_metrics(PAGE.encode())

    assert 12.0 == found.total("vllm:spec_decode_num_drafts_total")
    assert {"0": 5.0, "1": 7.0} == found.by_label("vllm:spec_decode_num_drafts_total", "engine")
    assert {"engine": "0", "model_name": 'a"b\\c\nd{e},f="g"'} == found[0].labels
    assert (3.0, {"b": 1.0}, None) == (found.total("old_style"), found.by_label("spaced", "a"), found.total("gone"))
    assert (True, False) == (found.mentions("vllm:"), found.mentions("sglang:"))


@pytest.mark.parametrize(
    "line",
    ["<html>", "a", "a one", "a{b} 1", 'a{b="c} 1', "a{b='c'} 1", "1a 1", "a 1 2 3", 'a{b="c"', 'a{b="c";d="e"} 1'],
)
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2: expected a metric and its value, found "):
        parse_metrics(f"fine 1\n{line}\n".encode())


@given(st.binary(max_size=200) | st.text('a{}",=\\ 1\n#', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_metrics(data)
    except ValueError:
        return


_MILLION = 1_000_000


@pytest.mark.parametrize(
    "line",
    [
        "a" + " " * _MILLION + "b c d e",
        "a{" + "} " * (_MILLION // 2),
        "a{" + 'b="",' * (_MILLION // 5) + "} 1",
        'a{b="' + "\\" * _MILLION + '"} 1',
        "a" * _MILLION,
        "a{" + '"' * _MILLION + "} 1",
        "a 1" + " 1" * (_MILLION // 2),
    ],
    ids=["blanks", "braces", "labels", "backslashes", "name", "quotes", "numbers"],
)
def test_a_hostile_line_costs_no_more_than_its_length(line: str) -> None:
    begun = time.monotonic()
    try:
        parse_metrics(line.encode())
    except ValueError as problem:
        assert len(str(problem)) < 200
    assert time.monotonic() - begun < 5


_COUNTS = st.none() | st.integers(0, 1000).map(float)


@given(st.tuples(_COUNTS, _COUNTS, _COUNTS, _COUNTS), st.tuples(*[st.integers(0, 1000)] * 4))
def test_what_was_counted_in_between_is_the_difference(before: tuple[float | None, ...], more: tuple[int, ...]) -> None:
    after = Counted(*[(was or 0.0) + extra for was, extra in zip(before, more, strict=True)])

    assert list(more) == list(between(Counted(*before), after)[:4])
    if any(more):
        with pytest.raises(Restarted):
            between(after, Counted(*[0.0] * 4) if any(after[:4]) else Counted(-1.0, -1.0))


def test_positions_are_in_the_order_of_their_numbers() -> None:
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    lines = [f'{name}{{engine="{e}",position="{p}"}} {20 - p}' for p in (10, 2, 0, 1) for e in (0, 1)]

    found = count_vllm(parse_metrics("\n".join([*lines, f'{name}{{position="x"}} 9']).encode()))

    assert (40.0, 38.0, 36.0, 20.0) == found.positions
