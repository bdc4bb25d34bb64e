"""Load directories with transformers, the draft layer too: ``load_transformers.py OUT.json DIRECTORY...``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import outcomes
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import MtpModel
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()


@lru_cache(maxsize=1)
def open_model(directory: str) -> Any:
    """The target and what loading it said, or the error that it ended in; kept for the draft, which needs it."""
    try:
        return AutoModelForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
    except Exception as error:
        return error


def load_target(directory: str) -> Iterable[tuple[str, torch.Tensor]]:
    """The state after loading; a tensor that the loader drew itself counts as unset."""
    opened = open_model(directory)
    if isinstance(opened, Exception):
        raise opened
    model, info = opened
    missing = set(info["missing_keys"])
    for name, tensor in model.state_dict().items():
        yield name, torch.full_like(tensor, float("nan")) if name in missing else tensor


def load_draft(directory: str) -> Iterable[tuple[str, torch.Tensor]]:
    """The state of the draft model; what it shares with the target is left out.

    ``generate(use_mtp=True)`` asks first whether the config says how many draft layers there are
    (generation/candidate_generator.py, MTPCandidateGenerator).
    """
    opened = open_model(directory)
    if isinstance(opened, Exception):
        raise opened
    model, _ = opened
    if getattr(model.config.get_text_config(), "num_mtp_layers", None) is None:
        raise ValueError("Could not find `num_mtp_layers` in the model config.")
    draft = MtpModel.from_pretrained(model)
    return [(name, tensor) for name, tensor in draft.state_dict().items() if name.startswith("layers.")]


if __name__ == "__main__":
    outcomes.run({"target": load_target, "draft": load_draft})
