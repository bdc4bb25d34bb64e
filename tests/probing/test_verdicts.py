"""What `overlay probe` says of a draft, against servers that speak as the engines do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.core.probing import GARBAGE_BELOW, Probe
from overlay.errors import UsageError
from overlay.running import probing
from tests.probing.servers import VLLM, Engine, SGLang, serving
from tests.support.commands import overlay

PROMPTS = ("one", "two", "three")


def probed(server: Engine, /, **options: Any) -> Probe:
    with serving(server) as url:
        return api.probe(url, **{"prompts": PROMPTS, "tokens": 31, **options})


def verdict(found: Probe) -> tuple[str, float | None]:
    length = found.acceptance.length if found.acceptance is not None else None
    return found.judgement.verdict, length and round(length, 3)


@pytest.mark.parametrize("engine", [VLLM(), SGLang()], ids=["vllm", "sglang"])
def test_a_draft_that_is_right_is_active_with_its_acceptance(engine: Engine) -> None:
    found = probed(engine)

    # 30 tokens in steps of 3, 2 and 1 tokens: 5 rounds of three steps, of which 3 tokens are accepted
    assert ("active", 2.0) == verdict(found)
    assert found.acceptance is not None
    assert (45, 90, 45) == (found.acceptance.drafts, found.acceptance.drafted, found.acceptance.accepted)
    assert [0.667, 0.333] == [round(share, 3) for share in found.acceptance.positions]
    assert (93, 3, 0) == (found.ran.tokens, len(found.ran.completions), found.ran.failed)
    assert () == found.notes


@pytest.mark.parametrize("engine", [VLLM(accepted=(0,)), SGLang(accepted=(0,))], ids=["vllm", "sglang"])
def test_a_draft_that_is_never_right_is_garbage(engine: Engine) -> None:
    assert ("garbage", 1.0) == verdict(probed(engine))


@pytest.mark.parametrize("engine", [VLLM(accepted=None), SGLang(accepted=None)], ids=["vllm", "sglang"])
def test_a_server_without_speculation_is_inert(engine: Engine) -> None:
    found = probed(engine)

    assert ("inert", None) == verdict(found)
    assert "the server was started without speculative decoding" == found.judgement.reason


def test_speculation_that_makes_no_draft_is_inert() -> None:
    found = probed(VLLM(accepted=()))

    assert ("inert", None) == verdict(found)
    assert "the server speculates, and made no draft for 93 tokens" == found.judgement.reason


@pytest.mark.parametrize(("right", "expected"), [(1, "garbage"), (2, "active")])
def test_the_line_between_garbage_and_active(right: int, expected: str) -> None:
    accepted = tuple(int(step < right) for step in range(30))  # 1 or 2 of 30 drafts

    found = probed(VLLM(accepted=accepted, draft_tokens=1), tokens=31 + right)

    assert right / 30 < GARBAGE_BELOW or right == 2
    assert expected == found.judgement.verdict


def test_too_few_drafts_condemn_nobody_and_one_that_is_right_acquits() -> None:
    few = probed(VLLM(accepted=(0,)), tokens=4)
    lucky = probed(VLLM(accepted=(1,)), tokens=3)

    assert "unclear" == few.judgement.verdict
    assert "expected at least 16 drafts to judge by, found 9: ask for more --tokens" == few.judgement.reason
    assert "active" == lucky.judgement.verdict


# Where the numbers come from


def test_sglang_that_says_nothing_of_a_completion_is_counted_by_its_metrics() -> None:
    engine = SGLang()
    engine.details = False

    found = probed(engine)

    assert ("active", 2.0) == verdict(found)
    assert found.acceptance is not None
    assert ("counters", 45, None, 45) == (
        found.acceptance.source,
        found.acceptance.drafts,
        found.acceptance.drafted,
        found.acceptance.accepted,
    )


@pytest.mark.parametrize(("average", "expected"), [(1.0, "garbage"), (1.8, "active")])
def test_old_sglang_without_metrics_is_judged_by_its_average_and_that_is_said(average: float, expected: str) -> None:
    engine = SGLang(metrics=False)
    engine.details, engine.info, engine.average = False, "/get_server_info", average

    found = probed(engine)

    assert (expected, average) == verdict(found)
    assert found.notes[0].startswith("the acceptance length is the mean since the server started")


def test_sglang_that_counts_nothing_at_all_is_unclear() -> None:
    engine = SGLang(metrics=False)
    engine.details = False

    found = probed(engine)

    assert ("unclear", None) == verdict(found)
    assert found.judgement.reason.endswith("start it with --enable-metrics")


@pytest.mark.parametrize("engine", [VLLM(metrics=False), VLLM()], ids=["404", "nothing of vLLM"])
def test_vllm_without_statistics_is_unclear(engine: VLLM) -> None:
    if engine.metrics:
        engine.overrides["/metrics"] = lambda: (200, "text/plain", b"python_gc_objects_collected_total 1.0\n")

    found = probed(engine)

    assert ("unclear", None) == verdict(found)
    assert "the server shows no metrics: start it without --disable-log-stats" == found.judgement.reason


def test_counters_that_come_late_are_waited_for() -> None:
    found = probed(VLLM(lag=2))

    assert ("active", 2.0) == verdict(found)
    assert () == found.notes


def test_other_peoples_requests_are_said() -> None:
    found = probed(VLLM(on_completion=lambda engine: engine.counts.update(tokens=100)))

    assert found.notes == ("the server generated 393 tokens in that time, 93 of them for this probe",)


def test_only_some_of_the_tokens_in_the_counters_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_WAITS_S", (0.0, 0.01))
    found = probed(VLLM(on_completion=lambda engine: engine.counts.subtract(tokens=10)))

    assert found.notes == ("its counters saw 63 of 93 tokens: do several servers share this address?",)


def test_the_engine_is_told_by_its_metrics_or_by_the_user() -> None:
    silent = VLLM()
    silent.owner = "somebody"
    mute = SGLang(metrics=False)
    mute.owner = "a router"

    assert "vllm" == probed(silent).engine
    assert "sglang" == probed(mute, engine="sglang").engine
    with serving(mute) as url:
        assert "expected a server of SGLang or vLLM" in str(overlay("probe", url).refusal)


# What is asked


def test_what_is_asked_of_each_engine() -> None:
    vllm, sglang = VLLM(), SGLang()
    probed(vllm)
    probed(sglang)
    body = {"model": "tiny", "prompt": "one", "max_tokens": 31, "temperature": 0, "stream": False}

    assert [body, body] == vllm.bodies[:2]  # the first warms up
    assert {**body, "return_spec_tokens_details": True} == sglang.bodies[0]
    assert ["one", "one", "two", "three"] == [asked["prompt"] for asked in vllm.bodies]
    assert {"/v1/models", "/v1/completions", "/metrics", "/version"} == {path for path, _ in vllm.asked}
    assert {"/v1/models", "/v1/completions", "/metrics", "/server_info"} == {path for path, _ in sglang.asked}


def test_a_sweep_asks_as_many_at_a_time_as_it_says() -> None:
    engine = VLLM(per_token=0.002)

    found = probed(engine, sweep=(1, 4))

    assert [(1, 3), (4, 8)] == [(ran.concurrency, len(ran.completions)) for ran, _ in found.sweep]
    assert 4 == engine.most_at_once
    assert [2.0, 2.0] == [part.length for _, part in found.sweep if part is not None]
    one, four = (ran for ran, _ in found.sweep)
    assert four.rate > 2 * one.rate
    assert 0.9 * one.tokens / one.seconds < one.rate <= one.tokens / (0.062 * 3)


def test_requests_of_a_sweep_that_fail_are_counted() -> None:
    engine = VLLM()
    crowd = engine._completion
    engine._completion = lambda body: (  # type: ignore[method-assign]
        (503, "text/plain", b"busy") if len(engine.bodies) > 7 else crowd(body)
    )

    found = probed(engine, sweep=(2, 4))

    (_, _), (ran, _) = found.sweep
    assert ran.failed > 0
    assert 8 == ran.failed + len(ran.completions)


# The command


@pytest.mark.parametrize(("accepted", "code"), [((1,), 0), ((0,), 1), (None, 1)])
def test_the_exit_code_says_whether_it_fires(accepted: tuple[int, ...] | None, code: int) -> None:
    with serving(VLLM(accepted=accepted)) as url:
        assert code == overlay("probe", url).code


def test_the_words_for_people(tmp_path: Path) -> None:
    with serving(SGLang()) as url:
        ended = overlay("probe", f"{url}/v1", "--tokens", "31", "--sweep", "1,2", "--markdown", tmp_path / "draft.md")

    lines = ended.output.splitlines()
    assert f"active: {url} (sglang 0.5.23, tiny)" == lines[0]
    assert "  2.00 tokens a step: the draft fires" == lines[1]
    assert "  acceptance length     2.000 tokens a step (counted by the server for each of these completions)" in lines
    assert "  accepted by position  66.7%, 33.3%" in lines
    assert "  completions           4 of at most 31 tokens, one at a time" in lines
    assert ["1", "4"] == lines[-2].split()[:2]


def test_the_page_says_the_numbers_and_not_where_the_server_is(tmp_path: Path) -> None:
    engine = VLLM(model="/home/me/models/GLM|5.2_<b>")
    with serving(engine) as url:
        overlay("probe", url, "--tokens", "31", "--sweep", "2", "--markdown", tmp_path / "draft.md")

    page = (tmp_path / "draft.md").read_text()
    assert page.startswith(
        "# Draft of GLM\\|5.2\\_\\<b\\>\n\n| measured | value |\n|---|---|\n| engine | vllm 0.33.0 |\n"
    )
    assert "| verdict | active: 2.00 tokens a step: the draft fires |\n" in page
    assert "## Throughput\n\n| at a time | requests |" in page
    assert "/home/me" not in page
    assert url.partition("//")[2] not in page


def test_quiet_is_the_verdict_and_json_the_document() -> None:
    with serving(VLLM()) as url:
        quiet = overlay("probe", url, "-q")
        document = overlay("probe", url, "--tokens", "31", "--sweep", "2", "--json").document

    assert "active\n" == quiet.output
    assert ("probe", 1, "active", url) == tuple(document[key] for key in ("kind", "format", "verdict", "server"))
    assert {"length", "drafts", "drafted", "accepted", "positions", "source"} == document["acceptance"].keys()
    assert [2] == [row["concurrency"] for row in document["sweep"]]
    assert document == json.loads(json.dumps(document, allow_nan=False))


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\ufeffGrüße\n\n  two \n", encoding="utf-8")
    engine = VLLM()
    with serving(engine) as url:
        overlay("probe", url, "--prompts", tmp_path / "prompts.txt")

    assert ["Grüße", "Grüße", "  two "] == [asked["prompt"] for asked in engine.bodies]


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), 1e10])
def test_a_time_that_nobody_can_wait_for_is_refused(timeout: float) -> None:
    with pytest.raises(UsageError, match="expected a timeout"):
        api.probe("http://127.0.0.1:9", timeout=timeout)
