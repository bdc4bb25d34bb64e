"""The choices of GPU kernels that vLLM makes while it builds a model, answered on a CPU.

Nothing else is replaced: parameters, names, shapes, dtypes, weight loaders, the choice of files and all of ``load_weights``
are vLLM's own.  No forward pass is possible, and none is meant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch


class NoKernel:
    """Where vLLM wants a kernel."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def input_quant_key(self) -> None: ...

    def process_weights_after_loading(self, layer: Any) -> None: ...

    def apply_weights(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("this process only loads")

    @classmethod
    def can_implement(cls, config: Any) -> tuple[bool, None]:
        return True, None


def install() -> None:
    """Put them in place of vLLM 0.33.0's own."""
    _attention()
    _quantisation()


def _attention() -> None:
    from vllm.platforms.cpu import CpuPlatform

    # The CPU platform names no class for sparse attention, which glm_moe_dsa asks for.
    choose = CpuPlatform.get_attn_backend_cls.__func__

    def choose_also_sparse(
        cls: Any, selected_backend: Any, attn_selector_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if attn_selector_config.use_sparse:
            return "vllm.v1.attention.backends.mla.flashmla_sparse.FlashMLASparseBackend"
        return choose(cls, selected_backend, attn_selector_config, *args, **kwargs)

    CpuPlatform.get_attn_backend_cls = classmethod(choose_also_sparse)
    torch.accelerator.empty_cache = lambda: None


def _quantisation() -> None:
    import vllm.model_executor.layers.quantization.compressed_tensors.schemes.compressed_tensors_w4a4_nvfp4 as nvfp4
    import vllm.model_executor.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16 as int4
    import vllm.model_executor.layers.quantization.modelopt as modelopt
    from vllm.model_executor.layers.fused_moe.oracle.int_wna16 import WNA16MoEBackend
    from vllm.model_executor.layers.fused_moe.oracle.nvfp4 import NvFp4MoeBackend

    moe = "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe"
    int4_moe: Any = import_module(f"{moe}.compressed_tensors_moe_wna16")
    modelopt.init_nvfp4_linear_kernel = nvfp4.init_nvfp4_linear_kernel = lambda *args, **kwargs: NoKernel()
    modelopt.select_nvfp4_moe_backend = lambda *args, **kwargs: (NvFp4MoeBackend.EMULATION, NoKernel)
    int4.choose_mp_linear_kernel = lambda *args, **kwargs: NoKernel
    int4_moe.select_wna16_moe_backend = lambda *args, **kwargs: (WNA16MoEBackend.TRITON, NoKernel)
