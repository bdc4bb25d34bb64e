"""The fixtures of the loopback Hub, for every test of this folder."""

from __future__ import annotations

from tests.loopback_hub.fixtures import hub as hub
from tests.loopback_hub.fixtures import xet_hub as xet_hub
