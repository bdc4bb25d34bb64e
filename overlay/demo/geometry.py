"""The sizes that a checkpoint of the GLM-5.2 family is made of.

Theory of operation: every name, dtype, shape and shard of the family follows from the numbers below, so that one
generator serves the published checkpoints and replicas small enough for a test.  The defaults are the published
`config.json` of zai-org/GLM-5.2, revision b4734de4facf877f85769a911abafc5283eab3d9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The numbers that decide a layout; unless said otherwise they are counts of elements."""

    hidden: int = 6144
    dense_width: int = 12288
    """Inner width of the MLPs of the first layers, which have no experts."""
    expert_width: int = 2048
    layers: int = 78
    """Layers of the trunk; the MTP layer is stored under this number, behind the last of them."""
    dense_layers: int = 3
    experts: int = 256
    """Routed experts of a layer; one shared expert comes beside them."""
    experts_per_token: int = 8
    heads: int = 64
    query_rank: int = 2048
    key_value_rank: int = 512
    plain_head: int = 192
    """Part of a query or key head that carries no position."""
    rotary_head: int = 64
    value_head: int = 256
    indexer_heads: int = 32
    indexer_head: int = 128
    indexer_period: int = 4
    """One layer in so many stores an indexer and the layers after it share that one."""
    indexer_offset: int = 3
    vocabulary: int = 154_880
    first_special_token: int = 154_820
    """Id of ``<|endoftext|>``; the other special tokens follow it."""
    donor_shard_limit: int = 5 * 2**30
    """Most data bytes of a shard of the BF16 donor.  5 GiB, not 5 GB: the latter would give 303 shards."""
    base_shard_limit: int = 10 * 10**9
    """Most data bytes of a shard of the NVFP4 base: the ``max_shard_size="10GB"`` of ModelOpt 0.44."""

    @property
    def mtp_layer(self) -> int:
        """The number of the multi-token-prediction layer."""
        return self.layers

    @property
    def mtp_prefix(self) -> str:
        """What the names of all tensors of the MTP layer begin with."""
        return f"model.layers.{self.mtp_layer}."

    def is_dense(self, layer: int) -> bool:
        """Whether `layer` has one plain MLP instead of experts."""
        return layer < self.dense_layers

    def has_indexer(self, layer: int) -> bool:
        """Whether `layer` stores an indexer of its own.  The MTP layer does, although the config does not say."""
        if layer == self.mtp_layer:
            return True
        return max(layer - self.indexer_offset + 1, 0) % self.indexer_period == 0


FULL_SIZE: Final = Geometry()
"""zai-org/GLM-5.2: 1.5 TB in BF16."""

SCALED_DOWN: Final = Geometry(
    hidden=32,
    dense_width=64,
    expert_width=32,
    experts=8,
    experts_per_token=2,
    heads=2,
    query_rank=32,
    key_value_rank=32,
    plain_head=16,
    rotary_head=16,
    value_head=16,
    indexer_heads=2,
    indexer_head=32,
    vocabulary=288,
    first_special_token=256,
    donor_shard_limit=21_660,
    base_shard_limit=60_000,
)
"""A few MB with all 78 + 1 layers.

Inputs of linears are multiples of 32, so that NVFP4 (groups of 16) and INT4 (groups of 32) both divide them.  The
limits are chosen so that there are as many shards as in the published checkpoints, 282 and 45, and so that layer 78
lies in five of them as it does there.
"""
