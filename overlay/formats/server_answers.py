"""What a running server answers, as far as `probe` reads it: its model, what it says of itself, and a completion.

vLLM and SGLang both speak OpenAI's completions API.  What SGLang adds to it, and its ``/server_info``, are read here too.
Every reader raises ValueError for what is not of the expected form, and ignores what it does not know.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from overlay.formats import strict_json


class Model(NamedTuple):
    """What ``/v1/models`` says of the first model."""

    name: str
    """The ``id``, by which completions ask for it."""
    owner: str
    """``owned_by``: ``vllm`` (vLLM 0.33.0 entrypoints/serve/engine/protocol.py:109), ``sglang`` (SGLang 0.5.23
    srt/entrypoints/openai/protocol.py:93), or somebody else."""


class ServerInfo(NamedTuple):
    """What SGLang says of itself."""

    version: str
    speculates: bool | None
    """Whether it was started with a speculative algorithm; None where it does not say."""
    average: float | None
    """Mean acceptance length since the server started; None before anything was counted."""


class Steps(NamedTuple):
    """What one completion says of its own drafts."""

    drafts: int
    """Times that the target looked at a draft."""
    drafted: int
    """Draft tokens."""
    accepted: int
    """Draft tokens that the target accepted."""
    histogram: tuple[int, ...]
    """Drafts of which exactly 0, 1, 2 … tokens were accepted; empty where it is not said."""


class Completion(NamedTuple):
    """A completion."""

    tokens: int
    """Tokens that were generated."""
    steps: Steps | None
    """None where the answer says nothing of drafts."""


_VERIFIED: Final = "spec_verify_ct"


def read_model(data: bytes) -> Model:
    """The first model of ``/v1/models``.

    Raises:
        ValueError: the answer is of another form, or lists no model.
    """
    document = _object(data)
    models = document.get("data")
    first = models[0] if isinstance(models, list) and models else None
    if not isinstance(first, dict) or not isinstance(first.get("id"), str):
        raise ValueError("expected a list of models under data, found none")
    owner = first.get("owned_by")
    return Model(first["id"], owner if isinstance(owner, str) else "")


def read_server_info(data: bytes) -> ServerInfo:
    """SGLang's ``/server_info``: its arguments beside ``version`` and ``internal_states``, one for each data-parallel rank.

    Source: SGLang 0.5.23 srt/entrypoints/http_server.py:864 and
    srt/managers/scheduler_components/internal_state.py:119-125 (``avg_spec_accept_length``, there after the first decode
    log line); 0.5.13 has the same keys.

    Raises:
        ValueError: the answer is of another form.
    """
    document = _object(data)
    states = document.get("internal_states")
    if not isinstance(states, list):
        raise ValueError("expected internal_states, as SGLang has them, found none")
    averages = [found for state in states if (found := _average(state)) is not None]
    version = document.get("version")
    speculates = bool(document["speculative_algorithm"]) if "speculative_algorithm" in document else None
    average = sum(averages) / len(averages) if averages else None
    return ServerInfo(version if isinstance(version, str) else "", speculates, average)


def read_version(data: bytes) -> str:
    """The version that vLLM's ``/version`` names (0.33.0 entrypoints/serve/instrumentator/basic.py:53); "" without one.

    Raises:
        ValueError: the answer is no JSON object.
    """
    version = _object(data).get("version")
    return version if isinstance(version, str) else ""


def read_completion(data: bytes) -> Completion:
    """A completion that was not streamed.

    SGLang adds what it knows of the drafts under ``sglext.spec_tokens_details`` when the request asks for it with
    ``return_spec_tokens_details`` (0.5.23 srt/entrypoints/openai/protocol.py:393 and :454; 0.5.13 ignores the wish).

    Raises:
        ValueError: the answer is of another form, or does not count its tokens.
    """
    document = _object(data)
    if not isinstance(document.get("choices"), list):
        raise ValueError("expected a completion with choices, found none")
    usage = document.get("usage")
    tokens = _count(usage, "completion_tokens") if isinstance(usage, dict) else None
    if tokens is None:
        raise ValueError("expected the number of tokens under usage.completion_tokens, found none")
    extra = document.get("sglext")
    return Completion(tokens, _read_steps(extra.get("spec_tokens_details")) if isinstance(extra, dict) else None)


def _read_steps(details: Any) -> Steps | None:
    """Steps out of ``SpecTokensDetails``; None where the numbers do not make sense."""
    if isinstance(details, list):
        details = details[0] if details else None
    if not isinstance(details, dict):
        return None
    drafts, accepted = _count(details, _VERIFIED), _count(details, "spec_num_correct_drafts")
    drafted = _count(details, "spec_num_proposed_drafts")
    if drafts is None or accepted is None or drafted is None or accepted > drafted:
        return None
    told = details.get("spec_correct_drafts_histogram")
    bars = [bar for bar in told if type(bar) is int and bar >= 0] if isinstance(told, list) else []
    return Steps(drafts, drafted, accepted, tuple(bars) if sum(bars) == drafts else ())


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = strict_json.decode_unchecked(data)
    except strict_json.JsonProblem:
        found = "a web page" if data.lstrip()[:1] == b"<" else "something else" if data else "nothing"
        raise ValueError(f"expected JSON, found {found}") from None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object, found another value")
    return value


def _count(document: dict[str, Any], key: str) -> int | None:
    value = document.get(key)
    return value if type(value) is int and value >= 0 else None


def _average(state: Any) -> float | None:
    value = state.get("avg_spec_accept_length") if isinstance(state, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value if math.isfinite(value) and value >= 0 else None
