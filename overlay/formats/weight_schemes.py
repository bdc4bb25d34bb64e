"""How a weight is to be stored: the formats that a recipe can read and write, and the parameters that decide the bytes.

The names of the formats are those of the libraries that write them; ``transforms`` holds their tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Format = Literal[
    "modelopt-nvfp4",
    "nvfp4-pack-quantized",
    "pack-quantized",
    "fp8-block",
    "fp8-channel",
    "fp8-tensor",
    "mxfp4",
    "mxfp8",
]
"""A format that weights can be quantised to, and dequantised from."""

DecodedFormat = Literal[Format, "awq", "gptq"]
"""A format that weights can be dequantised from."""

FLOATS: Final = ("BF16", "F16", "F32")
"""Dtypes of weights that are not quantised."""

FP8_BLOCK: Final = (128, 128)
"""Rows and columns of a block of FP8, unless a config says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScheme:
    """A format with all parameters that decide which bytes a weight becomes."""

    format: Format
    bits: int = 8
    """Bits of an element: 4 or 8."""
    group_size: int | None = None
    """Columns that share a scale; None for one scale a row, where the format leaves a choice."""
    symmetric: bool = True
    """False where zero points are stored; pack-quantized only."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale; fp8-block only."""
    scale_dtype: str | None = None
    """Dtype of the scales that is demanded; None for the one that the format or the weight brings."""
    scale_name: str = "weight_scale"
    """Suffix of the scales: DeepSeek's blocks are called ``weight_scale_inv``."""
    static_inputs: bool = False
    """Whether the format's scale of the inputs is stored too, which only a calibration can give."""

    @property
    def label(self) -> str:
        """The scheme in a few words, such as ``pack-quantized int4 g32 asym``."""
        words: list[str] = [self.format]
        if self.format == "pack-quantized":
            words.append(f"int{self.bits}")
            words.append(f"g{self.group_size}" if self.group_size else "channel")
            words.append("sym" if self.symmetric else "asym")
        words += [f"{self.block[0]}x{self.block[1]}"] if self.block else []
        words += [f"scales {self.scale_dtype}"] if self.scale_dtype else []
        return " ".join([*words, "with static inputs"] if self.static_inputs else words)


NVFP4_GROUP: Final = 16
MX_GROUP: Final = 32


def nvfp4(format: Literal["modelopt-nvfp4", "nvfp4-pack-quantized"], *, static_inputs: bool = False) -> WeightScheme:
    """NVFP4, in groups of 16 columns, as one of its two libraries stores it."""
    return WeightScheme(format=format, bits=4, group_size=NVFP4_GROUP, static_inputs=static_inputs)
