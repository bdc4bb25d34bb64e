"""Evaluating: calls in their order, tensors let go in time, promises kept, losses measured, culprits named."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from overlay import transforms as t
from overlay.core.checkpoint import FileSeen, Fingerprint, TensorSource
from overlay.core.recipes.jobs import Job
from overlay.core.recipes.values import Argument, Spec, Value, calls_below, inputs_of, make_call, renamed, taken
from overlay.transforms.evaluating import CallProblem, Made, bytes_of, empty, evaluate
from tests.transforms.support import hostile, raw, same

FILE = FileSeen("donor.safetensors", "/donor.safetensors", Fingerprint(1, 1, 1, 1, 1))


class Donor:
    """Tensors by name, handed out as often as they are asked for; knows which of them are still held by somebody."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors
        self.read: list[str] = []
        self.given: dict[str, weakref.ref[Tensor]] = {}

    def value(self, name: str) -> Value:
        tensor, at = self.tensors[name], 1000 * list(self.tensors).index(name)
        shape = tuple(tensor.shape)
        return taken(TensorSource(name, t.dtype_name(tensor.dtype), shape, FILE, at, at + prod(shape)))

    def __call__(self, source: TensorSource) -> Tensor:
        self.read.append(source.name)
        tensor = self.tensors[source.name].clone()
        self.given[source.name] = weakref.ref(tensor)
        return tensor

    def held(self) -> list[str]:
        return [name for name, given in self.given.items() if given() is not None]


def job_of(*outputs: Value) -> Job:
    calls = calls_below(outputs)
    return Job(outputs, tuple(calls), tuple(inputs_of(calls)))


def called(
    op: Any, inputs: Sequence[tuple[str, Value]], *outputs: tuple[str, Tensor], **params: Any
) -> tuple[Value, ...]:
    """The outputs of a call whose results are like `outputs`."""
    specs = [Spec(role, t.dtype_name(like.dtype), tuple(like.shape)) for role, like in outputs]
    return make_call(op, [Argument(role, value) for role, value in inputs], specs, **params)[1]


def outputs_of(job: Job, donor: Donor) -> dict[str, Tensor]:
    return {value.name: tensor for made in evaluate(job, donor) for value, tensor in made.outputs}


WEIGHT = hostile(40, 64, torch.bfloat16, 5)


def chain(donor: Donor) -> Job:
    """A module in NVFP4 to BF16 to INT4."""
    roles = ("weight", "weight_scale", "weight_scale_2")
    inputs = [(role, donor.value(role)) for role in roles]
    (plain,) = called("dequantize", inputs, ("weight", WEIGHT), format="modelopt-nvfp4", to="BF16")
    made = [(role, part) for role, part in t.quantise_packed_integers(WEIGHT)._asdict().items()]
    params = {"format": "pack-quantized", "bits": 4, "group_size": 32, "symmetric": False}
    return job_of(*called("quantize", [("weight", renamed(plain, "m.weight"))], *made, **params))


def nvfp4_donor() -> Donor:
    return Donor(**t.quantise_modelopt_nvfp4(WEIGHT)._asdict())


def test_a_chain_gives_what_its_functions_give() -> None:
    donor = nvfp4_donor()

    observed = outputs_of(chain(donor), donor)

    expected = t.quantise_packed_integers(t.dequantise_modelopt_nvfp4(*donor.tensors.values()))
    assert observed.keys() == {*expected._fields}
    assert all(same(part, observed[role]) for role, part in expected._asdict().items() if part is not None)


def test_tensors_are_let_go_when_nobody_needs_them() -> None:
    donor = nvfp4_donor()

    going = evaluate(chain(donor), donor)
    first = next(going)

    assert first.call.op == "dequantize"
    assert first.outputs == ()
    assert donor.held() == []


def test_a_tensor_is_read_once_and_only_when_it_is_needed() -> None:
    donor = Donor(a=WEIGHT, b=WEIGHT * 2)
    one = called("cast", [("tensor", donor.value("a"))], ("a32", WEIGHT.float()), to="F32")
    two = called(
        "fuse-rows",
        [("part", donor.value("a")), ("part", donor.value("b"))],
        ("ab", torch.cat([WEIGHT] * 2)),
        interleave=False,
    )

    going = evaluate(job_of(*one, *two), donor)
    next(going)

    assert donor.read == ["a"]
    assert donor.held() == ["a"]
    next(going)
    assert donor.read == ["a", "b"]
    assert donor.held() == []


def test_what_is_not_an_output_is_not_given_out() -> None:
    donor = Donor(a=WEIGHT)
    parts = called("split-rows", [("tensor", donor.value("a"))], *[("p", WEIGHT[:10])] * 4, parts=4, interleave=True)

    (made,) = evaluate(job_of(renamed(parts[2], "third")), donor)

    ((value, tensor),) = made.outputs
    assert value.name == "third"
    assert tensor.is_contiguous()
    assert same(WEIGHT[2::4].contiguous(), tensor)


def test_a_reciprocal_takes_the_promised_shape() -> None:
    donor = Donor(s=torch.tensor(4.0))
    outputs = called("reciprocal", [("scale", donor.value("s"))], ("input_global_scale", torch.tensor([0.25])))

    assert outputs_of(job_of(*outputs), donor)["input_global_scale"].tolist() == [0.25]


def test_a_broken_promise_is_a_bug() -> None:
    donor = Donor(a=WEIGHT)
    outputs = called("cast", [("tensor", donor.value("a"))], ("tensor", WEIGHT.half()), to="F32")

    with pytest.raises(AssertionError, match=r"was to be F16 \[40, 64\] and is F32 \[40, 64\]"):
        list(evaluate(job_of(*outputs), donor))


def test_a_dtype_that_torch_lacks_is_refused() -> None:
    source = TensorSource("x", "F6_E2M3", (4, 4), FILE, 0, 12)
    _, outputs = make_call("keep-rows", [Argument("tensor", taken(source))], [Spec("t", "F6_E2M3", (1, 4))], rows=(0,))

    with pytest.raises(CallProblem, match=r"x \(donor.safetensors\): tensor: expected a dtype that torch has"):
        list(evaluate(job_of(*outputs), Donor()))


# Losses


def encoded(w: Tensor, format: str, made: Any, **params: Any) -> Made:
    donor = Donor(weight=w)
    roles = {"weight_scale_inv": params.get("scale_name", "weight_scale_inv")}
    parts = [(roles.get(role, role), part) for role, part in made._asdict().items() if part is not None]
    outputs = called("quantize", [("weight", donor.value("weight"))], *parts, format=format, **params)
    (result,) = evaluate(job_of(*outputs), donor)
    return result


F32 = torch.float32
PLAIN = (torch.randn(600, 2048, generator=torch.Generator().manual_seed(0)) * 0.1).bfloat16()
PACKED, CHANNEL = (
    t.quantise_packed_integers(PLAIN),
    t.quantise_packed_integers(PLAIN, bits=8, group_size=None, symmetric=True),
)
NVFP4, CT_NVFP4 = t.quantise_modelopt_nvfp4(PLAIN), t.quantise_packed_nvfp4(PLAIN)
BLOCKS, ROWS, WHOLE = (
    t.quantise_fp8_blocks(PLAIN, block=(48, 64)),
    t.quantise_fp8_rows(PLAIN),
    t.quantise_fp8_tensor(PLAIN),
)
MX4, MX8 = t.quantise_mxfp4(PLAIN), t.quantise_mxfp8(PLAIN)

LOSSES: dict[str, tuple[Callable[[], Made], Tensor, int | None, t.Reach | None]] = {
    "int4": (
        lambda: encoded(PLAIN, "pack-quantized", PACKED, bits=4, group_size=32, symmetric=False),
        t.dequantise_packed_integers(*PACKED, dtype=F32),
        32,
        t.packed_integers_reach(PACKED.weight_scale, PACKED.weight_zero_point),
    ),
    "int8 rows": (
        lambda: encoded(PLAIN, "pack-quantized", CHANNEL, bits=8, symmetric=True),
        t.dequantise_packed_integers(*CHANNEL, bits=8, dtype=F32),
        None,
        t.packed_integers_reach(CHANNEL.weight_scale, None, bits=8),
    ),
    "modelopt-nvfp4": (
        lambda: encoded(PLAIN, "modelopt-nvfp4", NVFP4),
        t.dequantise_modelopt_nvfp4(*NVFP4, dtype=F32),
        16,
        t.modelopt_nvfp4_reach(NVFP4.weight_scale, NVFP4.weight_scale_2),
    ),
    "nvfp4-pack-quantized": (
        lambda: encoded(PLAIN, "nvfp4-pack-quantized", CT_NVFP4),
        t.dequantise_packed_nvfp4(*CT_NVFP4, dtype=F32),
        16,
        t.packed_nvfp4_reach(CT_NVFP4.weight_scale, CT_NVFP4.weight_global_scale),
    ),
    "fp8-block": (
        lambda: encoded(PLAIN, "fp8-block", BLOCKS, block=(48, 64), scale_name="weight_scale"),
        t.dequantise_fp8_blocks(*BLOCKS, block=(48, 64), dtype=F32),
        64,
        t.fp8_reach(BLOCKS.weight_scale_inv, 600, block_rows=48),
    ),
    "fp8-channel": (
        lambda: encoded(PLAIN, "fp8-channel", ROWS),
        t.dequantise_fp8(*ROWS, F32),
        None,
        t.fp8_reach(ROWS.weight_scale, 600),
    ),
    "fp8-tensor": (
        lambda: encoded(PLAIN, "fp8-tensor", WHOLE),
        t.dequantise_fp8(*WHOLE, F32),
        None,
        t.fp8_reach(WHOLE.weight_scale, 600),
    ),
    "mxfp4": (
        lambda: encoded(PLAIN, "mxfp4", MX4),
        t.dequantise_mxfp4(*MX4, F32),
        32,
        t.Reach(MX4.weight_scale.view(torch.float8_e8m0fnu), -7.0, 7.0),
    ),
    "mxfp8": (
        lambda: encoded(PLAIN, "mxfp8", MX8),
        t.dequantise_mxfp8(*MX8, F32),
        32,
        t.Reach(MX8.weight_scale.view(torch.float8_e8m0fnu), -464.0, 464.0),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_stripes_lose_what_the_whole_loses(name: str) -> None:
    make, restored, group, reach = LOSSES[name]

    observed = make().accuracy

    expected = t.measure(PLAIN, restored, group_size=group, reach=reach)
    assert observed is not None
    for field in (
        "tensors",
        "elements",
        "groups",
        "zero_groups",
        "vanished_groups",
        "saturated",
        "max_abs",
        "max_abs_error",
    ):
        assert getattr(observed, field) == getattr(expected, field), field
    assert observed.relative_rms == pytest.approx(expected.relative_rms, rel=1e-12)


def test_a_cast_to_fewer_digits_is_measured_and_one_to_more_is_not() -> None:
    wide, narrow = Donor(a=WEIGHT.float()[0] + 1e-3), Donor(a=WEIGHT)
    down = called("cast", [("tensor", wide.value("a"))], ("tensor", WEIGHT[0]), to="BF16")
    up = called("cast", [("tensor", narrow.value("a"))], ("tensor", WEIGHT.float()), to="F32")

    (lost,), (kept,) = evaluate(job_of(*down), wide), evaluate(job_of(*up), narrow)

    assert lost.accuracy is not None
    assert 0 < lost.accuracy.relative_rms < 0.01
    assert kept.accuracy is None


# Memory


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "I64", "F8_E8M0", "BOOL", "F32"])
def test_the_bytes_of_a_tensor_are_its_memory(dtype: str) -> None:
    tensor = empty(dtype, (3, 5))
    memory = bytes_of(tensor)
    memory[:] = bytes(byte % 2 for byte in range(memory.nbytes))

    assert t.dtype_name(tensor.dtype) == dtype
    assert bytes(raw(tensor).tolist()) == memory


def test_the_bytes_outlive_the_name_of_their_tensor() -> None:
    tensor = torch.arange(1 << 16, dtype=torch.int64)
    memory = bytes_of(tensor)
    alive = weakref.ref(tensor)
    del tensor

    assert alive() is not None
    assert memory[8:16] == (1).to_bytes(8, "little")
    assert len(bytes_of(torch.empty(0, 4))) == 0
