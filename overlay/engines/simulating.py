"""Simulating: what a layer of a checkpoint lacks, and has too much, against what an engine builds for it.

The result does not yet say what an engine makes of it; `outcomes` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.core.schemes import Form, scheme_of
from overlay.engines.comparing import Trouble, compare, wanted_tensors
from overlay.engines.inventory import EXPERTS, Needs, Slot
from overlay.engines.layers import LayerSeen
from overlay.engines.matching import Decision
from overlay.formats.weight_schemes import WeightScheme

Decide = Callable[[str], Decision]
"""Module below the layer, to what the engine's quantisation says of it."""

_INDEXER_KEY: Final = "self_attn.indexer.wk"
_KINDS: Final = {"mxfp4": "mxfp4-pack-quantized"}
"""Format of a config to the kind of a form, where they are called otherwise."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One module, or the experts of one projection, that is not what the engine builds."""

    prefix: str
    """Of the layer."""
    path: str
    """Module below it; of experts ``mlp.experts.N.PROJECTION``."""
    slot: Slot | None
    """None: the engine knows no such module."""
    scheme: WeightScheme | None
    """What the engine builds it in."""
    form: Form | None
    """What is stored; None: nothing."""
    troubles: tuple[Trouble, ...]
    experts: tuple[int, ...] = ()
    """The experts that this is about."""
    whole: bool = False
    """Whether the layer has no routed expert at all."""
    agreed: bool = True
    """False: the parts of a fused module are declared differently."""

    @property
    def is_expert(self) -> bool:
        """Whether it is about routed experts."""
        return bool(self.experts)

    @property
    def scheme_differs(self) -> bool:
        """Whether the module is stored in another scheme than it is built in."""
        if self.form is None or self.slot is None or self.slot.role not in ("linear", "plain"):
            return False
        built = "dense" if self.scheme is None or self.slot.role == "plain" else self.scheme.format
        stored = scheme_of(self.form).kind
        return stored not in (_KINDS.get(built, built), "unknown")

    @property
    def example(self) -> str:
        """A tensor to name in a message."""
        suffix = self.troubles[0].suffix if self.troubles else "weight"
        return f"{self.prefix}{self.path}.{suffix}"


def gaps_of(
    layer: LayerSeen,
    needs: Needs,
    decide: Decide | None,
    experts: Decision | None,
    copies: Sequence[str] = (),
    *,
    fp8_key: bool = False,
) -> Iterator[Gap]:
    """Everything in `layer` that is not what the engine builds.

    Args:
        layer: what is stored.
        needs: what the config asks for.
        decide: what the engine's quantisation says of a module; None: not understood, so that schemes are not compared.
        experts: what it says of the routed experts.
        copies: modules that may be there and are not read.
        fp8_key: whether an FP8 ``indexer.wk`` with its scale is accepted (vLLM >= 0.20).
    """
    for path, slot in needs.slots.items():
        form = layer.modules.get(path)
        if form is None and path in needs.may:
            continue
        decision = decide(path) if decide is not None and slot.role == "linear" else Decision(None)
        known = decide is not None or slot.role != "linear"
        yield from _module_gap(layer.prefix, path, slot, decision, form, known=known, fp8_key=fp8_key)
    for path, form in layer.modules.items():
        if path not in needs.slots and path not in copies:
            troubles = tuple(Trouble("unexpected", part.suffix, "none", part.dtype) for part in sorted(form))
            yield Gap(layer.prefix, path, None, None, form, troubles)
    yield from _expert_gaps(layer, needs, experts)


def _module_gap(
    prefix: str, path: str, slot: Slot, decision: Decision, form: Form | None, *, known: bool, fp8_key: bool
) -> Iterator[Gap]:
    if form is None:
        missing = _all_missing(slot, decision.scheme, known=known)
        yield Gap(prefix, path, slot, decision.scheme, None, missing, agreed=decision.agreed)
    elif not decision.agreed:
        yield Gap(prefix, path, slot, None, form, (), agreed=False)
    elif known:
        troubles = compare(slot, decision.scheme, form)
        if fp8_key and path == _INDEXER_KEY:
            troubles = _without_fp8_pair(troubles, form)
        if troubles:
            yield Gap(prefix, path, slot, decision.scheme, form, troubles)


def _all_missing(slot: Slot, scheme: WeightScheme | None, *, known: bool) -> tuple[Trouble, ...]:
    if not known:
        return (Trouble("missing", "weight", "a weight", "none"),)
    return tuple(Trouble("missing", suffix, want.words, "none") for suffix, want in wanted_tensors(slot, scheme))


def _without_fp8_pair(troubles: tuple[Trouble, ...], form: Form) -> tuple[Trouble, ...]:
    """An FP8 weight of ``indexer.wk`` is dequantised when it comes with its scale; a lone half waits for ever."""
    stored = {part.suffix: part.dtype for part in form}
    if stored.get("weight") != "F8_E4M3":
        return troubles
    if stored.keys() & {"weight_scale", "weight_scale_inv"}:
        return ()
    return (Trouble("missing", "weight_scale_inv", "the scale of an F8_E4M3 weight", "none"),)


def _expert_gaps(layer: LayerSeen, needs: Needs, decision: Decision | None) -> Iterator[Gap]:
    wanted = range(needs.experts)
    present: dict[str, set[int]] = {projection: set() for projection in needs.projections}
    for (projection, form), numbers in layer.experts.items():
        slot = needs.projections.get(projection)
        path = f"{EXPERTS}.{min(numbers)}.{projection}"
        known = tuple(number for number in numbers if number < needs.experts)
        beyond = tuple(number for number in numbers if number >= needs.experts)
        if slot is None or beyond:
            troubles = tuple(Trouble("unexpected", part.suffix, "none", part.dtype) for part in sorted(form))
            first = min(beyond or known)
            yield Gap(
                layer.prefix, f"{EXPERTS}.{first}.{projection}", None, None, form, troubles, tuple(beyond or known)
            )
            if slot is None:
                continue
        present[projection].update(known)
        if decision is None or not known:
            continue
        if not decision.agreed:
            yield Gap(layer.prefix, path, slot, None, form, (), known, agreed=False)
        elif troubles := compare(slot, decision.scheme, form):
            yield Gap(layer.prefix, path, slot, decision.scheme, form, troubles, known)
    for projection, slot in needs.projections.items():
        absent = tuple(number for number in wanted if number not in present[projection])
        if absent:
            scheme = decision.scheme if decision is not None else None
            missing = _all_missing(slot, scheme, known=decision is not None)
            yield Gap(
                layer.prefix,
                f"{EXPERTS}.{absent[0]}.{projection}",
                slot,
                scheme,
                None,
                missing,
                absent,
                not layer.experts,
            )
