"""Converting: the bytes that the transforms give, whoever computes them and how, and nothing left behind by a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from overlay import transforms as t
from overlay.core.checkpoint import Shard, TensorSource
from overlay.core.diffing import source_of
from overlay.core.grafting import BUILT_METADATA
from overlay.core.recipes.recipe import Context, Recipe, plan_recipe
from overlay.errors import Conflict, EnvironmentFault, InvalidInput, Mismatch
from overlay.formats.header_text import render_header
from overlay.formats.manifest import Limits, parse_manifest
from overlay.running.converting import MIB, Conversion, Converted, Loss, convert, require_accuracy
from overlay.storage.hashing import hash_file
from overlay.storage.local import file_at
from overlay.storage.seen import read_header
from overlay.storage.shard_file import Donors
from tests.transforms.support import hostile, same

EXPERTS = "m.layers.3.mlp.experts"
INT4: dict[str, Any] = {"format": "pack-quantized", "bits": 4, "group_size": 32, "symmetric": False}

Tensors = Mapping[str, Tensor]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The path of the shard that is made, alone in its folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "made.safetensors"


def weight(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05).to(dtype)


def parts(path: str, made: Any) -> dict[str, Tensor]:
    """What an encoder gave, under its names."""
    return {f"{path}.{suffix}": part.clone() for suffix, part in made._asdict().items() if part is not None}


def donor(folder: Path, *shards: Tensors) -> list[TensorSource]:
    """`shards` as the real library writes them, and every tensor of theirs where it lies."""
    folder.mkdir(exist_ok=True)
    sources = []
    for number, tensors in enumerate(shards):
        path = folder / f"part-{number}.safetensors"
        save_file(dict(tensors), path, {"format": "pt"})
        file = file_at(str(path), path.name)
        shard = Shard(file, read_header(file))
        sources += [source_of(shard, name) for name in tensors]
    return sources


def recipe_of(sources: list[TensorSource], *steps: Any) -> Recipe:
    graft = {"shard": "a.safetensors", "from": "d", "tensors": ["**"], "steps": list(steps)}
    manifest = {"overlay": 1, "name": "x", "base": None, "donors": {"d": "d"}, "grafts": [graft]}
    return plan_recipe(sources, parse_manifest(json.dumps(manifest).encode()).grafts[0].steps, Context())


def make(
    recipe: Recipe, path: Path | None, advance: Callable[[int], None] = lambda count: None, **how: Any
) -> Converted:
    header = render_header(recipe.tensors, BUILT_METADATA)
    return convert(header, recipe, str(path) if path else None, Conversion(**how), advance)


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a shard, by the real library."""
    with safe_open(path, "pt") as shard:
        return {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118


def require_same(expected: Tensors, path: Path) -> None:
    observed = read(path)
    assert observed.keys() == expected.keys()
    assert [] == [name for name in expected if not same(expected[name], observed[name])]


# The bytes


class Chain(NamedTuple):
    """Tensors, what is done with them, and what must come of it."""

    tensors: Tensors
    steps: list[Any]
    expected: Tensors


def decoded(format: str, made: Any, restored: Tensor, **others: Any) -> Chain:
    step = {"dequantize": {"format": format, **others}}
    return Chain(parts("m.q_proj", made), [step], {"m.q_proj.weight": restored})


def encoded(made: Any, step: Any, w: Tensor) -> Chain:
    return Chain({"m.q_proj.weight": w}, [{"quantize": step}], parts("m.q_proj", made))


W = hostile(70, 256, torch.bfloat16, 1)
PLAIN = weight(70, 256)
NVFP4, CT_NVFP4 = t.quantise_modelopt_nvfp4(PLAIN), t.quantise_packed_nvfp4(PLAIN)
PACKED, PACKED8 = t.quantise_packed_integers(W), t.quantise_packed_integers(W, bits=8, group_size=None)
SYMMETRIC = t.quantise_packed_integers(W, symmetric=True)
BLOCKS, ROWS, WHOLE = t.quantise_fp8_blocks(PLAIN), t.quantise_fp8_rows(PLAIN), t.quantise_fp8_tensor(PLAIN)
MX4, MX8 = t.quantise_mxfp4(PLAIN), t.quantise_mxfp8(PLAIN)
WORDS = torch.randint(-(2**31), 2**31, (8, 16), generator=torch.Generator().manual_seed(0), dtype=torch.int64).int()
SCALES = torch.rand(2, 128, generator=torch.Generator().manual_seed(0)).half()
GPTQ = {
    "m.q_proj.qweight": WORDS.view(1, 128).repeat(8, 1),
    "m.q_proj.qzeros": WORDS[:2].clone(),
    "m.q_proj.scales": SCALES,
    "m.q_proj.g_idx": torch.arange(64, dtype=torch.int32) % 2,
}
AWQ = {"m.q_proj.qweight": WORDS, "m.q_proj.qzeros": WORDS[:2].clone(), "m.q_proj.scales": SCALES}
GATE, UP = weight(64, 64, 3), weight(64, 64, 4) * 3
SHARED = t.shared_weight_scale_2(GATE, UP)
STACK = torch.stack([weight(64, 32, seed) for seed in range(4)])


def experts(count: int, offset: int = 0) -> dict[str, Tensor]:
    return {
        f"{EXPERTS}.{e}.{part}.weight": weight(32, 64, 10 * (e + offset) + at)
        for e in range(count)
        for at, part in enumerate(("gate_proj", "up_proj"))
    }


def gate_up(expert: int) -> Tensor:
    return torch.cat([weight(32, 64, 10 * expert), weight(32, 64, 10 * expert + 1)])


CHAINS = {
    "modelopt-nvfp4": decoded("modelopt-nvfp4", NVFP4, t.dequantise_modelopt_nvfp4(*NVFP4)),
    "nvfp4-pack-quantized": decoded(
        "nvfp4-pack-quantized", CT_NVFP4, t.dequantise_packed_nvfp4(*CT_NVFP4, dtype=torch.float32), to="F32"
    ),
    "pack-quantized": decoded("pack-quantized", PACKED, t.dequantise_packed_integers(*PACKED)),
    "pack-quantized 8": decoded("pack-quantized", PACKED8, t.dequantise_packed_integers(*PACKED8, bits=8)),
    "pack-quantized sym": decoded("pack-quantized", SYMMETRIC, t.dequantise_packed_integers(*SYMMETRIC), bits=4),
    "fp8-block": decoded("fp8-block", BLOCKS, t.dequantise_fp8_blocks(*BLOCKS)),
    "fp8-channel": decoded("fp8-channel", ROWS, t.dequantise_fp8(*ROWS)),
    "fp8-tensor": decoded("fp8-tensor", WHOLE, t.dequantise_fp8(*WHOLE)),
    "mxfp4": decoded("mxfp4", MX4, t.dequantise_mxfp4(*MX4)),
    "mxfp8": decoded("mxfp8", MX8, t.dequantise_mxfp8(*MX8)),
    "awq": Chain(
        AWQ,
        [{"dequantize": "awq"}],
        {"m.q_proj.weight": t.dequantise_awq(*AWQ.values(), dtype=torch.bfloat16)},
    ),
    "gptq": Chain(
        GPTQ,
        [{"dequantize": {"format": "gptq", "to": "F16"}}],
        {"m.q_proj.weight": t.dequantise_gptq(*GPTQ.values())},
    ),
    "to int4": encoded(PACKED, INT4, W),
    "to int8 rows": encoded(
        t.quantise_packed_integers(W, bits=8, group_size=None, symmetric=True),
        {"format": "pack-quantized", "bits": 8, "group_size": "channel", "symmetric": True},
        W,
    ),
    "to int4, scales f32": encoded(t.quantise_packed_integers(PLAIN.float()), {**INT4, "scale_dtype": "F32"}, PLAIN),
    "to modelopt-nvfp4": encoded(NVFP4, "modelopt-nvfp4", PLAIN),
    "to nvfp4-pack-quantized": encoded(CT_NVFP4, "nvfp4-pack-quantized", PLAIN),
    "to fp8-block": encoded(BLOCKS, "fp8-block", PLAIN),
    "to fp8-block 48x64": Chain(
        {"m.q_proj.weight": PLAIN},
        [{"quantize": {"format": "fp8-block", "block": [48, 64], "scale_name": "weight_scale"}}],
        dict(
            zip(("m.q_proj.weight", "m.q_proj.weight_scale"), t.quantise_fp8_blocks(PLAIN, block=(48, 64)), strict=True)
        ),
    ),
    "to fp8-channel": encoded(ROWS, "fp8-channel", PLAIN),
    "to fp8-channel, scales f32": encoded(
        t.quantise_fp8_rows(PLAIN, scale_dtype=torch.float32), {"format": "fp8-channel", "scale_dtype": "F32"}, PLAIN
    ),
    "to fp8-tensor": encoded(WHOLE, "fp8-tensor", PLAIN),
    "to mxfp4": encoded(MX4, "mxfp4", PLAIN),
    "to mxfp8": encoded(MX8, "mxfp8", PLAIN),
    "nvfp4 to int4": Chain(
        parts("m.q_proj", NVFP4),
        [{"dequantize": "modelopt-nvfp4"}, {"quantize": INT4}],
        parts("m.q_proj", t.quantise_packed_integers(t.dequantise_modelopt_nvfp4(*NVFP4))),
    ),
    "shared scale": Chain(
        {"m.gate_proj.weight": GATE, "m.up_proj.weight": UP, "m.norm.weight": weight(1, 8)[0]},
        [{"quantize": "modelopt-nvfp4"}],
        {
            **parts("m.gate_proj", t.quantise_modelopt_nvfp4(GATE, SHARED)),
            **parts("m.up_proj", t.quantise_modelopt_nvfp4(UP, SHARED)),
            "m.norm.weight": weight(1, 8)[0],
        },
    ),
    "cast and rename": Chain(
        {"m.a.weight": W, "m.b.bias": W[0].clone()},
        [{"cast": "F32"}, {"rename": {"m.*.*": "n.*.x.*"}}],
        {"n.a.x.weight": W.float(), "n.b.x.bias": W[0].float()},
    ),
    "keep experts": Chain(
        {
            **experts(4),
            "m.layers.3.mlp.gate.weight": weight(4, 64),
            "m.layers.3.mlp.gate.e_score_correction_bias": SCALES[0, :4].float(),
        },
        [{"keep-experts": [1, 3]}],
        {
            **{f"{EXPERTS}.0.{p}.weight": weight(32, 64, 10 + at) for at, p in enumerate(("gate_proj", "up_proj"))},
            **{f"{EXPERTS}.1.{p}.weight": weight(32, 64, 30 + at) for at, p in enumerate(("gate_proj", "up_proj"))},
            "m.layers.3.mlp.gate.weight": weight(4, 64)[[1, 3]],
            "m.layers.3.mlp.gate.e_score_correction_bias": SCALES[0, [1, 3]].float(),
        },
    ),
    "fuse rows": Chain(
        {"m.gate_proj.weight": GATE, "m.up_proj.weight": UP},
        [{"fuse": {"parts": ["gate_proj", "up_proj"], "into": "gate_up_proj", "interleave": True}}],
        {"m.gate_up_proj.weight": torch.stack([GATE, UP], dim=1).reshape(128, 64)},
    ),
    "fuse experts": Chain(
        experts(3),
        [{"fuse": {"parts": ["gate_proj", "up_proj"], "into": "gate_up_proj", "experts": "**.experts"}}],
        {f"{EXPERTS}.gate_up_proj": torch.stack([gate_up(e) for e in range(3)])},
    ),
    "split experts": Chain(
        {f"{EXPERTS}.gate_up_proj": STACK},
        [{"split": {"from": "gate_up_proj", "into": ["gate_proj", "up_proj"], "experts": "**.experts"}}],
        {
            f"{EXPERTS}.{e}.{part}.weight": STACK[e, 32 * at : 32 * at + 32].contiguous()
            for e in range(4)
            for at, part in enumerate(("gate_proj", "up_proj"))
        },
    ),
    "split rows": Chain(
        {"m.gate_up_proj.weight": GATE},
        [{"split": {"from": "gate_up_proj", "into": ["gate_proj", "up_proj"], "interleave": True}}],
        {"m.gate_proj.weight": GATE[::2].contiguous(), "m.up_proj.weight": GATE[1::2].contiguous()},
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_gives_what_the_transforms_give(name: str, tmp_path: Path, out: Path) -> None:
    chain = CHAINS[name]
    recipe = recipe_of(donor(tmp_path / "donor", chain.tensors), *chain.steps)

    done = make(recipe, out)

    require_same(chain.expected, out)
    assert hash_file(file_at(str(out), out.name), lambda count: None) == done.digests
    assert make(recipe, None).tensors == done.tensors


def draft(folder: Path) -> Recipe:
    """Six experts in NVFP4, partners in different shards, with a router and norms: half of the experts, in INT4."""
    tensors: dict[str, Tensor] = {"m.layers.3.norm.weight": weight(1, 700)[0]}
    for expert in range(6):
        for at, part in enumerate(("gate_proj", "up_proj", "down_proj")):
            made = t.quantise_modelopt_nvfp4(weight(96, 128, 7 * expert + at))
            tensors |= parts(f"{EXPERTS}.{expert}.{part}", made)
    tensors["m.layers.3.mlp.gate.weight"] = weight(6, 128)
    one = {name: tensor for name, tensor in tensors.items() if name.endswith(("weight", "gate.weight"))}
    other = {name: tensor for name, tensor in tensors.items() if name not in one}
    sources = donor(folder, one, other)
    return recipe_of(sources, {"dequantize": "modelopt-nvfp4"}, {"keep-experts": [0, 2, 5]}, {"quantize": INT4})


@pytest.mark.parametrize("memory", [1, 310 * MIB, 4096 * MIB])
@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_threads_and_memory_change_nothing(jobs: int, memory: int, tmp_path: Path, out: Path) -> None:
    recipe = draft(tmp_path / "donor")
    first = make(recipe, out.with_name("first"), jobs=1)

    second = make(recipe, out, jobs=jobs, memory=memory)

    assert out.read_bytes() == out.with_name("first").read_bytes()
    assert first == second


def test_partners_in_different_shards_come_together(tmp_path: Path, out: Path) -> None:
    recipe = draft(tmp_path / "donor")

    make(recipe, out)

    expert = t.dequantise_modelopt_nvfp4(*t.quantise_modelopt_nvfp4(weight(96, 128, 7 * 5 + 2)))
    packed = t.quantise_packed_integers(expert)
    assert same(packed.weight_packed, read(out)[f"{EXPERTS}.2.down_proj.weight_packed"])


def test_what_was_read_is_said_with_its_digest(tmp_path: Path, out: Path) -> None:
    recipe = draft(tmp_path / "donor")

    inputs = make(recipe, out).inputs

    assert len(inputs) == 3 * 3 * 3 + 2
    for (file, begin, end), digest in inputs.items():
        data = (tmp_path / "donor" / file).read_bytes()[begin:end]
        assert digest == xxhash.xxh3_128_hexdigest(data)


def test_a_recipe_of_copies_is_bytes_alone(tmp_path: Path, out: Path) -> None:
    nothing = torch.full((40, 8), float("nan"), dtype=torch.float16)  # a copy asks nothing of what it copies
    tensors = {"b": PLAIN, "a": WORDS, "c": nothing, "d": torch.empty(0, 3), "e": torch.tensor(7)}
    recipe = recipe_of(donor(tmp_path / "donor", tensors), {"rename": {"a": "z"}})

    done = make(recipe, out)

    require_same({**{name: tensor for name, tensor in tensors.items() if name != "a"}, "z": WORDS}, out)
    assert {*done.tensors.values()} == {*done.inputs.values()}


def test_progress_is_told_byte_by_byte(tmp_path: Path, out: Path) -> None:
    recipe, counts = draft(tmp_path / "donor"), []

    make(recipe, out, counts.append)

    assert sum(counts) == out.stat().st_size


def test_the_file_can_be_read_by_others(tmp_path: Path, out: Path) -> None:
    recipe = draft(tmp_path / "donor")
    before = os.umask(0o027)
    try:
        make(recipe, out)
    finally:
        os.umask(before)

    assert out.stat().st_mode & 0o777 == 0o640


# What is lost


def test_losses_are_reported_by_class(tmp_path: Path) -> None:
    done = make(draft(tmp_path / "donor"), None)

    ((name, loss),) = done.accuracy.items()
    originals = [
        t.dequantise_modelopt_nvfp4(*t.quantise_modelopt_nvfp4(weight(96, 128, 7 * e + at)))
        for e in (0, 2, 5)
        for at in range(3)
    ]
    restored = [t.dequantise_packed_integers(*t.quantise_packed_integers(w), dtype=torch.float32) for w in originals]
    error = max(float((r - w.float()).abs().max()) for r, w in zip(restored, originals, strict=True))
    assert name == "mlp.experts: quantize bits=4 format=pack-quantized group_size=32 symmetric=false"
    document = loss.document()
    assert document["tensors"] == 9
    assert document["elements"] == 9 * 96 * 128
    assert document["max_abs_error"] == error
    assert 0.05 < document["relative_rms"] < 0.1
    assert document["vanished_groups"] == 0


@pytest.mark.parametrize(
    "limits", [{"relative_rms": 0.01}, {"relative_max": 0.001}, {"relative_rms": 0.2, "relative_max": 0.01}]
)
def test_a_loss_past_the_limits_is_refused(limits: dict[str, float], tmp_path: Path) -> None:
    accuracy = make(draft(tmp_path / "donor"), None).accuracy

    with pytest.raises(Mismatch, match="mlp.experts: quantize .*: expected relative_.* of at most 0.01?.*, found 0"):
        require_accuracy(accuracy, Limits(**limits), "a.safetensors")


def test_losses_that_nobody_asked_for_are_not_measured(tmp_path: Path) -> None:
    recipe = draft(tmp_path / "donor")

    done = make(recipe, None, losses=False)

    assert done.accuracy == {}
    assert done.tensors == make(recipe, None).tensors


def test_a_loss_within_the_limits_passes(tmp_path: Path) -> None:
    accuracy = make(draft(tmp_path / "donor"), None).accuracy

    require_accuracy(accuracy, Limits(relative_rms=0.1, relative_max=0.1, saturated=0.01, vanished=0))
    require_accuracy(accuracy, None)


def test_no_number_is_past_every_limit() -> None:
    odd = Loss(t.Accuracy(tensors=1, elements=1, groups=1, sum_squares=float("nan"), sum_squared_error=1.0))

    with pytest.raises(Mismatch, match="found nan"):
        require_accuracy({"x": odd}, Limits(relative_rms=1e9))
    assert odd.document()["relative_rms"] is None


# Bad input


def nan_in(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    tensors[name].view(-1)[-1] = float("nan")
    return tensors


BAD = {
    "a weight": (
        {"m.q_proj.weight": PLAIN.clone().fill_(float("inf"))},
        [{"quantize": INT4}],
        "m.q_proj.weight",
        "finite-weight",
    ),
    "one of two that share a scale": (
        nan_in({"m.gate_proj.weight": GATE.clone(), "m.up_proj.weight": UP.clone()}, "m.up_proj.weight"),
        [{"quantize": "modelopt-nvfp4"}],
        "m.up_proj.weight",
        "finite-weight",
    ),
    "a group scale": (
        nan_in(parts("m.q_proj", NVFP4), "m.q_proj.weight_scale"),
        [{"dequantize": "modelopt-nvfp4"}, {"quantize": INT4}],
        "m.q_proj.weight_scale",
        "finite-scale",
    ),
    "a scale of the tensor": (
        {**parts("m.q_proj", NVFP4), "m.q_proj.weight_scale_2": torch.tensor(0.0)},
        [{"dequantize": "modelopt-nvfp4"}],
        "m.q_proj.weight_scale_2",
        "positive-scale",
    ),
    "a stored shape": (
        {**parts("m.q_proj", PACKED), "m.q_proj.weight_shape": torch.tensor([70, 255])},
        [{"dequantize": "pack-quantized"}],
        "m.q_proj.weight_shape",
        "shape",
    ),
    "a cast": ({"m.q_proj.weight": torch.full((4, 4), 1e30)}, [{"cast": "F16"}], "m.q_proj.weight", "overflow"),
    "before a rename": (
        nan_in({"m.q_proj.weight": PLAIN.clone()}, "m.q_proj.weight"),
        [{"rename": {"m.**": "n.**"}}, {"quantize": INT4}],
        "m.q_proj.weight",
        "finite-weight",
    ),
}


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_in_a_line_and_leaves_nothing(what: str, jobs: int, tmp_path: Path, out: Path) -> None:
    tensors, steps, name, rule = BAD[what]
    recipe = recipe_of(donor(tmp_path / "donor", tensors), *steps)

    with pytest.raises(InvalidInput) as caught:
        make(recipe, out, jobs=jobs)

    assert caught.value.subject == f"{name} (part-0.safetensors)"
    assert f"(rule {rule})" in caught.value.problem
    assert "\n" not in caught.value.line
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_of_several_errors_the_first_comes_out(jobs: int, tmp_path: Path, out: Path) -> None:
    tensors = {f"m.{number:02}.q_proj.weight": weight(64, 64, number) for number in range(24)}
    for number in (7, 9, 23):
        tensors[f"m.{number:02}.q_proj.weight"][0, 0] = float("nan")
    recipe = recipe_of(donor(tmp_path / "donor", tensors), {"quantize": INT4})

    with pytest.raises(InvalidInput, match=r"m\.07\.q_proj\.weight"):
        make(recipe, out, jobs=jobs)

    assert os.listdir(out.parent) == []


def test_a_donor_that_changed_before_is_refused(tmp_path: Path, out: Path) -> None:
    recipe = draft(tmp_path / "donor")
    os.utime(tmp_path / "donor" / "part-1.safetensors", (1, 1))

    with pytest.raises(Conflict, match="part-1.safetensors"):
        make(recipe, out)

    assert os.listdir(out.parent) == []


def cut(path: Path) -> None:
    os.truncate(path, 100)


def spoil(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(-8_000, os.SEEK_END)
        stream.write(b"\xff" * 8_000)  # NaN, were it not for the change


@pytest.mark.parametrize("change", [cut, spoil, lambda path: os.utime(path, (1, 1))], ids=["cut", "spoilt", "touched"])
def test_a_donor_that_changes_meanwhile_is_refused(
    change: Callable[[Path], None], tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = draft(tmp_path / "donor")
    read_into, reads = Donors.read_into, []

    def read_and_change(self: Donors, source: TensorSource, memory: memoryview) -> None:
        reads.append(source)
        if len(reads) == 12:
            change(tmp_path / "donor" / "part-1.safetensors")
        read_into(self, source, memory)

    monkeypatch.setattr(Donors, "read_into", read_and_change)

    with pytest.raises(Conflict, match="found one that changed since"):
        make(recipe, out)

    assert os.listdir(out.parent) == []


def test_what_lies_at_the_path_stays(tmp_path: Path, out: Path) -> None:
    out.write_bytes(b"mine")

    with pytest.raises(EnvironmentFault):
        make(draft(tmp_path / "donor"), out)

    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["copy_at", "write_at", "read"])
def test_a_bug_keeps_its_traceback_and_leaves_nothing(
    kind: str, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError(kind)

    monkeypatch.setattr(f"overlay.storage.shard_file.ShardFile.{kind}", fail)

    with pytest.raises(ZeroDivisionError) as caught:
        make(draft(tmp_path / "donor"), out, jobs=2)

    assert caught.traceback[-1].name == "fail"
    assert os.listdir(out.parent) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("overlay")]


def test_a_full_disk_is_a_fault_of_the_machine(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    recipe = draft(tmp_path / "donor")
    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(EnvironmentFault, match="No space left"):
        make(recipe, out)

    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_leaves_nothing(times: int, tmp_path: Path, out: Path) -> None:
    recipe, left = draft(tmp_path / "donor"), [None] * times

    def interrupt(count: int) -> None:
        if left and threading.current_thread() is not threading.main_thread():
            left.pop()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make(recipe, out, interrupt, jobs=2)

    assert os.listdir(out.parent) == []
    for thread in threading.enumerate():
        if thread.name.startswith("overlay"):
            thread.join(10)
            assert not thread.is_alive()


# The machine


def test_without_torch_copies_are_made_and_conversions_say_what_to_install(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = donor(tmp_path / "donor", {"m.q_proj.weight": PLAIN})
    for name in [name for name in sys.modules if name.startswith("overlay.transforms")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("overlay.transforms")
    monkeypatch.setitem(sys.modules, "torch", None)

    make(recipe_of(sources), out)
    with pytest.raises(EnvironmentFault) as caught:
        make(recipe_of(sources, {"quantize": INT4}), out.with_name("other"))

    assert caught.value.hint == "pip install 'checkpoint-overlay[convert]'"
    assert os.listdir(out.parent) == [out.name]


def test_importing_it_imports_no_torch() -> None:
    program = "import sys, overlay.running.converting; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize("device", ["cuda:7", "abacus"])
def test_a_device_that_is_not_there_is_named(device: str, tmp_path: Path, out: Path) -> None:
    with pytest.raises(EnvironmentFault, match=device) as caught:
        make(draft(tmp_path / "donor"), out, device=device)

    assert caught.value.hint == "use --device cpu"
    assert os.listdir(out.parent) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_bytes(tmp_path: Path, out: Path) -> None:
    recipe = draft(tmp_path / "donor")

    assert make(recipe, out, device="cuda").digests == make(recipe, out.with_name("cpu")).digests


BUILD = """
import resource, sys
from pathlib import Path
from overlay.core.checkpoint import Shard
from overlay.core.diffing import source_of
from overlay.core.grafting import BUILT_METADATA
from overlay.core.recipes.recipe import plan_recipe
from overlay.formats.header_text import render_header
from overlay.formats.steps import QuantizePacked, QuantizeStep
from overlay.running.converting import Conversion, convert
from overlay.storage.local import file_at
from overlay.storage.seen import read_header

file = file_at(sys.argv[1], "donor.safetensors")
shard = Shard(file, read_header(file))
step = QuantizePacked(format="pack-quantized", bits=4, group_size=32, symmetric=False)
recipe = plan_recipe([source_of(shard, name) for name in shard.header.names], [QuantizeStep(quantize=step)])
convert(render_header(recipe.tensors, BUILT_METADATA), recipe, sys.argv[2], Conversion(jobs=2))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


def test_memory_does_not_grow_with_the_donor(tmp_path: Path, out: Path) -> None:
    entries = [(f"m.{number}.up_proj.weight", "BF16", (2048, 6144)) for number in range(24)]
    sparse = tmp_path / "donor.safetensors"
    header = render_header(entries, BUILT_METADATA)
    sparse.write_bytes(header)
    os.truncate(sparse, len(header) + 24 * 2048 * 6144 * 2)

    done = subprocess.run([sys.executable, "-c", BUILD, sparse, out], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 600e6
