"""The measurement itself: what counts as unset, as other values, and which word follows."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines.real.judging import Outcome, judge_draft, judge_target
from tests.engines.real.trees import LEFT_OUT, Tree
from tests.support.checkpoints import tensor

RUNNERS = Path(__file__).parent / "runners"


@pytest.fixture(scope="module")
def outcomes() -> Any:
    """The module that runs inside the engines' environment."""
    spec = importlib.util.spec_from_file_location("outcomes", RUNNERS / "outcomes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name, dtype in (("norm", torch.bfloat16), ("packed", torch.int32), ("scale", torch.float8_e4m3fn)):
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(4, 2).to(dtype), requires_grad=False))
        self.attn = torch.nn.Module()
        self.attn.k_scale = torch.nn.Parameter(torch.ones(()))


def test_what_nobody_loads_is_unset_whatever_its_dtype(outcomes: Any) -> None:
    model = Model()

    outcomes.mark(model)

    assert outcomes.describe(model.named_parameters())["unset"] == ["norm", "packed", "scale"]
    assert model.attn.k_scale == 1  # the scale of a cache has a default


def test_what_is_half_loaded_has_another_value_than_what_is_loaded(outcomes: Any) -> None:
    whole, half = Model(), Model()
    outcomes.mark(half)
    half.norm[:2] = 0

    described = outcomes.describe(half.named_parameters())

    assert "norm" not in described["unset"]
    assert described["values"]["norm"] != outcomes.describe(whole.named_parameters())["values"]["norm"]


def test_another_float_type_of_the_same_values_is_no_difference(outcomes: Any) -> None:
    values = torch.tensor([1.0, -0.5, 3e-5])
    same = [values.bfloat16(), values.bfloat16().float(), values.bfloat16().half()]

    assert len({outcomes.describe([("w", held)])["values"]["w"] for held in same}) == 1


def test_an_error_is_the_answer_with_its_place(outcomes: Any) -> None:
    def load(directory: str) -> Iterator[tuple[str, torch.Tensor]]:
        yield "norm", torch.ones(2)
        raise KeyError(directory)

    answer = outcomes.attempt(load, "model.layers.78")

    assert answer["error"] == "KeyError: 'model.layers.78'"
    assert answer["at"].startswith(str(Path(__file__)))


def loaded(unset: tuple[str, ...] = (), **values: str) -> Outcome:
    return {"values": values, "unset": list(unset)}


def tree(*names: str, declared: int | None = 1) -> Tree:
    config = {"num_hidden_layers": 78, "num_nextn_predict_layers": declared}
    shards = {"model.safetensors": tuple(tensor(name) for name in names)}
    return Tree(shards=shards, weight_map=None, metadata=LEFT_OUT, config=config)


GOOD = loaded(eh_proj="1", enorm="2", lm_head="3")
HELD = tree("model.layers.78.enorm.weight")
FAILED: Outcome = {"error": "KeyError: 'x'", "at": "file.py:1"}


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (GOOD, "ok"),
        (loaded(eh_proj="1", enorm="2", lm_head="9"), "ok"),  # the target's head takes its place
        (loaded(("lm_head",), eh_proj="1", enorm="2", lm_head="9"), "ok"),
        (loaded(eh_proj="1", enorm="9", lm_head="3"), "wrong"),
        (loaded(("enorm",), eh_proj="1", enorm="9", lm_head="3"), "wrong"),
        (loaded(("enorm", "eh_proj"), eh_proj="9", enorm="9", lm_head="3"), "absent"),
        (FAILED, "refuses"),
    ],
)
def test_a_draft_is_judged_by_what_is_its_own(outcome: Outcome, word: str) -> None:
    assert judge_draft(outcome, [FAILED, GOOD], HELD) == word


def test_a_target_is_judged_by_everything() -> None:
    other_head = loaded(eh_proj="1", enorm="2", lm_head="9")

    assert [judge_target(it, [GOOD]) for it in (GOOD, other_head, FAILED)] == ["ok", "wrong", "refuses"]


@pytest.mark.parametrize(
    ("held", "word"),
    [
        (tree("model.norm.weight", declared=None), "absent"),
        (tree("model.norm.weight", declared=0), "absent"),
        (tree("model.norm.weight", declared=1), "refuses"),
        (tree("model.layers.78.enorm.weight", declared=None), "refuses"),
    ],
)
def test_a_refusal_counts_where_somebody_would_ask(held: Tree, word: str) -> None:
    assert judge_draft(FAILED, [], held) == word


def test_a_tree_is_written_as_it_says(tmp_path: Path) -> None:
    made = tree("a.weight").add("b.safetensors", [tensor("b.weight")], listed=False)

    made.write(tmp_path / "checkpoint")

    written = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}
    assert sorted(written) == ["b.safetensors", "config.json", "model.safetensors"]
    assert json.loads(written["config.json"])["num_hidden_layers"] == 78
