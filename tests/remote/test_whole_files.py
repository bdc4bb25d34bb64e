"""Whole files that are fetched at once: one that fails does not wait for the others."""

from __future__ import annotations

import time

import pytest

from overlay.core.progress import Silent
from overlay.errors import EnvironmentFault
from overlay.running.fetching import fetch_files
from overlay.storage.hub.patience import Patience
from overlay.storage.stores import open_remote, seen_elsewhere
from tests.loopback_hub import faults
from tests.loopback_hub.hub import LoopbackHub

BASE = "org/base"


def test_the_first_that_fails_ends_it(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", Patience(tries=1, first_wait=0.01))
    commit = hub.seed(BASE, {"a.safetensors": b"a" * 200_000, "b.safetensors": b"b" * 200_000})
    address = f"hf://{BASE}@{commit}"
    files = [seen_elsewhere(address, file) for file in open_remote(address).listing.files.values()]
    wanted = [file for file in files if file.name.endswith(".safetensors")]
    begun = time.monotonic()

    with (
        hub.failing(faults.when(faults.bytes_of("a.safetensors"), faults.stall(1000, seconds=10))),
        hub.failing(faults.when(faults.bytes_of("b.safetensors"), faults.server_error(500))),
        pytest.raises(EnvironmentFault, match="status 500"),
    ):
        fetch_files(wanted, Silent())

    assert 8 > time.monotonic() - begun
