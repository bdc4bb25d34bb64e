"""Load directories with vLLM's own loader and model classes: ``load_vllm.py OUT.json DIRECTORY...``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}

import outcomes
import torch
import vllm_stand_ins
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.v1.worker.workspace import init_workspace_manager

DRAFTING = {"method": "mtp", "num_speculative_tokens": 1}


def configure(directory: str, speculative: dict[str, Any] | None) -> VllmConfig:
    """What ``vllm serve`` makes of the directory before it loads a weight."""
    arguments = EngineArgs(
        model=directory,
        skip_tokenizer_init=True,
        speculative_config=None if speculative is None else dict(speculative),
        max_model_len=128,
        max_num_batched_tokens=128,
        enforce_eager=True,
    )
    return arguments.create_engine_config()


def start(config: VllmConfig) -> None:
    """A world of one process; once."""
    if torch.distributed.is_initialized():
        return
    store = os.path.abspath(f"{os.environ.get('TMPDIR', '/tmp')}/vllm-{os.getpid()}.store")
    init_distributed_environment(1, 0, f"file://{store}", 0, "gloo")
    initialize_model_parallel(1, 1)
    init_workspace_manager(torch.device("cpu"))


def load(directory: str, *, draft: bool) -> Iterable[tuple[str, torch.Tensor]]:
    """The parameters of the target or of its draft after loading; buffers have nothing of a checkpoint."""
    config = configure(directory, DRAFTING if draft else None)
    model_config = config.speculative_config.draft_model_config if draft else config.model_config
    with set_current_vllm_config(config):
        start(config)
        torch.set_default_dtype(model_config.dtype)
        model = initialize_model(vllm_config=config, model_config=model_config)
        outcomes.mark(model)
        get_model_loader(config.load_config).load_weights(model, model_config)
        loaded = [(name, parameter.detach().clone()) for name, parameter in model.named_parameters()]
        finish(model)
    return loaded


def finish(model: torch.nn.Module) -> None:
    """What comes after loading, as far as it can refuse: an NVFP4 Linear whose scale was never loaded.

    The rest of vLLM's ``process_weights_after_loading`` lays weights out for kernels, which are not there.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, LinearMethodBase) and type(method).__module__.endswith(".quantization.modelopt"):
            method.process_weights_after_loading(module)


if __name__ == "__main__":
    vllm_stand_ins.install()
    outcomes.run({"target": partial(load, draft=False), "draft": partial(load, draft=True)})
