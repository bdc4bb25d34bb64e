"""The fixtures `hub` and `xet_hub`, and the environment in which the client finds them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_hub.hub import LoopbackHub

# Read once, when huggingface_hub is first imported, which a test module may do while it is collected: whoever forgets a
# fixture of this module reaches nobody.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_UNSET = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN_PATH",
    "HF_XET_CACHE",
)


@pytest.fixture
def hub(private_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub that serves over plain HTTP, and an environment that leads to it."""
    yield from _running(private_caches, monkeypatch, xet=False)


@pytest.fixture
def xet_hub(private_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub whose large files are in a chunk store, which the real hf-xet reads and writes."""
    yield from _running(private_caches, monkeypatch, xet=True)


def _running(folder: Path, monkeypatch: pytest.MonkeyPatch, *, xet: bool) -> Iterator[LoopbackHub]:
    with LoopbackHub(folder / ("xet_hub" if xet else "hub"), xet=xet) as running:
        apply(monkeypatch, environment(running, folder))
        yield running
    assert not running.crashes, "\n".join(running.crashes)
    assert not running.log.leaks(), f"a token went to the second origin:\n{running.log}"


def environment(hub: LoopbackHub, folder: Path) -> dict[str, str]:
    """What leads the client, in this process or another, to `hub`, with its caches in `folder`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(folder / "huggingface"),
        "HF_XET_CACHE": str(folder / "xet"),
        "HF_HUB_DISABLE_XET": "0" if hub.state.chunks else "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def apply(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Set the environment, and what huggingface_hub read out of an earlier one when it was imported."""
    for name in _UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    home = Path(variables["HF_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    # The client asks the Hub once a day for this list; with a fresh one the requests of a test are its own.
    (home / ".agent_harnesses.json").write_text('{"standardEnvVars": [], "harnesses": {}}')
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is None:
        return
    read: dict[str, object] = {
        "ENDPOINT": variables["HF_ENDPOINT"],
        "HUGGINGFACE_CO_URL_TEMPLATE": variables["HF_ENDPOINT"] + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_XET_CACHE": variables["HF_XET_CACHE"],
        "HF_TOKEN_PATH": str(home / "token"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": variables["HF_HUB_DISABLE_XET"] == "1",
    }
    for name, constant in read.items():
        monkeypatch.setattr(constants, name, constant, raising=False)
    from huggingface_hub import close_session

    close_session()  # its connections lead to a hub that is gone
