"""Load directories with SGLang's own loader and model classes: ``load_sglang.py OUT.json DIRECTORY...``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}

import outcomes
import sglang_stand_ins
import torch
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
from sglang.srt.layers.dp_attention import initialize_dp_attention
from sglang.srt.layers.moe.utils import initialize_moe_config
from sglang.srt.model_loader.loader import DefaultModelLoader, _get_quantization_config, _initialize_model
from sglang.srt.model_loader.utils import set_default_torch_dtype
from sglang.srt.runtime_context import SpawnRanks, publish
from sglang.srt.server_args import ServerArgs


def start(arguments: ServerArgs) -> None:
    """A world of one process; once."""
    if torch.distributed.is_initialized():
        return
    store = os.path.abspath(f"{os.environ.get('TMPDIR', '/tmp')}/sglang-{os.getpid()}.store")
    method = f"file://{store}"
    init_distributed_environment(backend="gloo", world_size=1, rank=0, local_rank=0, distributed_init_method=method)
    initialize_model_parallel(backend="gloo")
    initialize_dp_attention(arguments)
    initialize_moe_config()


def load(directory: str, *, draft: bool) -> Iterable[tuple[str, torch.Tensor]]:
    """The parameters of the target or of its draft after loading."""
    arguments = ServerArgs(model_path=directory, device="cpu", skip_tokenizer_init=True)
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    start(arguments)
    model_config = ModelConfig.from_server_args(arguments, is_draft_model=draft)
    load_config = LoadConfig()
    quantisation = _get_quantization_config(model_config, load_config)
    with set_default_torch_dtype(model_config.dtype):
        model = _initialize_model(model_config, load_config, quantisation)
        outcomes.mark(model)
        loader = DefaultModelLoader(load_config)
        model.load_weights(loader._get_all_weights(model_config, model))
    return list(model.named_parameters())


if __name__ == "__main__":
    sglang_stand_ins.install()
    outcomes.run({"target": partial(load, draft=False), "draft": partial(load, draft=True)})
