"""The steps of a graft: how its tensors are converted, as a manifest writes it.

Each step is a mapping with one key, the step's name.  Most have a short form, which means the same as the long one and
counts as the same in digests: ``cast: BF16`` is ``cast: {to: BF16}``.  Keys inside ``quantize`` are those of a
``quantization_config``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag

from overlay.formats.names import explain_target_name
from overlay.formats.problems import Document, Path
from overlay.formats.renaming import explain_renaming
from overlay.formats.weight_schemes import (
    FP8_BLOCK,
    MX_GROUP,
    DecodedFormat,
    Format,
    WeightScheme,
    nvfp4,
)

MAX_STEPS: Final = 32
"""Steps of one graft."""


def _checked_block(block: list[int]) -> list[int]:
    if len(block) != 2:
        raise ValueError(f"expected rows and columns, found {block}")
    return block


PatternText = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Patterns = Annotated[list[PatternText], Field(min_length=1)]
Part = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=120)]
Float = Literal["BF16", "F16", "F32"]
Extent = Annotated[int, Field(ge=1, le=1 << 20)]
Block = Annotated[list[Extent], AfterValidator(_checked_block)]
Expert = Annotated[int, Field(ge=0, lt=1 << 20)]
LayerNumber = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})$")]


def _long(key: str, both: Any) -> BeforeValidator:
    """Puts the short form, a text, under `key` of the long one; the schema shows `both`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value, json_schema_input_type=both)


DequantizedFormat = Literal[DecodedFormat, "auto"]
ShortFormat = Literal[
    "modelopt-nvfp4", "nvfp4-pack-quantized", "fp8-block", "fp8-channel", "fp8-tensor", "mxfp4", "mxfp8"
]
"""Formats to quantise to that leave nothing to say."""


class Cast(Document):
    """To another dtype of unquantised weights."""

    to: Float
    tensors: Patterns | None = None
    """Which; without it every unquantised tensor but ``e_score_correction_bias``, which engines keep in F32."""


class Dequantize(Document):
    """Quantised weights to plain ones; a module that is not quantised stays as it is."""

    format: DequantizedFormat
    """Any other format in the graft is an error; ``auto`` takes what it finds, module by module."""
    to: Float = "BF16"
    ignore: Patterns | None = None
    """Modules that stay quantised."""
    bits: Literal[4, 8] | None = None
    """Bits of an element; pack-quantized without zero points only, where shapes do not tell."""
    block: Block | None = None
    """Rows and columns of a block; fp8-block only.  [128, 128] where shapes do not tell otherwise."""
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    """gptq only: ``gptq`` stores zero points less one, ``gptq_v2`` does not."""


class _Selecting(Document):
    """Which modules a `quantize` touches: linear ones, unless patterns say otherwise."""

    targets: Patterns | None = None
    """Modules that are quantised; without it every linear one."""
    ignore: Patterns | None = None
    """Modules that are not."""


GroupSize = Annotated[
    Annotated[Extent, Tag("columns")] | Annotated[Literal["channel"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "columns"),
]


class QuantizeLike(Document):
    """As the ``quantization_config`` of a donor says: which modules, in which format, with which parameters."""

    like: str
    """The donor, by its name under `donors`."""


class QuantizePacked(_Selecting):
    """compressed-tensors' integers in words of 32 bits."""

    format: Literal["pack-quantized"]
    bits: Literal[4, 8]
    group_size: GroupSize
    """Columns that share a scale; ``channel``: one scale a row."""
    symmetric: bool
    """false: with zero points."""
    scale_dtype: Float | None = None
    """Dtype of statistics and scales; that of the weight where it is not given."""

    @property
    def scheme(self) -> WeightScheme:
        """What it comes to."""
        group = None if self.group_size == "channel" else self.group_size
        return WeightScheme(
            format=self.format,
            bits=self.bits,
            group_size=group,
            symmetric=self.symmetric,
            scale_dtype=self.scale_dtype,
        )


class QuantizeNvfp4(_Selecting):
    """NVFP4, weights only; modules that engines fuse get one scale for the whole tensor."""

    format: Literal["modelopt-nvfp4", "nvfp4-pack-quantized"]

    @property
    def scheme(self) -> WeightScheme:
        """What it comes to."""
        return nvfp4(self.format)


class QuantizeFp8Block(_Selecting):
    """FP8 with a scale for each block."""

    format: Literal["fp8-block"]
    block: Block = [*FP8_BLOCK]
    """Rows and columns of a block."""
    scale_name: Literal["weight_scale_inv", "weight_scale"] = "weight_scale_inv"
    """DeepSeek's name for the scales, or that of compressed-tensors."""

    @property
    def scheme(self) -> WeightScheme:
        """What it comes to."""
        return WeightScheme(format=self.format, block=(self.block[0], self.block[1]), scale_name=self.scale_name)


class QuantizeFp8(_Selecting):
    """FP8 with a scale for each row (``fp8-channel``) or for the tensor (``fp8-tensor``)."""

    format: Literal["fp8-channel", "fp8-tensor"]
    scale_dtype: Float | None = None
    """Dtype of the scales; that of the weight where it is not given, and F32 for ``fp8-tensor``."""

    @property
    def scheme(self) -> WeightScheme:
        """What it comes to."""
        return WeightScheme(format=self.format, scale_dtype=self.scale_dtype)


class QuantizeMx(_Selecting):
    """MX formats: groups of 32 columns that share a power of two."""

    format: Literal["mxfp4", "mxfp8"]

    @property
    def scheme(self) -> WeightScheme:
        """What it comes to."""
        return WeightScheme(format=self.format, bits=4 if self.format == "mxfp4" else 8, group_size=MX_GROUP)


class Fuse(Document):
    """Several unquantised weights to one: rows of neighbours, or the experts of a layer."""

    parts: Annotated[list[Part], Field(min_length=1)]
    """Last parts of the modules whose rows are put one after the other, such as [gate_proj, up_proj]."""
    into: Part
    """Last part of what they become."""
    experts: PatternText | None = None
    """Modules whose numbered experts are stacked, such as ``**.mlp.experts``: [E, rows, columns]."""
    interleave: bool = False
    """First the first row of each part, then the second of each, as GPT-OSS has them."""


class Split(Document):
    """The reverse of `fuse`."""

    from_: Part = Field(alias="from")
    """Last part of what is split."""
    into: Annotated[list[Part], Field(min_length=1)]
    """Last parts of what it becomes, in the order of rows."""
    experts: PatternText | None = None
    """Modules that hold stacked experts; they become numbered ones."""
    interleave: bool = False
    """Whether the rows of the parts take turns."""


def _by_format(value: Any) -> str | None:
    """Which form of `quantize` a value is written in."""
    if isinstance(value, (QuantizeLike, *_QUANTIZE)):
        return "like donor" if isinstance(value, QuantizeLike) else value.format
    if not isinstance(value, dict):
        return None
    if "like" in value:
        return "like donor"
    return value["format"] if isinstance(value.get("format"), str) else None


_QUANTIZE: Final = (QuantizePacked, QuantizeNvfp4, QuantizeFp8Block, QuantizeFp8, QuantizeMx)

Quantize = Annotated[
    Annotated[QuantizeLike, Tag("like donor")]
    | Annotated[QuantizePacked, Tag("pack-quantized")]
    | Annotated[QuantizeNvfp4, Tag("modelopt-nvfp4")]
    | Annotated[QuantizeNvfp4, Tag("nvfp4-pack-quantized")]
    | Annotated[QuantizeFp8Block, Tag("fp8-block")]
    | Annotated[QuantizeFp8, Tag("fp8-channel")]
    | Annotated[QuantizeFp8, Tag("fp8-tensor")]
    | Annotated[QuantizeMx, Tag("mxfp4")]
    | Annotated[QuantizeMx, Tag("mxfp8")],
    Discriminator(
        _by_format,
        custom_error_type="quantize_form",
        custom_error_message=f"like: DONOR, or format: with one of {', '.join(get_args(Format))}",
    ),
]


def _checked_file(name: str) -> str:
    problem = explain_target_name(name)
    if problem or not name.endswith(".json"):
        raise ValueError(problem or f"expected a file name that ends in .json, found {name!r}")
    return name


KeepList = Annotated[list[Expert], Field(min_length=1)]
KeepFile = Annotated[str, AfterValidator(_checked_file)]
KeepExperts = Annotated[
    Annotated[KeepList, Tag("list")]
    | Annotated[KeepFile, Tag("file")]
    | Annotated[dict[LayerNumber, KeepList], Field(min_length=1), Tag("layers")],
    Discriminator(
        lambda value: {list: "list", str: "file", dict: "layers"}.get(type(value)),
        custom_error_type="keep_form",
        custom_error_message="a list of experts, the name of a JSON file, or a mapping of layers to lists",
    ),
]


def _long_quantize(value: Any) -> Any:
    """The long form of `quantize`; one format has parameters that nobody should guess."""
    if value == "pack-quantized":
        raise ValueError(
            "expected {format: pack-quantized, bits: …, group_size: …, symmetric: …}, found the format alone"
        )
    return {"format": value} if isinstance(value, str) else value


class CopyStep(Document):
    """Nothing: what no step touches is copied byte for byte."""

    copy_: None = Field(alias="copy")


class RenameStep(Document):
    """New names: pattern to replacement, with the same wildcards in the same order."""

    rename: Annotated[dict[PatternText, PatternText], Field(min_length=1)]


class CastStep(Document):
    """Another dtype."""

    cast: Annotated[Cast, _long("to", Float | Cast)]


class DequantizeStep(Document):
    """Quantised weights to plain ones."""

    dequantize: Annotated[Dequantize, _long("format", DequantizedFormat | Dequantize)]


class QuantizeStep(Document):
    """Plain weights to quantised ones."""

    quantize: Annotated[Quantize, BeforeValidator(_long_quantize, json_schema_input_type=ShortFormat | Quantize)]


class KeepExpertsStep(Document):
    """Some of the experts, renumbered from 0: for all layers alike, from a file, or layer by layer."""

    keep_experts: KeepExperts = Field(alias="keep-experts")


class FuseStep(Document):
    """Several weights to one."""

    fuse: Fuse


class SplitStep(Document):
    """One weight to several."""

    split: Split


STEPS: Final = ("copy", "rename", "cast", "dequantize", "quantize", "keep-experts", "fuse", "split")


def _by_key(value: Any) -> str | None:
    """Which step a value is, by its only key."""
    if isinstance(value, Document):
        return next(f"{field.alias or name} step" for name, field in type(value).model_fields.items())
    return f"{next(iter(value))} step" if isinstance(value, dict) and len(value) == 1 else None


Step = Annotated[
    Annotated[CopyStep, Tag("copy step")]
    | Annotated[RenameStep, Tag("rename step")]
    | Annotated[CastStep, Tag("cast step")]
    | Annotated[DequantizeStep, Tag("dequantize step")]
    | Annotated[QuantizeStep, Tag("quantize step")]
    | Annotated[KeepExpertsStep, Tag("keep-experts step")]
    | Annotated[FuseStep, Tag("fuse step")]
    | Annotated[SplitStep, Tag("split step")],
    Discriminator(
        _by_key, custom_error_type="step_form", custom_error_message=f"a mapping with exactly one of {', '.join(STEPS)}"
    ),
]


def check_step(step: Step, donors: Collection[str]) -> Iterator[tuple[Path, str]]:
    """What is wrong with a step of the right form: (path inside the step, "expected …, found …")."""
    if isinstance(step, RenameStep):
        for pattern, replacement in step.rename.items():
            if problem := explain_renaming(pattern, replacement):
                yield ("rename", pattern), problem
    elif isinstance(step, QuantizeStep) and isinstance(step.quantize, QuantizeLike):
        if step.quantize.like not in donors:
            known = ", ".join(donors) or "none"
            yield ("quantize", "like"), f"expected a donor ({known}), found {step.quantize.like!r}"
    elif isinstance(step, DequantizeStep):
        yield from _check_dequantize(step.dequantize)
    elif isinstance(step, KeepExpertsStep):
        yield from _check_keep_lists(step.keep_experts)
    elif isinstance(step, (FuseStep, SplitStep)):
        parts, path = (
            (step.fuse.parts, ("fuse", "parts")) if isinstance(step, FuseStep) else (step.split.into, ("split", "into"))
        )
        repeated = [part for part, count in Counter(parts).items() if count > 1]
        if repeated:
            yield path, f"expected each part once, found {repeated[0]!r} again"


def _check_dequantize(step: Dequantize) -> Iterator[tuple[Path, str]]:
    """Options that only some formats have."""
    options: list[tuple[str, bool, str]] = [
        ("bits", step.bits is not None, "pack-quantized"),
        ("block", step.block is not None, "fp8-block"),
        ("checkpoint_format", step.checkpoint_format != "gptq", "gptq"),
    ]
    for key, given, format in options:
        if given and step.format not in (format, "auto"):
            yield ("dequantize", key), f"expected it with the format {format} only, found {step.format}"


def _check_keep_lists(kept: list[int] | str | dict[str, list[int]]) -> Iterator[tuple[Path, str]]:
    lists = (
        {(): kept} if isinstance(kept, list) else {(k,): v for k, v in kept.items()} if isinstance(kept, dict) else {}
    )
    for path, experts in lists.items():
        if problem := explain_keep_list(experts):
            yield ("keep-experts", *path), problem


def explain_keep_list(experts: list[int] | tuple[int, ...]) -> str:
    """Say which experts are out of order or repeated; "" when the list is in ascending order."""
    repeated = sorted(expert for expert, count in Counter(experts).items() if count > 1)
    if repeated:
        return f"expected each expert once, found {_few(repeated)} again"
    late = [expert for before, expert in pairwise(experts) if expert < before]
    return f"expected experts in ascending order, found {_few(late)} after a higher number" if late else ""


def _few(numbers: list[int]) -> str:
    named = ", ".join(map(str, numbers[:5]))
    return named if len(numbers) <= 5 else f"{named} and {len(numbers) - 5} more"
