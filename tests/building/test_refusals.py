"""Bad donors and bad steps: one line that names tensor, file and rule, the right exit code, and nothing is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.building.donors import INT4, graft, manifest_text
from tests.support.checkpoints import contents_of
from tests.support.commands import Ended, overlay

EXPERT = "model.layers.78.mlp.experts.0.up_proj"
SHARD = "model.safetensors"

Tensors = dict[str, Tensor]


def plain(rows: int = 16, columns: int = 64) -> Tensors:
    """A weight in BF16."""
    weight = torch.arange(rows * columns).reshape(rows, columns) / 1000 - 0.5
    return {f"{EXPERT}.weight": weight.bfloat16()}


def nvfp4(rows: int = 16, columns: int = 64) -> Tensors:
    """A weight in ModelOpt's NVFP4."""
    return {
        f"{EXPERT}.weight": torch.arange(rows * columns // 2).reshape(rows, columns // 2).to(torch.uint8),
        f"{EXPERT}.weight_scale": torch.ones(rows, columns // 16).to(torch.float8_e4m3fn),
        f"{EXPERT}.weight_scale_2": torch.tensor(0.01),
    }


def packed(rows: int = 16, columns: int = 64) -> Tensors:
    """A weight in compressed-tensors' INT4."""
    return {
        f"{EXPERT}.weight_packed": torch.zeros(rows, columns // 8, dtype=torch.int32),
        f"{EXPERT}.weight_scale": torch.ones(rows, columns // 32, dtype=torch.bfloat16),
        f"{EXPERT}.weight_shape": torch.tensor([rows, columns]),
        f"{EXPERT}.weight_zero_point": torch.zeros(rows // 8, columns // 32, dtype=torch.int32),
    }


def router(experts: int = 4, width: int = 32) -> Tensors:
    """A router and its experts in BF16."""
    mlp = "model.layers.78.mlp"
    weights = {
        f"{mlp}.experts.{number}.{part}.weight": torch.ones(width, width, dtype=torch.bfloat16)
        for number in range(experts)
        for part in ("gate_proj", "up_proj", "down_proj")
    }
    gate = {f"{mlp}.gate.weight": torch.ones(experts, width, dtype=torch.bfloat16)}
    return {**weights, **gate, f"{mlp}.gate.e_score_correction_bias": torch.ones(experts)}


def but(tensors: Tensors, suffix: str, change: Callable[[Tensor], Tensor] | None) -> Tensors:
    """`tensors` with one of them changed, or left out."""
    name = f"{EXPERT}.{suffix}"
    changed = dict(tensors)
    value = changed.pop(name)
    return changed if change is None else {**changed, name: change(value)}


def set_to(value: float) -> Callable[[Tensor], Tensor]:
    """One element becomes `value`."""

    def change(tensor: Tensor) -> Tensor:
        wide = tensor.float().reshape(-1)
        wide[wide.numel() // 2] = value
        return wide.reshape(tensor.shape).to(tensor.dtype)

    return change


NAN, INF = float("nan"), float("inf")
DEQUANTIZE: dict[str, Any] = {"dequantize": "modelopt-nvfp4"}
QUANTIZE: dict[str, Any] = {"quantize": INT4}

CASES: dict[str, tuple[Tensors, list[dict[str, Any]], str, str]] = {
    "NaN in weights": (but(plain(), "weight", set_to(NAN)), [QUANTIZE], "weight", "finite-weight"),
    "Inf in weights": (but(plain(), "weight", set_to(-INF)), [QUANTIZE], "weight", "finite-weight"),
    "Inf in weights of FP8": (
        but(plain(), "weight", set_to(INF)),
        [{"quantize": "fp8-channel"}],
        "weight",
        "finite-weight",
    ),
    "NaN in scales": (but(nvfp4(), "weight_scale", set_to(NAN)), [DEQUANTIZE], "weight_scale", "finite-scale"),
    "Inf in the tensor's scale": (
        but(nvfp4(), "weight_scale_2", set_to(INF)),
        [DEQUANTIZE],
        "weight_scale_2",
        "finite-scale",
    ),
    "NaN in scales of INT4": (
        but(packed(), "weight_scale", set_to(NAN)),
        [{"dequantize": "pack-quantized"}],
        "weight_scale",
        "finite-scale",
    ),
    "a missing partner": (but(nvfp4(), "weight_scale_2", None), [DEQUANTIZE], "weight_scale_2", "partner"),
    "a missing zero point": (
        but(packed(), "weight_shape", None),
        [{"dequantize": "pack-quantized"}],
        "weight_shape",
        "partner",
    ),
    "an odd column count": (plain(columns=33), [{"quantize": "modelopt-nvfp4"}], "weight", "even-columns"),
    "a group size that does not divide": (plain(columns=48), [QUANTIZE], "weight", "group-divides"),
    "a scale dtype that is forbidden": (
        but(nvfp4(), "weight_scale", lambda scale: scale.float()),
        [DEQUANTIZE],
        "weight_scale",
        "dtype",
    ),
    "quantised otherwise": (packed(), [DEQUANTIZE], "weight_packed", "already-quantised"),
    "quantised already": (nvfp4(), [QUANTIZE], "weight", "already-quantised"),
}


def build(folder: Path, tensors: Tensors, steps: list[dict[str, Any]], **changes: Any) -> Ended:
    (folder / "donor").mkdir()
    save_file(tensors, folder / "donor" / SHARD)
    (folder / "draft.yaml").write_text(manifest_text(grafts=[graft(steps=steps)], files={}, **changes))
    return overlay("build", folder / "draft.yaml", "-o", folder / "built")


def left(folder: Path) -> set[str]:
    """What is in `folder` beside the inputs; a lock file, which is empty, stays by design."""
    return (
        {path.name for path in folder.iterdir()}
        - {"donor", "draft.yaml", "keep.json", "target"}
        - {".built.overlay.lock"}
    )


@pytest.mark.parametrize("case", CASES)
def test_a_bad_donor_is_refused_in_one_line_and_nothing_is_left(tmp_path: Path, case: str) -> None:
    tensors, steps, part, rule = CASES[case]

    ended = build(tmp_path, tensors, steps)

    assert ended.refusal is not None
    assert 3 == ended.code
    assert f"{EXPERT}.{part}" in ended.refusal.line
    assert SHARD in ended.refusal.line
    assert f"(rule {rule})" in ended.refusal.line
    assert "\n" not in ended.refusal.line
    assert "" != ended.refusal.hint
    assert set() == left(tmp_path)


def keep(folder: Path, kept: object, experts: int = 4) -> Ended:
    """Build with a keep list in a file, beside a target of `experts` experts whose scheme is followed."""
    folder.joinpath("keep.json").write_text(json.dumps(kept))
    scheme = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": []}
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    config = {"n_routed_experts": experts, "quantization_config": {**scheme, "config_groups": groups}}
    (folder / "target").mkdir()
    (folder / "target" / "config.json").write_text(json.dumps(config))
    steps: list[dict[str, Any]] = [{"keep-experts": "keep.json"}, {"quantize": {"like": "target"}}]
    return build(folder, router(), steps, donors={"mtp": "donor", "target": "target"})


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (
            [0, 1],
            "model.layers.78.mlp.experts: expected a list of 3 experts, found 2 (rule keep-list)",
        ),
        ({"78": [0, 1, 3, 2]}, "keep.json: 78: expected experts in ascending order, found 2 after a higher number"),
        ([0, 1, 1], "keep.json: expected each expert once, found 1 again"),
        (
            [0, 1, 4],
            "model.layers.78.mlp.experts: expected experts 0 to 3, found 4 (rule keep-list)",
        ),
        ([], "keep.json: expected a list of experts, found none"),
    ],
)
def test_a_keep_list_that_does_not_fit_is_refused(tmp_path: Path, kept: object, says: str) -> None:
    ended = keep(tmp_path, kept, experts=3)

    assert ended.refusal is not None
    assert 3 == ended.code
    assert says in ended.refusal.line
    assert set() == left(tmp_path)


def test_a_keep_list_in_the_manifest_is_refused_with_its_place(tmp_path: Path) -> None:
    ended = build(tmp_path, router(), [{"keep-experts": [0, 0]}])

    assert ended.refusal is not None
    assert 3 == ended.code
    assert "grafts[0].steps[0].keep-experts: expected each expert once, found 0 again" in ended.refusal.line
    assert set() == left(tmp_path)


def test_more_loss_than_the_limits_allow_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "donor").mkdir()
    save_file(plain(), tmp_path / "donor" / SHARD)
    one = graft(steps=[QUANTIZE], limits={"relative_rms": 0.0001})
    (tmp_path / "draft.yaml").write_text(manifest_text(grafts=[one], files={}))

    ended = overlay("build", tmp_path / "draft.yaml", "-o", tmp_path / "built")

    assert ended.refusal is not None
    assert 1 == ended.code
    assert "mlp.experts: quantize bits=4" in ended.refusal.line
    assert "expected relative_rms of at most 0.0001, found 0.0" in ended.refusal.line
    assert set() == left(tmp_path)


def test_what_is_finished_is_not_kept_either_when_only_another_donor_could_help(tmp_path: Path) -> None:
    (tmp_path / "donor").mkdir()
    other = {name.replace("experts.0", "experts.1"): tensor for name, tensor in plain().items()}
    save_file({**other, **but(plain(), "weight", set_to(NAN))}, tmp_path / "donor" / SHARD)
    good = graft(shard="good.safetensors", tensors=["**.experts.1.**"], steps=[QUANTIZE])
    bad = graft(shard="late.safetensors", tensors=["**.experts.0.**"], steps=[QUANTIZE])
    (tmp_path / "draft.yaml").write_text(manifest_text(grafts=[good, bad], files={}))

    ended = overlay("build", tmp_path / "draft.yaml", "-o", tmp_path / "built")

    assert 3 == ended.code
    assert set() == left(tmp_path)


def test_a_folder_with_anything_in_it_is_refused(work: Path) -> None:
    (work / "built").mkdir()
    (work / "built" / "mine.txt").write_text("mine")

    ended = overlay("build", work / "draft.yaml", "-o", work / "built")

    assert ended.refusal is not None
    assert (4, "choose another folder for -o") == (ended.code, ended.refusal.hint)
    assert ["mine.txt"] == [path.name for path in (work / "built").iterdir()]


@pytest.mark.parametrize("place", ["donor/built", "donor"])
def test_a_folder_in_a_donor_is_refused(work: Path, place: str) -> None:
    before = contents_of(work / "donor")

    ended = overlay("build", work / "draft.yaml", "-o", work / place)

    assert ended.refusal is not None
    assert (4, "choose another folder for -o") == (ended.code, ended.refusal.hint)
    assert before == contents_of(work / "donor")


def test_a_donor_that_is_not_here_is_refused_with_what_to_type(work: Path) -> None:
    (work / "draft.yaml").write_text(manifest_text(donors={"mtp": "hf://0xSero/GLM-5.2-NVFP4-REAP-469B@main"}))

    ended = overlay("build", work / "draft.yaml", "-o", work / "built")

    assert ended.refusal is not None
    assert 5 == ended.code
    assert "0xSero/GLM-5.2-NVFP4-REAP-469B" in ended.refusal.line
    assert "hf download 0xSero/GLM-5.2-NVFP4-REAP-469B" in ended.refusal.hint
    assert set() == left(work)


def test_a_manifest_without_grafts_has_nothing_to_build(work: Path) -> None:
    text = manifest_text(base="donor", donors={}, grafts=[], files={"config.json": {"merge": {"x": 1}}})
    (work / "draft.yaml").write_text(text)

    ended = overlay("build", work / "draft.yaml", "-o", work / "built")

    assert ended.refusal is not None
    assert 3 == ended.code
    assert "overlay apply" in ended.refusal.hint
