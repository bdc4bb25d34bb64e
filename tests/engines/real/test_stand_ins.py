"""The quantised stand-ins have the names, dtypes and shapes that the library of their format gives a Linear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from tests.engines.real.bases import bf16, int4, is_quantised, nvfp4
from tests.support.checkpoints import Tensor

ROWS, COLUMNS = 64, 96
WEIGHT = bf16("model.layers.4.mlp.up_proj.weight", (ROWS, COLUMNS))
NAMES = {torch.int32: "I32", torch.int64: "I64", torch.bfloat16: "BF16", torch.uint8: "U8"}


def layout(tensors: list[Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {tensor.name.rsplit(".", 1)[1]: (tensor.dtype, tensor.shape) for tensor in tensors}
