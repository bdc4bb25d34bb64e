"""What the tests of reading share: a file, a short patience, and an error that is held against the rules of messages."""

from __future__ import annotations

import pytest

from overlay.errors import OverlayError
from overlay.storage.hub.opening import HubRepository
from overlay.storage.hub.patience import Patience
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.faults import Fault

REPO = "org/name"
DATA = bytes(range(256)) * 2000  # 512 kB
NAME = "model.safetensors"

TRIES = 4
IMPATIENT = Patience(
    tries=TRIES,
    first_wait=0.01,
    longest_wait=0.02,
    longest_asked=5,
    total=20,
    connect=1,
    silence=0.5,
    window=0.4,
    least_rate=1000,
    progress=1 << 16,
)


def whole(repository: HubRepository, begin: int = 1, end: int = len(DATA)) -> bytes:
    return b"".join(repository.read(NAME, begin, end))


def refused(hub: LoopbackHub, repository: HubRepository, *faults: Fault, begin: int = 1) -> OverlayError:
    """The error with which a range is refused under `faults`."""
    with hub.failing(*faults), pytest.raises(OverlayError) as caught:
        whole(repository, begin)
    assert caught.value.line.startswith(f"{repository.listing.address}/{NAME}: expected ")
    assert caught.value.line.isprintable()
    assert hub.token not in f"{caught.value.line} {caught.value.hint}"
    assert caught.value.hint
    return caught.value
