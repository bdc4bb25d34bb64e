"""What building a graft costs: extraction, conversion on one thread and on two, and the peak memory of a large build.

    python benchmarks/converting.py [--rounds N] [--work FOLDER] [--large-gb N]

Every round measures both sides one after the other, and the median of the ratios is what counts.  Peak memory is what the
kernel says of a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from run import clock, say, say_peak
from transforms import bench_int4, bench_nvfp4

from overlay.core.checkpoint import Shard, TensorSource
from overlay.core.diffing import source_of
from overlay.core.grafting import BUILT_METADATA
from overlay.core.recipes.recipe import Recipe, plan_recipe
from overlay.formats.dtypes import count_bytes
from overlay.formats.header_text import layout_order, render_header
from overlay.formats.steps import Dequantize, DequantizeStep, QuantizePacked, QuantizeStep
from overlay.running.converting import MIB, Conversion, convert
from overlay.storage.local import file_at
from overlay.storage.seen import read_header
from overlay.storage.shard_file import Donors, new_shard

MAX_BUILD_PEAK_MB = 600
EXTRACTED_TENSORS = 78
INT4 = QuantizeStep(quantize=QuantizePacked(format="pack-quantized", bits=4, group_size=32, symmetric=False))
DECODE = DequantizeStep(dequantize=Dequantize(format="modelopt-nvfp4"))

BUILD = """
import sys
from overlay.core.checkpoint import Shard
from overlay.core.diffing import source_of
from overlay.core.grafting import BUILT_METADATA
from overlay.core.recipes.recipe import plan_recipe
from overlay.formats.header_text import render_header
from overlay.formats.steps import QuantizePacked, QuantizeStep
from overlay.running.converting import convert
from overlay.storage.local import file_at
from overlay.storage.seen import read_header

donor, path = sys.argv[1:]
file = file_at(donor, "donor.safetensors")
shard = Shard(file, read_header(file))
step = QuantizeStep(quantize=QuantizePacked(format="pack-quantized", bits=4, group_size=32, symmetric=False))
recipe = plan_recipe([source_of(shard, name) for name in shard.header.names], [step])
convert(render_header(recipe.tensors, BUILT_METADATA), recipe, path)
print(int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024)
"""
"""What a large build is, in a process without the peers' libraries; prints its peak memory in bytes."""

Entry = tuple[str, str, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, help="where to put the files; a temporary folder by default")
    parser.add_argument("--dense-gb", type=float, default=1.8, help="size of what is extracted")
    parser.add_argument("--large-gb", type=float, default=20, help="size of the sparse donor of the large build")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        bench_extraction(work, options.dense_gb, options.rounds)
        torch.set_num_threads(1)
        weight = (torch.randn(2048, 6144, generator=torch.Generator().manual_seed(0)) * 0.05).bfloat16()
        bench_nvfp4(weight, options.rounds)
        bench_int4(weight, options.rounds)
        bench_second_worker(work, options.rounds)
        bench_memory(work, options.large_gb)


def bench_extraction(work: Path, gigabytes: float, rounds: int) -> None:
    """Renamed tensors out of a dense shard: the same bytes through copy_file_range, and through sha256."""
    rows = int(gigabytes * 1e9 / EXTRACTED_TENSORS / 8192)
    sources = dense_donor(
        work / "dense.safetensors", [(f"t.{n:02}", "BF16", (rows, 4096)) for n in range(EXTRACTED_TENSORS)]
    )
    recipe = plan_recipe(sources, [])
    header = render_header(recipe.tensors, BUILT_METADATA)
    copied, made = work / "copied", work / "made.safetensors"
    plain, hashed = [], []
    for _ in range(rounds):
        os.sync()
        copying = clock(lambda: copy_alone(sources[0].file.location, copied))
        copied.unlink()
        os.sync()
        plain.append(clock(lambda: extract_alone(header, recipe, made)) / copying)
        made.unlink()
        os.sync()
        hashing = clock(lambda: sha256_of_file(sources[0].file.location))
        hashed.append(hashing / clock(lambda: convert(header, recipe, str(made))))
        made.unlink()
    say("extraction without hashing / copy_file_range of the same bytes, both with fsync", plain, limit=1.2)
    say("extraction with digests and fsync, rate / one pass of sha256 over the same bytes", hashed, floor=0.85)
    os.unlink(sources[0].file.location)


def extract_alone(header: bytes, recipe: Recipe, path: Path) -> None:
    """What a conversion does with what is copied, and nothing else."""
    with Donors() as donors, new_shard(str(path), header, len(header) + recipe.nbytes) as file:
        at = len(header)
        for source in recipe.copies:
            file.copy_at(at, source, donors, lambda count: None)
            at += source.end - source.begin


def copy_alone(source: str, path: Path) -> None:
    """The bytes of a whole file through the kernel, and on the disk."""
    reading, writing = os.open(source, os.O_RDONLY), os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    size = os.fstat(reading).st_size
    while size > 0:
        size -= os.copy_file_range(reading, writing, size)
    os.fsync(writing)
    os.close(reading)
    os.close(writing)


def sha256_of_file(path: str) -> None:
    sha, buffer = hashlib.sha256(), bytearray(MIB)
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            sha.update(memoryview(buffer)[:count])


def bench_second_worker(work: Path, rounds: int) -> None:
    """NVFP4 to INT4 of 24 matrices [2048, 6144], digested."""
    entries: list[Entry] = []
    for number in range(24):
        path = f"m.{number:02}.up_proj"
        entries += [(f"{path}.weight", "U8", (2048, 3072)), (f"{path}.weight_scale", "F8_E4M3", (2048, 384))]
        entries += [(f"{path}.weight_scale_2", "F32", ())]
    recipe = plan_recipe(dense_donor(work / "nvfp4.safetensors", entries), [DECODE, INT4])
    header = render_header(recipe.tensors, BUILT_METADATA)
    for what, losses in (("losses measured", True), ("without measuring", False)):
        ratios, taken = [], []
        for _ in range(rounds):
            one, two = (clock(partial(convert, header, recipe, None, how)) for how in hows(losses))
            taken.append(two)
            ratios.append(one / two)
        say(f"NVFP4 -> INT4, {what}: one worker / two", ratios)
        print(f"  with two: {min(taken) / 24 * 1e3:.0f} ms for a matrix of 2048 x 6144", flush=True)
    (work / "nvfp4.safetensors").unlink()


def hows(losses: bool) -> list[Conversion]:
    return [Conversion(jobs=jobs, losses=losses) for jobs in (1, 2)]


def bench_memory(work: Path, gigabytes: float) -> None:
    """Layer 78 of GLM-5.2 in BF16, sparse, to INT4, in a process of its own."""
    entries = layer(max(1, round(gigabytes * 1e9 / 19_905_841_664 * 256)))
    donor, path = work / "layer.safetensors", work / "draft.safetensors"
    header = render_header(entries, BUILT_METADATA)
    donor.write_bytes(header)
    os.truncate(donor, len(header) + sum(2 * shape[0] * shape[1] for _, _, shape in entries))
    child = [sys.executable, "-c", BUILD, donor, path]
    peaks: list[int] = []
    taken = clock(lambda: peaks.append(int(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)))
    say_peak(f"BF16 -> INT4 of {donor.stat().st_size / 1e9:.1f} GB in {taken:.0f} s", peaks[0], MAX_BUILD_PEAK_MB)


def layer(experts: int) -> list[Entry]:
    """The matrices of layer 78 with so many experts."""
    hidden, inter, rank = 6144, 2048, 2048
    shapes = {
        "eh_proj": (hidden, 2 * hidden),
        "self_attn.q_a_proj": (rank, hidden),
        "self_attn.q_b_proj": (16384, rank),
        "self_attn.kv_a_proj_with_mqa": (576, hidden),
        "self_attn.kv_b_proj": (28672, 512),
        "self_attn.o_proj": (hidden, 16384),
    }
    for expert in ["shared_experts", *(f"experts.{number}" for number in range(experts))]:
        shapes |= {f"mlp.{expert}.{part}_proj": (inter, hidden) for part in ("gate", "up")}
        shapes[f"mlp.{expert}.down_proj"] = hidden, inter
    names = sorted(shapes)
    return [(f"model.layers.78.{name}.weight", "BF16", shapes[name]) for name in names]


def dense_donor(path: Path, entries: Sequence[Entry]) -> list[TensorSource]:
    """A shard of random bytes that are finite in every dtype, read once so that it is cached."""
    entries = sorted(entries, key=lambda entry: layout_order(entry[0], entry[1]))
    header = render_header(entries, BUILT_METADATA)
    block = bytes(byte & 0x3F for byte in os.urandom(MIB))
    size = sum(count_bytes(dtype, shape) for _, dtype, shape in entries)
    with path.open("wb") as stream:
        stream.write(header)
        for at in range(0, size, MIB):
            stream.write(block[: min(MIB, size - at)])
    sha256_of_file(str(path))
    return sources_of(path)


def sources_of(path: Path) -> list[TensorSource]:
    """Every tensor of a shard."""
    file = file_at(str(path), path.name)
    shard = Shard(file, read_header(file))
    return [source_of(shard, name) for name in shard.header.names]


if __name__ == "__main__":
    main()
