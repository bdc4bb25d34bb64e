"""The inventory of a layer: which modules engines build for it, and how large, derived from the config.

A weight of a linear module with N outputs and K inputs has the shape [N, K].  For GLM-5.2's layer 78 this gives the 791
tensors that the published checkpoint holds.  Sources: transformers 5.23 `modeling_glm_moe_dsa.py`,
`modeling_deepseek_v3.py`, `modeling_glm4_moe.py`; vLLM 0.33 `deepseek_v2.py`, `deepseek_mtp.py`, `glm4_moe.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from overlay.engines.families import Family
from overlay.engines.subject import Subject

Role = Literal["linear", "plain", "norm"]
"""``linear``: quantised where the config says so.  ``plain``: linear and never quantised.  ``norm``: of one dimension."""


class Slot(NamedTuple):
    """A module that engines build."""

    role: Role
    outputs: int
    inputs: int
    """0 for one dimension."""
    suffixes: tuple[str, ...] = ("weight",)
    """What a module of no quantisation holds."""
    optional: tuple[str, ...] = ()
    """What it may hold."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a layer needs."""

    slots: Mapping[str, Slot]
    """Path below the layer to module; routed experts are left out."""
    experts: int = 0
    """Routed experts."""
    projections: Mapping[str, Slot] = field(default_factory=dict)
    """``gate_proj``, ``up_proj`` and ``down_proj`` of each."""
    may: frozenset[str] = frozenset()
    """Modules that may be there or not."""

    @property
    def tensors(self) -> int:
        """Tensors of the layer while nothing is quantised."""
        own = sum(len(slot.suffixes) for path, slot in self.slots.items() if path not in self.may)
        return own + self.experts * len(self.projections)


EXPERTS: Final = "mlp.experts"
_LARGEST: Final = 1 << 24
"""No size of a model comes near it; a config can say anything."""
_MOST_EXPERTS: Final = 1 << 14


def needs_of(subject: Subject, family: Family, layer: int, *, draft: bool) -> Needs | None:
    """What layer number `layer` needs; None where the config does not say enough, or the family is not known so far.

    A draft layer always has experts, and an indexer where the family has them, whatever the config lists.
    """
    numbers = _Numbers(subject)
    slots: dict[str, Slot] = dict(_norms(numbers))
    may: set[str] = set()
    if family.attention == "mla":
        slots.update(_mla(numbers))
    elif family.attention == "gqa":
        slots.update(_gqa(subject, numbers))
    else:
        return None
    if family.indexer:
        indexer = dict(_indexer(numbers))
        stated = _has_indexer(subject, layer)
        slots.update(indexer)
        if not draft and stated is not True:
            may |= indexer.keys()
    dense = not draft and _is_dense(subject, layer)
    experts, projections = 0, {}
    if dense:
        slots.update(_mlp("mlp.", numbers["hidden_size"], numbers["intermediate_size"]))
    else:
        width, experts = numbers["moe_intermediate_size"], numbers["n_routed_experts"]
        projections = dict(_mlp("", numbers["hidden_size"], width))
        slots.update(_router(subject, family, numbers))
        if shared := subject.number("n_shared_experts") or 0:
            slots.update(_mlp("mlp.shared_experts.", numbers["hidden_size"], width * shared))
    if draft:
        slots.update(_joins(numbers))
    return None if numbers.missing or experts > _MOST_EXPERTS else Needs(slots, experts, projections, frozenset(may))


class _Numbers:
    """Whole numbers of a config, remembering which were asked for and are missing."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.missing: list[str] = []

    def __getitem__(self, key: str) -> int:
        value = self._subject.number(key)
        if value is None or not 0 <= value < _LARGEST:
            self.missing.append(key)
            return 0
        return value


def _linear(outputs: int, inputs: int, *optional: str) -> Slot:
    return Slot("linear", outputs, inputs, optional=optional)


def _norm(width: int, *more: str) -> Slot:
    return Slot("norm", width, 0, ("weight", *more))


def _norms(n: _Numbers) -> Iterator[tuple[str, Slot]]:
    yield "input_layernorm", _norm(n["hidden_size"])
    yield "post_attention_layernorm", _norm(n["hidden_size"])


def _mla(n: _Numbers) -> Iterator[tuple[str, Slot]]:
    """Multi-head latent attention (DeepSeek)."""
    hidden, heads, rank = n["hidden_size"], n["num_attention_heads"], n["kv_lora_rank"]
    plain, rotary, value, queries = n["qk_nope_head_dim"], n["qk_rope_head_dim"], n["v_head_dim"], n["q_lora_rank"]
    yield "self_attn.q_a_proj", _linear(queries, hidden, "bias")
    yield "self_attn.q_a_layernorm", _norm(queries)
    yield "self_attn.q_b_proj", _linear(heads * (plain + rotary), queries)
    yield "self_attn.kv_a_proj_with_mqa", _linear(rank + rotary, hidden, "bias")
    yield "self_attn.kv_a_layernorm", _norm(rank)
    yield "self_attn.kv_b_proj", _linear(heads * (plain + value), rank)
    yield "self_attn.o_proj", _linear(hidden, heads * value, "bias")


def _gqa(subject: Subject, n: _Numbers) -> Iterator[tuple[str, Slot]]:
    """Grouped-query attention (GLM-4)."""
    hidden, heads, pairs, width = (n[key] for key in _GQA_KEYS)
    biased = ("bias",) if subject.scope.get("attention_bias") is True else ()
    for name, count in (("q_proj", heads), ("k_proj", pairs), ("v_proj", pairs)):
        yield f"self_attn.{name}", Slot("linear", count * width, hidden, ("weight", *biased))
    yield "self_attn.o_proj", _linear(hidden, heads * width)
    if subject.scope.get("use_qk_norm") is True:
        yield "self_attn.q_norm", _norm(width)
        yield "self_attn.k_norm", _norm(width)


_GQA_KEYS: Final = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def _indexer(n: _Numbers) -> Iterator[tuple[str, Slot]]:
    """The lightning indexer of sparse attention; ``wk`` and ``weights_proj`` are never quantised."""
    heads, width, hidden = n["index_n_heads"], n["index_head_dim"], n["hidden_size"]
    yield "self_attn.indexer.wq_b", _linear(heads * width, n["q_lora_rank"])
    yield "self_attn.indexer.wk", Slot("plain", width, hidden)
    yield "self_attn.indexer.k_norm", _norm(width, "bias")
    yield "self_attn.indexer.weights_proj", Slot("plain", heads, hidden)


def _mlp(prefix: str, hidden: int, width: int) -> Iterator[tuple[str, Slot]]:
    yield f"{prefix}gate_proj", _linear(width, hidden)
    yield f"{prefix}up_proj", _linear(width, hidden)
    yield f"{prefix}down_proj", _linear(hidden, width)


def _router(subject: Subject, family: Family, n: _Numbers) -> Iterator[tuple[str, Slot]]:
    """The gate, with its correction bias where ``topk_method`` asks for one (or is silent and it may be there)."""
    experts, method = n["n_routed_experts"], subject.scope.get("topk_method")
    biased = family.always_biased_gate or method == "noaux_tc"
    bias = "e_score_correction_bias"
    suffixes = ("weight", bias) if biased else ("weight",)
    yield "mlp.gate", Slot("plain", experts, n["hidden_size"], suffixes, () if biased else (bias,))


def _joins(n: _Numbers) -> Iterator[tuple[str, Slot]]:
    hidden = n["hidden_size"]
    yield "enorm", _norm(hidden)
    yield "hnorm", _norm(hidden)
    yield "eh_proj", Slot("plain", hidden, 2 * hidden)
    yield "shared_head.norm", _norm(hidden)


def _is_dense(subject: Subject, layer: int) -> bool:
    kinds = subject.scope.get("mlp_layer_types")
    if isinstance(kinds, list) and 0 <= layer < len(kinds):
        return bool(kinds[layer] == "dense")
    every = subject.number("moe_layer_freq") or 1
    return layer < (subject.number("first_k_dense_replace") or 0) or layer % every != 0


def _has_indexer(subject: Subject, layer: int) -> bool | None:
    """Whether the config says that this layer of the trunk has its own; None where it is silent."""
    kinds = subject.scope.get("indexer_types")
    if isinstance(kinds, list) and 0 <= layer < len(kinds):
        return bool(kinds[layer] == "full")
    return None
