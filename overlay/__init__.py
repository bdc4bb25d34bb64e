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
        Conversion,
        Locked,
        Places,
        Publication,
        Question,
        Request,
        apply,
        audit,
        build,
        diff,
        explain_code,
        fix,
        history,
        init,
        init_derived,
        inspect,
        launch,
        lint,
        lock,
        mend,
        plan,
        probe,
        publish,
        schema,
        status,
        trace,
        undo,
        verify,
        write_page,
    )
    from overlay.errors import Conflict, EnvironmentFault, InvalidInput, Mismatch, OverlayError, UsageError

_ERRORS = ("Conflict", "EnvironmentFault", "InvalidInput", "Mismatch", "OverlayError", "UsageError")

__all__ = [
    "Conflict",
    "Conversion",
    "EnvironmentFault",
    "InvalidInput",
    "Locked",
    "Mismatch",
    "OverlayError",
    "Places",
    "Publication",
    "Question",
    "Request",
    "UsageError",
    "apply",
    "audit",
    "build",
    "diff",
    "explain_code",
    "fix",
    "history",
    "init",
    "init_derived",
    "inspect",
    "launch",
    "lint",
    "lock",
    "mend",
    "plan",
    "probe",
    "publish",
    "schema",
    "status",
    "trace",
    "undo",
    "verify",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("overlay.errors" if name in _ERRORS else "overlay.api"), name)
    raise AttributeError(f"module 'overlay' has no attribute {name!r}")
