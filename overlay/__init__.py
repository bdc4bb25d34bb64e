"""Overlay manager for large language model checkpoints.

The verbs of the command line as functions, lazily, so that ``import overlay`` costs nothing::

    import overlay

    done = overlay.apply(overlay.Request(sources=("glm-5.2-nvfp4-mtp.yaml",)), "serve")
    verdict = overlay.verify("serve", level="content")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from overlay.api import (
        Locked,
        apply,
        history,
        init,
        init_derived,
        inspect,
        lock,
        plan,
        schema,
        status,
        undo,
        verify,
    )
    from overlay.errors import Conflict, EnvironmentFault, InvalidInput, Mismatch, OverlayError, UsageError
    from overlay.running.locating import Places
    from overlay.running.preparing import Request

_HOMES = {
    **dict.fromkeys(
        (
            *("Locked", "apply", "history", "init", "init_derived", "inspect", "lock", "plan", "schema", "status"),
            *("undo", "verify"),
        ),
        "overlay.api",
    ),
    **dict.fromkeys(
        ("Conflict", "EnvironmentFault", "InvalidInput", "Mismatch", "OverlayError", "UsageError"), "overlay.errors"
    ),
    "Places": "overlay.running.locating",
    "Request": "overlay.running.preparing",
}

__all__ = [
    "Conflict",
    "EnvironmentFault",
    "InvalidInput",
    "Locked",
    "Mismatch",
    "OverlayError",
    "Places",
    "Request",
    "UsageError",
    "apply",
    "history",
    "init",
    "init_derived",
    "inspect",
    "lock",
    "plan",
    "schema",
    "status",
    "undo",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'overlay' has no attribute {name!r}")
