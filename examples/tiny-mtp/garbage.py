"""Write a draft layer that learned nothing: the names, shapes and dtypes of a donor, its matrices drawn at random.

    python examples/tiny-mtp/garbage.py DONOR OUT

This is what an engine drafts from when nobody put the layer's weights in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write_garbage(donor: Path, out: Path, seed: int = 0) -> None:
    """Write to the folder `out` what the folder `donor` holds, each matrix with numbers of the same spread; vectors stay."""
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(donor / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            drawn = torch.randn(tensor.shape, generator=generator) * tensor.float().std()
            tensors[name] = drawn.to(tensor.dtype)
    out.mkdir(parents=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    write_garbage(Path(sys.argv[1]), Path(sys.argv[2]))
