"""What happened when an engine loaded a directory, as plain data.

Runs inside the engines' own environment, so it imports nothing of this project.  A runner reads directories from its command
line, one process for all of them, and writes ``{directory: {"target": OUTCOME, "draft": OUTCOME}}``.  An outcome is either
``{"error": text}`` or ``{"values": {parameter: digest}, "unset": [parameter]}``.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

Load = Callable[[str], Iterable[tuple[str, torch.Tensor]]]

SENTINEL = 0x5A
"""What parameters without a NaN are filled with."""


def mark(model: Any) -> None:
    """Fill every parameter with what no checkpoint holds, so that one that was not loaded is seen."""
    for name, parameter in model.named_parameters():
        if is_optional(name) or not parameter.numel():
            continue
        if parameter.is_floating_point():
            parameter.data.fill_(float("nan"))
        else:
            parameter.data.view(-1).view(torch.uint8).fill_(SENTINEL)


def is_optional(name: str) -> bool:
    """Whether no checkpoint has to hold it.

    Engines have defaults for the scales of the key-value cache and for the order of activation, and make swizzled scales
    themselves once everything is loaded.
    """
    return re.search(r"\.([qkv]|prob)_(scale|zero_point)$|_g_idx(_sort_indices)?$|_swizzled$", name) is not None


def describe(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Any]:
    """Digests of all parameters, and which of them still hold something of `mark`."""
    values, unset = {}, []
    for name, parameter in parameters:
        if is_optional(name):
            continue
        raw = bytes_of(parameter)
        values[name] = hashlib.sha256(raw).hexdigest()[:12]
        if is_unset(parameter):
            unset.append(name)
    return {"values": values, "unset": unset}


def bytes_of(parameter: torch.Tensor) -> bytes:
    """The values; floats rounded to float16, so that a model in another float type than its checkpoint's has the same ones.

    SGLang loads what says float32 in float16, which is a choice and not a loss of weights.
    """
    held = parameter.detach()
    plain = held.half() if held.is_floating_point() else held
    return bytes(plain.contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def is_unset(parameter: torch.Tensor) -> bool:
    """Whether nothing was loaded into any element; half-filled parameters are seen by their digest."""
    if not parameter.numel():
        return False
    if parameter.is_floating_point():
        return bool(torch.isnan(parameter.float()).all())
    return bool((parameter.detach().contiguous().view(-1).view(torch.uint8) == SENTINEL).all())


def attempt(load: Load, directory: str) -> dict[str, Any]:
    """Load once; whatever the engine raises is its answer."""
    try:
        return describe(load(directory))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}"
        return {"error": text[:2000], "at": f"{place.filename.split('site-packages/')[-1]}:{place.lineno}"}
    finally:
        gc.collect()


def run(parts: dict[str, Load]) -> None:
    """Load every directory of the command line and write what happened to the file that its first word names."""
    torch.set_num_threads(1)
    out, *directories = sys.argv[1:]
    results = {}
    for directory in directories:
        began = time.time()
        results[directory] = {part: attempt(load, directory) for part, load in parts.items()}
        print(f"{time.time() - began:.1f} s {Path(directory).name}", file=sys.stderr, flush=True)
        Path(out).write_text(json.dumps(results))
