"""The numbers of a build, against compressed-tensors and the formula of ModelOpt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.building.donors import graft, load, manifest_text, plain_weight
from tests.building.running import build

LAYER = "model.layers.78"
PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")

Tensors = dict[str, Tensor]


@pytest.fixture
def library() -> Any:
    """compressed-tensors' scheme of the draft."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.quant_scheme import QuantizationScheme

    weights = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=False)
    return QuantizationScheme(targets=["Linear"], weights=weights)


def quantised_by(library: Any, weight: Tensor) -> Tensors:
    """What the library's observer and compressor make of a weight."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    groups = weight.unflatten(-1, (-1, 32))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), library.weights)
    stored = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    compressed: Tensors = PackedQuantizationCompressor.compress(stored, library)
    return compressed


def dequantised_by(library: Any, parts: Tensors) -> Tensor:
    from compressed_tensors.compressors import PackedQuantizationCompressor

    weight: Tensor = PackedQuantizationCompressor.decompress(dict(parts), library)["weight"]
    return weight


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(tensor.clone().flatten().view(torch.uint8) for tensor in (one, other)))


def test_the_library_gives_the_same_parts_and_reads_the_same_numbers(work: Path, library: Any) -> None:
    donor, built = load(work / "donor"), load(build(work))
    modules = sorted(name.removesuffix(".weight_packed") for name in built if name.endswith(".weight_packed"))
    assert 8 * 3 + 3 + 6 == len(modules)

    for module in modules:
        ours = {part: built[f"{module}.{part}"] for part in PARTS}
        theirs = quantised_by(library, plain_weight(donor, module))

        assert theirs.keys() == ours.keys()
        for part in PARTS:
            assert same(theirs[part], ours[part]), f"{module}.{part}"
        assert same(dequantised_by(library, theirs), dequantised_by(library, ours)), module


def test_what_is_not_quantised_is_the_donors_bytes(work: Path) -> None:
    donor, built = load(work / "donor"), load(build(work))

    copied = [name for name in built if name.endswith((".weight", ".bias", "e_score_correction_bias"))]
    assert 14 == len(copied)
    for name in copied:
        assert same(donor[name], built[name]), name


def test_nvfp4_becomes_what_the_formula_says_in_bf16(work: Path) -> None:
    (work / "draft.yaml").write_text(manifest_text(grafts=[graft(steps=[{"dequantize": "modelopt-nvfp4"}])]))

    donor, folder = load(work / "donor"), build(work)

    built = load(folder)
    assert 47 == len(built)
    for name, tensor in built.items():
        expected = plain_weight(donor, name.removesuffix(".weight")) if name.endswith(".weight") else donor[name]
        assert same(expected, tensor), name
    assert "quantization_config" not in json.loads((folder / "config.json").read_bytes())


def test_kept_experts_have_the_numbers_of_those_they_were(work: Path, library: Any) -> None:
    kept = [0, 2, 3, 4, 6, 7]
    steps = [{"keep-experts": kept}, *graft()["steps"]]
    (work / "draft.yaml").write_text(manifest_text(grafts=[graft(steps=steps)]))

    donor, built = load(work / "donor"), load(build(work))

    gate = f"{LAYER}.mlp.gate"
    for name in (f"{gate}.weight", f"{gate}.e_score_correction_bias"):
        assert same(donor[name][kept], built[name])
    for new, old in enumerate(kept):
        for part in ("gate_proj", "up_proj", "down_proj"):
            ours = {p: built[f"{LAYER}.mlp.experts.{new}.{part}.{p}"] for p in PARTS}
            theirs = quantised_by(library, plain_weight(donor, f"{LAYER}.mlp.experts.{old}.{part}"))
            assert same(dequantised_by(library, theirs), dequantised_by(library, ours))
