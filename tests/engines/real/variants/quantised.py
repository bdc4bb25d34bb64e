"""Draft layers beside a quantised base: the base's scheme, others, and what the configs say of the layer.

vLLM builds the draft layer with the target's quantisation under the checkpoint's names; SGLang builds it under
``model.decoder``, or without quantisation when the target's is modelopt_fp4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from tests.engines.real.bases import Base, bf16, fp8, hf_quant_config, int4, is_quantised, nvfp4, quantise
from tests.engines.real.trees import Tree
from tests.engines.real.variants.assembling import assembled, on, without
from tests.support.checkpoints import Tensor

Variant = Callable[[Base], Tree]
HF = "hf_quant_config.json"


def ignoring(tree: Tree, *patterns: str) -> Tree:
    """With more entries in the ignore list of config.json."""
    quantisation = tree.config["quantization_config"]
    return tree.configure(quantization_config={**quantisation, "ignore": [*quantisation["ignore"], *patterns]})


def excluding(tree: Tree, *patterns: str) -> Tree:
    """With more entries in the exclude list of hf_quant_config.json."""
    document = hf_quant_config()
    document["quantization"]["exclude_modules"] = [*document["quantization"]["exclude_modules"], *patterns]
    return replace(tree, files={**tree.files, HF: json.dumps(document).encode()})


def everywhere(base: Base) -> tuple[str, str]:
    """A regex for the layer as the checkpoint names it, and one for SGLang's name of it."""
    return f"re:.*layers\\.{base.family.layers}\\..*", "re:model\\.decoder\\..*"


def head(base: Base) -> Tree:
    """The draft's own scheme, and the head of the draft exempted, which lm_head does not match."""
    tree = assembled(base)
    names = [f"{base.family.prefix}head", f"{base.family.prefix}shared_head*"]
    return excluding(ignoring(tree, *names), *names)


def one_smaller_scale(tensor: Tensor) -> Iterable[Tensor]:
    """A scale of half the rows."""
    yield bf16(tensor.name, (tensor.shape[0] // 2, *tensor.shape[1:]))


def requantised(part: str, scheme: Callable[[Tensor], Iterator[Tensor]], base: Base) -> Tree:
    """The draft layer in the base's scheme, but modules that contain `part` in another."""

    def change(tensors: tuple[Tensor, ...]) -> Iterable[Tensor]:
        for tensor in base.draft:
            if part in tensor.name and len(tensor.shape) == 2:
                yield from scheme(tensor)
            else:
                yield from quantise([tensor], base.scheme)

    return assembled(base, change)


def in_scheme(scheme: str) -> Variant:
    """The draft layer in another scheme, the configs as they were."""
    return lambda base: assembled(base, scheme=scheme)


def in_fp8(base: Base) -> Tree:
    def change(tensors: tuple[Tensor, ...]) -> Iterable[Tensor]:
        for tensor in base.draft:
            yield from fp8(tensor) if is_quantised(tensor, "nvfp4") else [tensor]

    return assembled(base, change)


COMMON: Mapping[str, Variant] = {
    "no draft layer": lambda base: base.tree,
    "draft in the base's scheme": assembled,
    "draft in BF16": in_scheme("bf16"),
    "draft in block FP8": in_fp8,
    "eh_proj missing": lambda base: assembled(base, without("eh_proj")),
    "one expert missing": lambda base: assembled(base, without("mlp.experts.2.")),
    "a scale missing": lambda base: assembled(base, without("mlp.experts.2.up_proj.weight_scale")),
    "scales of the shared experts missing": lambda base: assembled(
        base, without("shared_experts.gate_proj.weight_scale", "shared_experts.up_proj.weight_scale")
    ),
    "gate_proj in BF16, up_proj not": lambda base: requantised(
        "experts.1.gate_proj", lambda tensor: iter([tensor]), base
    ),
}
_INT4: Mapping[str, Variant] = {
    **COMMON,
    "draft in NVFP4": in_scheme("nvfp4"),
    "eh_proj quantised": lambda base: requantised("eh_proj", int4, base),
    "gate quantised": lambda base: requantised("mlp.gate.weight", partial(int4, symmetric=True), base),
    "weight_shape missing": lambda base: assembled(base, without("mlp.experts.1.up_proj.weight_shape")),
    "a smaller scale": lambda base: assembled(base, on("mlp.experts.1.up_proj.weight_scale", one_smaller_scale)),
    "BF16, ignored as vLLM names it": lambda base: ignoring(assembled(base, scheme="bf16"), everywhere(base)[0]),
    "BF16, ignored as SGLang names it": lambda base: ignoring(assembled(base, scheme="bf16"), everywhere(base)[1]),
    "BF16, ignored as both name it": lambda base: ignoring(assembled(base, scheme="bf16"), *everywhere(base)),
    "BF16, ignored with a wildcard": lambda base: ignoring(
        assembled(base, scheme="bf16"), f"model.layers.{base.family.layers}*"
    ),
    "INT4, ignored": lambda base: ignoring(assembled(base), *everywhere(base)),
}
INT4: Mapping[str, Variant] = {
    **_INT4,
    "zero point missing": lambda base: assembled(base, without("mlp.experts.1.up_proj.weight_zero_point")),
}
INT4_EXPERTS: Mapping[str, Variant] = {
    **_INT4,
    "zero point too many": lambda base: requantised("mlp.experts.1.up_proj", int4, base),
}
NVFP4: Mapping[str, Variant] = {
    **COMMON,
    "draft in INT4": in_scheme("int4"),
    "eh_proj quantised": lambda base: requantised("eh_proj", nvfp4, base),
    "NVFP4, head of the draft ignored": head,
    "NVFP4, one expert missing, head ignored": lambda base: replace(
        head(base), shards=assembled(base, without("mlp.experts.2.")).shards
    ),
    "NVFP4, shared scales missing, head ignored": lambda base: _like(
        head(base),
        assembled(base, without("shared_experts.gate_proj.weight_scale", "shared_experts.up_proj.weight_scale")),
    ),
    "NVFP4, input_scale missing, head ignored": lambda base: _like(
        head(base), assembled(base, without("mlp.experts.1.up_proj.input_scale"))
    ),
    "BF16, ignored in config.json": lambda base: ignoring(
        assembled(base, scheme="bf16"), f"model.layers.{base.family.layers}*"
    ),
    "BF16, ignored without a wildcard": lambda base: ignoring(
        assembled(base, scheme="bf16"), f"model.layers.{base.family.layers}"
    ),
    "BF16, excluded in hf_quant_config.json": lambda base: excluding(
        assembled(base, scheme="bf16"), f"model.layers.{base.family.layers}*"
    ),
    "BF16, ignored in both": lambda base: excluding(
        ignoring(assembled(base, scheme="bf16"), f"model.layers.{base.family.layers}*"),
        f"model.layers.{base.family.layers}*",
    ),
    "BF16, only hf_quant_config.json, excluded": lambda base: excluding(
        assembled(base, scheme="bf16").configure(quantization_config=None), f"model.layers.{base.family.layers}*"
    ),
    "BF16, ignored, a backup of hf_quant_config.json": lambda base: replace(
        _bf16_ignored(base), files={**_bf16_ignored(base).files, f"base_{HF}": json.dumps(hf_quant_config()).encode()}
    ),
    "BF16, only hf_quant_config.json, and a backup of it": lambda base: replace(
        _only_hf(base), files={**_only_hf(base).files, f"base_{HF}": json.dumps(hf_quant_config()).encode()}
    ),
    "BF16, ignored by a shorter number": lambda base: ignoring(
        assembled(base, scheme="bf16"), f"model.layers.{base.family.layers // 10}"
    ),
    "BF16, ignored, one expert missing": lambda base: _like(
        _bf16_ignored(base), assembled(base, without("mlp.experts.2."), scheme="bf16")
    ),
    "BF16, ignored, experts in block FP8": lambda base: _like(_bf16_ignored(base), in_fp8(base)),
}


def _bf16_ignored(base: Base) -> Tree:
    return ignoring(assembled(base, scheme="bf16"), f"model.layers.{base.family.layers}*")


def _only_hf(base: Base) -> Tree:
    return excluding(_bf16_ignored(base).configure(quantization_config=None), f"model.layers.{base.family.layers}*")


def _like(configured: Tree, held: Tree) -> Tree:
    """The tensors of `held` under the config of `configured`."""
    return replace(held, config=configured.config, files=configured.files)


FUSED: Mapping[str, Variant] = {
    name: NVFP4[name]
    for name in (
        "no draft layer",
        "draft in the base's scheme",
        "draft in BF16",
        "draft in block FP8",
        "draft in INT4",
        "NVFP4, head of the draft ignored",
        "BF16, ignored in both",
        "BF16, ignored, one expert missing",
    )
} | {
    "BF16, ignored, shared experts missing": lambda base: _like(
        _bf16_ignored(base), assembled(base, without("shared_experts"), scheme="bf16")
    )
}
"""For a base whose shared expert SGLang loads as one more routed expert."""
