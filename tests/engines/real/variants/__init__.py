"""Ways to put a base and a draft layer together, good and bad, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.engines.real.bases import Base
from tests.engines.real.trees import Tree
from tests.engines.real.variants import configs, drafts, files, quantised, trunks

Variant = Callable[[Base], Tree]

UNQUANTISED: Mapping[str, Variant] = {**files.VARIANTS, **drafts.VARIANTS, **configs.VARIANTS, **trunks.VARIANTS}
_SCHEMES: Mapping[str, Mapping[str, Variant]] = {
    "bf16": UNQUANTISED,
    "int4": quantised.INT4,
    "int4-experts": quantised.INT4_EXPERTS,
    "nvfp4": quantised.NVFP4,
}
BY_BASE: Mapping[tuple[str, str], Mapping[str, Variant]] = {
    **{
        (family, scheme): variants
        for family in ("glm_moe_dsa", "glm4_moe", "deepseek_v3")
        for scheme, variants in _SCHEMES.items()
    },
    ("wide", "nvfp4"): quantised.FUSED,
}
"""The variants of each base, which is a family in a scheme."""
