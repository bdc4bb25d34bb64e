"""The story: one short function a verb.  Read these modules first.

Every verb looks (`running.opening`), decides (`core`), and acts (`running`, `storage`) in that order; nothing is written
before everything was decided, and the base is never opened for writing.

The modules are imported when one of their verbs is asked for: parsing manifests costs 0.1 s that `diff` need not wait for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from overlay.api.assembling import (
        Locked,
        apply,
        history,
        init,
        init_derived,
        lock,
        plan,
        schema,
        status,
        undo,
    )
    from overlay.api.building import build
    from overlay.api.comparing import audit, diff, write_page
    from overlay.api.explaining import explain_code, trace
    from overlay.api.launching import launch
    from overlay.api.linting import fix, lint
    from overlay.api.looking import inspect, verify
    from overlay.api.mending import mend
    from overlay.api.probing import probe
    from overlay.api.publishing import Publication, publish
    from overlay.running.auditing import Question
    from overlay.running.converting import Conversion
    from overlay.running.locating import Places
    from overlay.running.preparing import Request

HOMES: Final = {
    **dict.fromkeys(
        (*("Locked", "apply", "history", "init", "init_derived", "lock", "plan", "schema", "status", "undo"),),
        "overlay.api.assembling",
    ),
    "build": "overlay.api.building",
    **dict.fromkeys(("audit", "diff", "write_page"), "overlay.api.comparing"),
    **dict.fromkeys(("explain_code", "trace"), "overlay.api.explaining"),
    **dict.fromkeys(("inspect", "verify"), "overlay.api.looking"),
    "launch": "overlay.api.launching",
    **dict.fromkeys(("fix", "lint"), "overlay.api.linting"),
    "mend": "overlay.api.mending",
    "probe": "overlay.api.probing",
    **dict.fromkeys(("Publication", "publish"), "overlay.api.publishing"),
    "Conversion": "overlay.running.converting",
    "Places": "overlay.running.locating",
    "Question": "overlay.running.auditing",
    "Request": "overlay.running.preparing",
}
"""Verb or value to the module that holds it."""

__all__ = [
    "Conversion",
    "Locked",
    "Places",
    "Publication",
    "Question",
    "Request",
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
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'overlay.api' has no attribute {name!r}")
