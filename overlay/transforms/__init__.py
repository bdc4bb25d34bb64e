"""Tensor arithmetic: quantised weights to plain ones and back, experts, fusing, casting, and what is lost by it.

The only room with torch (``pip install 'checkpoint-overlay[convert]'``).  Tensors in, tensors out: no files, no names of
tensors but the suffixes of partners, which are the fields of what an encoder returns.  A device is simply where the
tensors are.  Results do not depend on the number of threads.  Little-endian hosts only, as the file format is.

For a weight of N rows and K columns, G columns a group:

====================  ======================================================================  ============  =========
format                partners (suffix, dtype, shape)                                         `dequantise_`  `quantise_`
====================  ======================================================================  ============  =========
modelopt NVFP4        ``weight`` U8 [N, K/2] · ``weight_scale`` F8_E4M3 [N, K/16] ·           both          both
                      ``weight_scale_2`` F32 []
nvfp4-pack-quantized  ``weight_packed`` U8 [N, K/2] · ``weight_scale`` F8_E4M3 [N, K/16] ·    both          both
                      ``weight_global_scale`` F32 [1]
pack-quantized        ``weight_packed`` I32 [N, ceil(K*B/32)] · ``weight_scale`` [N, K/G] ·   both          both
INT4, INT8            ``weight_zero_point`` I32 [ceil(N*B/32), K/G] · ``weight_shape`` I64
FP8 blocks            ``weight`` F8_E4M3 [N, K] · ``weight_scale_inv`` F32 [N/128, K/128]     both          both
FP8 rows, tensor      ``weight`` F8_E4M3 [N, K] · ``weight_scale`` [N, 1] or []               both          both
MXFP4                 ``weight_packed`` U8 [N, K/2] · ``weight_scale`` U8 [N, K/32]           both          both
MXFP8                 ``weight`` F8_E4M3 [N, K] · ``weight_scale`` U8 [N, K/32]               both          both
AWQ                   ``qweight`` I32 [K, N/8] · ``qzeros`` I32 [K/G, N/8] · ``scales``       yes           no
GPTQ                  ``qweight`` I32 [K*B/32, N] · ``qzeros`` · ``scales`` · ``g_idx``       yes           no
====================  ======================================================================  ============  =========
"""

from overlay.transforms.accuracy import Accuracy, Reach, measure
from overlay.transforms.awq_gptq import dequantise_awq, dequantise_gptq
from overlay.transforms.casting import cast
from overlay.transforms.dtypes import TORCH_DTYPES, dtype_name
from overlay.transforms.experts import keep_rows
from overlay.transforms.fp8 import (
    Fp8,
    Fp8Blocks,
    dequantise_fp8,
    dequantise_fp8_blocks,
    fp8_reach,
    quantise_fp8_blocks,
    quantise_fp8_rows,
    quantise_fp8_tensor,
)
from overlay.transforms.fusing import fuse_experts, fuse_rows, fuse_shared, split_experts, split_rows
from overlay.transforms.integer import (
    PackedIntegers,
    dequantise_packed_integers,
    pack_codes,
    packed_integers_reach,
    quantise_packed_integers,
    unpack_codes,
)
from overlay.transforms.mx import (
    Mxfp4,
    Mxfp8,
    dequantise_mxfp4,
    dequantise_mxfp8,
    quantise_mxfp4,
    quantise_mxfp8,
)
from overlay.transforms.nvfp4 import (
    ModeloptNvfp4,
    PackedNvfp4,
    dequantise_modelopt_nvfp4,
    dequantise_packed_nvfp4,
    modelopt_nvfp4_reach,
    pack_modelopt_nvfp4,
    packed_nvfp4_reach,
    quantise_modelopt_nvfp4,
    quantise_packed_nvfp4,
    reciprocal_scale,
    shared_global_scale,
    shared_weight_scale_2,
    unpack_modelopt_nvfp4,
)
from overlay.transforms.problems import RULES, TransformProblem

__all__ = [
    "RULES",
    "TORCH_DTYPES",
    "Accuracy",
    "Fp8",
    "Fp8Blocks",
    "ModeloptNvfp4",
    "Mxfp4",
    "Mxfp8",
    "PackedIntegers",
    "PackedNvfp4",
    "Reach",
    "TransformProblem",
    "cast",
    "dequantise_awq",
    "dequantise_fp8",
    "dequantise_fp8_blocks",
    "dequantise_gptq",
    "dequantise_modelopt_nvfp4",
    "dequantise_mxfp4",
    "dequantise_mxfp8",
    "dequantise_packed_integers",
    "dequantise_packed_nvfp4",
    "dtype_name",
    "fp8_reach",
    "fuse_experts",
    "fuse_rows",
    "fuse_shared",
    "keep_rows",
    "measure",
    "modelopt_nvfp4_reach",
    "pack_codes",
    "pack_modelopt_nvfp4",
    "packed_integers_reach",
    "packed_nvfp4_reach",
    "quantise_fp8_blocks",
    "quantise_fp8_rows",
    "quantise_fp8_tensor",
    "quantise_modelopt_nvfp4",
    "quantise_mxfp4",
    "quantise_mxfp8",
    "quantise_packed_integers",
    "quantise_packed_nvfp4",
    "reciprocal_scale",
    "shared_global_scale",
    "shared_weight_scale_2",
    "split_experts",
    "split_rows",
    "unpack_codes",
    "unpack_modelopt_nvfp4",
]
