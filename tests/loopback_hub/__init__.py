"""A Hub on loopback addresses that the unmodified huggingface_hub client and the hf-xet wheel work with; see `hub`."""

from __future__ import annotations

from tests.loopback_hub.hub import LoopbackHub
from tests.loopback_hub.repositories import Seed
from tests.loopback_hub.state import Settings

__all__ = ["LoopbackHub", "Seed", "Settings"]
