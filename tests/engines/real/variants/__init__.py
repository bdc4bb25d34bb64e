"""Ways to put a base and a draft layer together, good and bad, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.engines.real.bases import Base
from tests.engines.real.trees import Tree
from tests.engines.real.variants import configs, drafts, files, quantised, trunks

Variant = Callable[[Base], Tree]

UNQUANTISED: Mapping[str, Variant] = {**files.VARIANTS, **drafts.VARIANTS, **configs.VARIANTS, **trunks.VARIANTS}
BY_SCHEME: Mapping[str, Mapping[str, Variant]] = {
    "bf16": UNQUANTISED,
    "int4": quantised.INT4,
    "int4-experts": quantised.INT4_EXPERTS,
    "nvfp4": quantised.NVFP4,
}
