"""Evaluating: the calls of a job on tensors, one after the other, with as few tensors in memory as can be.

A donor's tensor is read when the first call needs it, and every tensor is let go after the last call that does.  What
comes out is held against what the recipe promised; what a lossy call lost is measured in stripes of rows.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from overlay.core.checkpoint import TensorSource
from overlay.core.recipes.jobs import Job
from overlay.core.recipes.values import Argument, Call, Input, Value
from overlay.errors import EnvironmentFault
from overlay.formats.weight_schemes import MX_GROUP, NVFP4_GROUP
from overlay.transforms.accuracy import Accuracy, Reach, measure
from overlay.transforms.blocks import row_blocks
from overlay.transforms.calling import decode, perform
from overlay.transforms.dtypes import TORCH_DTYPES, describe, dtype_name
from overlay.transforms.fp8 import BLOCK, fp8_reach
from overlay.transforms.integer import WORD, packed_integers_reach
from overlay.transforms.nvfp4 import modelopt_nvfp4_reach, packed_nvfp4_reach
from overlay.transforms.problems import TransformProblem

Read = Callable[[TensorSource], Tensor]
"""Reads a tensor of a donor, in its dtype and shape; see `empty` and `bytes_of`."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of glibc's ``mallopt`` (``malloc.h``)."""

_ELEMENT_REACH: Final = {"mxfp4": 7.0, "mxfp8": 464.0}
"""The greatest element of a format and half of its last step."""


class Made(NamedTuple):
    """What one call made."""

    call: Call
    outputs: tuple[tuple[Value, Tensor], ...]
    """Outputs of the job, contiguous and on the CPU."""
    accuracy: Accuracy | None
    """What was lost, where the call is lossy and it was asked for."""


class CallProblem(ValueError):
    """Tensors that a rule forbids to transform, with names.

    Args:
        tensor: the tensor at fault, as the donor or the step before calls it.
        file: the donor's shard that it comes from.
        problem: what is wrong with it.
    """

    def __init__(self, tensor: str, file: str, problem: TransformProblem) -> None:
        self.tensor = tensor
        self.file = file
        self.problem = problem
        super().__init__(f"{tensor} ({file}): {problem}")


def evaluate(job: Job, read: Read, *, device: str = "cpu", losses: bool = True) -> Iterator[Made]:
    """Carry out the calls of `job` in their order, on `device`; with `losses`, measure what they lose.

    A tensor that was yielded is held by nobody else: drop it before asking for the next.

    Raises:
        CallProblem: a donor's tensors are not what a rule asks for.
    """
    left = _uses(job)
    wanted: dict[int, list[Value]] = {}
    for value in job.outputs:
        wanted.setdefault(id(value.call), []).append(value)
    known: dict[object, Tensor] = {}
    for call in job.calls:
        tensors = [_take(argument.value, known, left, read, device) for argument in call.inputs]
        with _naming(call, tensors):
            made = _performed(call, tensors)
            accuracy = _lost(call, tensors, made) if losses and call.is_lossy else None
        outputs = tuple((value, _settled(made[_position(value)])) for value in wanted.get(id(call), ()))
        known |= {(id(call), at): made[at] for at in range(len(made)) if left[id(call), at]}
        del tensors, made
        yield Made(call, outputs, accuracy)
        del outputs


def _uses(job: Job) -> Counter[object]:
    """How often the calls of `job` need each tensor."""
    return Counter(_key(argument.value) for call in job.calls for argument in call.inputs)


def _key(value: Value) -> object:
    """What a value comes from: a range of a donor, or an output of a call."""
    origin = value.origin
    return origin.source if isinstance(origin, Input) else (id(origin.call), origin.output)


def _position(value: Value) -> int:
    assert not isinstance(value.origin, Input)
    return value.origin.output


def _take(value: Value, known: dict[object, Tensor], left: Counter[object], read: Read, device: str) -> Tensor:
    """The tensor of `value`, forgotten when nobody else needs it."""
    key = _key(value)
    tensor = known.pop(key, None)
    if tensor is None:
        assert isinstance(value.origin, Input)
        tensor = _read(value.origin.source, read).to(device)
    left[key] -= 1
    if left[key]:
        known[key] = tensor
    return tensor


def _read(source: TensorSource, read: Read) -> Tensor:
    if source.dtype not in TORCH_DTYPES:
        problem = TransformProblem("dtype", "tensor", expected="a dtype that torch has", found=source.dtype)
        raise CallProblem(source.name, source.file.name, problem)
    return read(source)


@contextmanager
def _naming(call: Call, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Puts names to what goes wrong with a call."""
    try:
        yield
    except TransformProblem as problem:
        culprit = _culprit(call, tensors, problem)
        name = culprit.origin.source.name if isinstance(culprit.origin, Input) else culprit.name
        raise CallProblem(name, culprit.home, problem) from None


def _performed(call: Call, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of `call`, of the dtypes and shapes that it promises."""
    made = perform(call, tensors)
    for spec, tensor in zip(call.outputs, made, strict=True):
        if (dtype_name(tensor.dtype), tuple(tensor.shape)) != (spec.dtype, spec.shape):
            promised = f"{spec.dtype} {list(spec.shape)}"
            raise AssertionError(f"{call.label}: {spec.role} was to be {promised} and is {describe(tensor)}")
    return made


def _culprit(call: Call, tensors: Sequence[Tensor], problem: TransformProblem) -> Value:
    """The input that `problem` is about; the first one where it is about the result."""
    suspects = [pair for pair in zip(call.inputs, tensors, strict=True) if pair[0].role == problem.part]
    if len(suspects) > 1 and call.op == "shared-scale":
        suspects = [pair for pair in suspects if _fails(call, *pair)] or suspects
    return suspects[0][0].value if suspects else call.inputs[0].value


def _fails(call: Call, argument: Argument, tensor: Tensor) -> bool:
    """Whether `call` refuses one of its inputs alone."""
    try:
        perform(replace(call, inputs=(argument,)), [tensor])
    except TransformProblem:
        return True
    return False


def _settled(tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous()


def _lost(call: Call, tensors: Sequence[Tensor], made: Sequence[Tensor]) -> Accuracy | None:
    """What a lossy call lost; None for a tensor without elements."""
    if not tensors[0].numel():
        return None
    if call.op == "cast":
        return measure(_rows(tensors[0]), _rows(made[0]))
    params: Mapping[str, Any] = call.parameters
    parts = {spec.role: tensor for spec, tensor in zip(call.outputs, made, strict=True)}
    total = Accuracy()
    for span in row_blocks(*tensors[0].shape, multiple=_lines(params)):
        some = _stripe(parts, params, span)
        original = tensors[0][span]
        if "weight_shape" in some:
            some["weight_shape"] = torch.tensor(original.shape)
        restored = decode(params["format"], some, params, torch.float32)
        reach = _reach(some, params, len(original))
        total += measure(original, restored, group_size=_group_size(params), reach=reach)
    return replace(total, tensors=1)


def _rows(tensor: Tensor) -> Tensor:
    """Any tensor as a matrix of rows."""
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor.reshape(1, -1)


def _lines(params: Mapping[str, Any]) -> int:
    """Rows of a weight that the longest line of its partners stands for: no stripe ends within."""
    if params["format"] == "fp8-block":
        return int((params.get("block") or BLOCK)[0])
    return WORD // params["bits"] if params["format"] == "pack-quantized" else 1


def _stripe(parts: Mapping[str, Tensor], params: Mapping[str, Any], span: slice) -> dict[str, Tensor]:
    """The partners of the rows of `span`, which begins where lines do."""
    lines = _lines(params)
    few = slice(span.start // lines, -(-span.stop // lines))
    long = (
        {"weight_zero_point", params.get("scale_name", "weight_scale")}
        if params["format"] == "fp8-block"
        else {"weight_zero_point"}
    )
    return {role: part if part.dim() < 2 else part[few if role in long else span] for role, part in parts.items()}


def _group_size(params: Mapping[str, Any]) -> int | None:
    """Columns that share a scale; None for all of a row."""
    format = params["format"]
    if format == "pack-quantized":
        return params.get("group_size")
    if format == "fp8-block":
        return int((params.get("block") or BLOCK)[1])
    sizes = {"modelopt-nvfp4": NVFP4_GROUP, "nvfp4-pack-quantized": NVFP4_GROUP, "mxfp4": MX_GROUP, "mxfp8": MX_GROUP}
    return sizes.get(format)


def _reach(parts: Mapping[str, Tensor], params: Mapping[str, Any], rows: int) -> Reach:
    """What the scales of `parts` can express."""
    format = params["format"]
    if format == "modelopt-nvfp4":
        return modelopt_nvfp4_reach(parts["weight_scale"], parts["weight_scale_2"])
    if format == "nvfp4-pack-quantized":
        return packed_nvfp4_reach(parts["weight_scale"], parts["weight_global_scale"])
    if format == "pack-quantized":
        return packed_integers_reach(parts["weight_scale"], parts.get("weight_zero_point"), bits=params["bits"])
    if format == "fp8-block":
        return fp8_reach(parts[params["scale_name"]], rows, block_rows=_lines(params))
    if format in _ELEMENT_REACH:
        most = _ELEMENT_REACH[format]
        return Reach(parts["weight_scale"].view(torch.float8_e8m0fnu), -most, most)
    return fp8_reach(parts["weight_scale"], rows)


def empty(dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor on the CPU to read bytes into; `dtype` as a header calls it."""
    return torch.empty(shape, dtype=TORCH_DTYPES[dtype])


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, writable and not copied; it keeps the tensor alive."""
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    if not tensor.nbytes:
        return memoryview(b"")
    memory: Any = (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())
    memory.tensor = tensor
    return memoryview(memory).cast("B")


def require_device(name: str) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        EnvironmentFault: it has none of that name.
    """
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        found = str(error).partition("\n")[0].rstrip(".")
        raise EnvironmentFault(
            f"expected a device that torch can use, found: {found}", subject=name, hint="use --device cpu"
        ) from None


@contextmanager
def computing() -> Iterator[Callable[[], None]]:
    """torch computes on the thread that asks and no other, and the system gets back what is freed.

    Gives what every new thread has to call first.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    _give_back_freed_memory()
    try:
        yield lambda: torch.set_num_threads(1)
    finally:
        torch.set_num_threads(before)


def _give_back_freed_memory() -> None:
    """Have glibc keep no more than a few blocks; it would keep up to a tensor or two for each thread.

    This cannot be asked for or taken back.  Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2 << 20)
        mallopt(_M_TRIM_THRESHOLD, 8 << 20)
