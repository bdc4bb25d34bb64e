"""What transforms cost on one thread, as ratios to compressed-tensors' own code measured in the same run.

    python benchmarks/transforms.py [--rounds N] [--shape ROWS COLUMNS]

Every round measures both sides one after the other on the same tensors, and the median of the ratios is what counts.
Before anything is measured the results of both sides are compared bit for bit.  Copying is a limit, not a peer: the
bytes that a transform reads and writes, moved by torch on the same thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from compressed_tensors.compressors import NVFP4PackedCompressor, PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.quant_scheme import QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from torch import Tensor

from overlay import transforms

MIN_NVFP4_DECODE = 15.0
MIN_INT4_ENCODE = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=2, default=(2048, 6144), metavar=("ROWS", "COLUMNS"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    weight = (torch.randn(*options.shape, generator=torch.Generator().manual_seed(0)) * 0.05).bfloat16()
    bench_nvfp4(weight, options.rounds)
    bench_int4(weight, options.rounds)
    bench_alone(weight, options.rounds)


def bench_nvfp4(weight: Tensor, rounds: int) -> None:
    """NVFP4 both ways, in the layout that both sides read."""
    arguments = QuantizationArgs(
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=16,
        symmetric=True,
        scale_dtype=torch.float8_e4m3fn,
    )
    library = QuantizationScheme(targets=["Linear"], weights=arguments)

    def encode() -> dict[str, Tensor]:
        divisor = generate_gparam(weight.amin().reshape(1), weight.amax().reshape(1))
        scale, _ = calculate_qparams(*extremes(weight, 16), arguments, global_scale=divisor)
        given = {"weight": weight, "weight_scale": scale, "weight_global_scale": divisor}
        return NVFP4PackedCompressor.compress(given, library)

    parts = transforms.quantise_packed_nvfp4(weight)._asdict()

    def decode() -> Tensor:
        return NVFP4PackedCompressor.decompress(dict(parts), library)["weight"]

    compare(encode(), parts)
    compare({"weight": decode()}, {"weight": transforms.dequantise_packed_nvfp4(**parts)})
    say(
        "NVFP4 -> BF16",
        versus(decode, lambda: transforms.dequantise_packed_nvfp4(**parts), rounds),
        (*parts.values(), weight),
        least=MIN_NVFP4_DECODE,
    )
    say(
        "BF16 -> NVFP4",
        versus(encode, lambda: transforms.quantise_packed_nvfp4(weight), rounds),
        (weight, *parts.values()),
    )


def bench_int4(weight: Tensor, rounds: int) -> None:
    """Asymmetric INT4 in groups of 32, both ways."""
    arguments = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=False)
    library = QuantizationScheme(targets=["Linear"], weights=arguments)

    def encode() -> dict[str, Tensor]:
        scale, zero = calculate_qparams(*extremes(weight, 32), arguments)
        given = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
        return PackedQuantizationCompressor.compress(given, library)

    parts: dict[str, Any] = transforms.quantise_packed_integers(weight)._asdict()

    def decode() -> Tensor:
        return PackedQuantizationCompressor.decompress(dict(parts), library)["weight"]

    compare(encode(), parts)
    compare({"weight": decode()}, {"weight": transforms.dequantise_packed_integers(**parts)})
    say(
        "BF16 -> INT4",
        versus(encode, lambda: transforms.quantise_packed_integers(weight), rounds),
        (weight, *parts.values()),
        least=MIN_INT4_ENCODE,
    )
    say(
        "INT4 -> BF16",
        versus(decode, lambda: transforms.dequantise_packed_integers(**parts), rounds),
        (*parts.values(), weight),
    )


def bench_alone(weight: Tensor, rounds: int) -> None:
    """What has no peer that does the same: rates only."""
    blocks, restored = transforms.quantise_fp8_blocks(weight), weight * 1.01
    for name, call in {
        "BF16 -> FP8 blocks": lambda: transforms.quantise_fp8_blocks(weight),
        "FP8 blocks -> BF16": lambda: transforms.dequantise_fp8_blocks(*blocks),
        "BF16 -> F32": lambda: transforms.cast(weight, torch.float32),
        "measure": lambda: transforms.measure(weight, restored, group_size=32),
    }.items():
        best = min(seconds(call) for _ in range(rounds))
        print(f"{name:20} {best * 1e3:7.1f} ms  {weight.nbytes / best / 1e9:5.2f} GB/s of BF16")


def extremes(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """What the library's memoryless min-max observer sees."""
    groups = weight.unflatten(-1, (-1, group))
    return groups.amin(-1), groups.amax(-1)


def compare(expected: dict[str, Tensor], observed: dict[str, Tensor]) -> None:
    """Stop unless both sides made the same bits."""
    for name, value in observed.items():
        if not torch.equal(expected[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8)):
            raise SystemExit(f"{name} differs")


def versus(peer: Callable[[], object], ours: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Seconds of `peer` and of `ours`, round by round; of ours, which is so much shorter, the mean of five in a row."""
    ours()
    return [(seconds(peer), statistics.mean(seconds(ours) for _ in range(5))) for _ in range(rounds)]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def copying(tensors: Iterable[Tensor]) -> float:
    """Seconds that it takes to copy `tensors`, a lower bound of reading and writing as much."""
    sources = list(tensors)
    targets = [torch.empty_like(source) for source in sources]
    return min(
        seconds(lambda: [target.copy_(source) for source, target in zip(sources, targets, strict=True)])
        for _ in range(5)
    )


def say(name: str, pairs: list[tuple[float, float]], moved: Iterable[Tensor], *, least: float | None = None) -> None:
    """One line: median ratio, its range, milliseconds, rate, and the distance to mere copying."""
    ratios = sorted(peer / ours for peer, ours in pairs)
    median, best = statistics.median(ratios), min(ours for _, ours in pairs)
    *_, weight = sorted(moved, key=lambda tensor: tensor.nbytes)
    goal = "" if least is None else f"  goal >= {least:g}: {'met' if median >= least else 'MISSED'}"
    print(
        f"{name:20} {median:5.1f} x compressed-tensors ({ratios[0]:.1f} to {ratios[-1]:.1f})  "
        f"{best * 1e3:6.1f} ms  {weight.nbytes / best / 1e9:5.2f} GB/s of BF16  "
        f"{best / copying([weight]):4.1f} x copying it{goal}"
    )


if __name__ == "__main__":
    main()
