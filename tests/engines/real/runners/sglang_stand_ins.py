"""What SGLang wants of a GPU: packages when it is imported, and answers while it builds a model.

Importing this module puts the packages in place; it comes before the first import of sglang.
"""

from __future__ import annotations

from typing import Any

import stand_ins
import torch
import torch._inductor.runtime.triton_heuristics  # torch decides that there is no triton before its stand-in is there
from torch.utils._triton import has_triton_package

PACKAGES = """
    triton torchvision torchaudio sgl_kernel flashinfer deep_gemm tilelang cutlass cuda quack flash_attn flash_mla deep_ep
    torch_memory_saver av decord soundfile numba scipy timm humming kernels outlines llguidance modelscope anthropic
    watchfiles
"""

has_triton_package()
stand_ins.install(PACKAGES.split())


def install() -> None:
    """Answer SGLang 0.5.23's questions; no weight depends on them."""
    import sglang.srt.layers.attention.dsa.dsa_indexer as indexer
    import sglang.srt.layers.quantization.modelopt_quant as modelopt
    import sglang.srt.layers.rotary_embedding.factory as rope
    import sglang.srt.models.deepseek_v2 as deepseek
    import sglang.srt.models.glm4_moe as glm4

    class Blackwell:
        """The NVFP4 MoE method asks for this chip in its constructor."""

        is_blackwell = True

        def __getattr__(self, name: str) -> bool:
            return False

    # Sparse attention asks for the compute capability.
    torch.cuda.get_device_capability = lambda *args, **kwargs: (9, 0)
    modelopt.get_platform = Blackwell

    # The CPU's factory knows one kind of rope only.
    def get_rope(*args: Any, device: object = None, **kwargs: Any) -> Any:
        return rope.get_rope(*args, **kwargs)

    deepseek.get_rope_wrapper = indexer.get_rope_wrapper = get_rope
    _fuse_as_on_cuda(deepseek, deepseek.DeepseekV2ForCausalLM)
    _fuse_as_on_cuda(glm4, glm4.Glm4MoeForCausalLM)


def _fuse_as_on_cuda(module: Any, model: Any) -> None:
    """Let a model decide as it would on CUDA whether its shared expert becomes one more routed expert.

    The decision changes which names are loaded and how; the rest of the module goes on knowing that this is a CPU.
    """
    decide = model.shared_experts_fusion_disable_reason.__func__

    def decide_on_cuda(cls: Any, *arguments: Any) -> Any:
        module._is_cuda = True
        try:
            return decide(cls, *arguments)
        finally:
            module._is_cuda = False

    model.shared_experts_fusion_disable_reason = classmethod(decide_on_cuda)
