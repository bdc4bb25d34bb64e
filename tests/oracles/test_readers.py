"""Readers of other houses see in our shards the bytes that went in: safetensors (Rust), mlx (C++), gguf (pure Python).

None of them shares a line with our header reader and shard writer.  mlx and torch do not know every dtype; each is asked
for those that it knows.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gguf.utility
import mlx.core
import numpy as np
import pytest
import safetensors
import torch

import overlay
from overlay.formats.dtypes import BITS
from overlay.storage.linking import LinkMode
from tests.oracles.checkpoints import INDEX, Pair, deserialize, shards_of, tensors_of


class Read(NamedTuple):
    """A tensor as a reader gives it."""

    shape: tuple[int, ...]
    data: bytes


class Tensor(NamedTuple):
    """A tensor as it was made."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def read(self) -> Read:
        return Read(self.shape, self.data)


Reader = Callable[[Path], dict[str, Read]]


def read_with_safetensors(path: Path) -> dict[str, Read]:
    return {n: Read(tuple(t["shape"]), bytes(t["data"])) for n, t in deserialize(path.read_bytes())}


def read_with_torch(path: Path) -> dict[str, Read]:
    with safetensors.safe_open(path, framework="pt") as shard:
        tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118  # not a mapping
    return {
        name: Read(logical_shape(t), t.reshape(-1).view(torch.uint8).numpy().tobytes()) for name, t in tensors.items()
    }


def logical_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """torch counts pairs where safetensors counts four-bit elements."""
    shape = tuple(tensor.shape)
    return (*shape[:-1], 2 * shape[-1]) if tensor.dtype == torch.float4_e2m1fn_x2 else shape


def read_with_numpy(path: Path) -> dict[str, Read]:
    with safetensors.safe_open(path, framework="np") as shard:
        arrays = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118  # not a mapping
    return {name: Read(array.shape, array.tobytes()) for name, array in arrays.items()}


def read_with_mlx(path: Path) -> dict[str, Read]:
    # By its own file type, because the names in a Hub cache bear no suffix.
    arrays: dict[str, Any] = mlx.core.load(str(path), format="safetensors")
    return {name: Read(tuple(array.shape), mlx_bytes(array)) for name, array in arrays.items()}


def mlx_bytes(array: Any) -> bytes:
    if array.size == 0:
        return b""
    flat = array.reshape(-1)
    return np.array(flat if array.dtype == mlx.core.bool_ else flat.view(mlx.core.uint8)).tobytes()


def read_with_gguf(path: Path) -> dict[str, Read]:
    tensors = gguf.utility.SafetensorsLocal(path).tensors
    return {name: Read(t.shape, t.mmap_bytes().tobytes() if t.data_range.size else b"") for name, t in tensors.items()}


READERS: dict[str, Reader] = {
    "safetensors": read_with_safetensors,
    "torch": read_with_torch,
    "numpy": read_with_numpy,
    "mlx": read_with_mlx,
    "gguf": read_with_gguf,
}
WHOLE_NUMBERS = {f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64)}
NO_TORCH = {"F6_E2M3", "F6_E3M2"}
KNOWN = {
    "safetensors": set(BITS),
    "torch": set(BITS) - NO_TORCH,
    "numpy": {*WHOLE_NUMBERS, "BOOL", "F16", "F32", "F64", "C64"},
    "mlx": {*WHOLE_NUMBERS, "BOOL", "F16", "BF16", "F32", "C64", "F8_E4M3", "F8_E8M0"},
    "gguf": set(BITS),
}
"""The dtypes that each reader knows; in mlx an eight-bit float is its byte."""

ALIGNED = 8
"""Elements that fill whole bytes in every dtype."""


def tensors_of_dtype(dtype: str) -> dict[str, Tensor]:
    """Shapes and names that readers stumble over, with random bytes."""
    shapes = {
        "matrix": (3, ALIGNED),
        "empty": (0,),
        "hollow": (2, 0, ALIGNED),
        "größe.重み.\N{ROCKET}": (ALIGNED,),
        'quoted "name" with \\ and spaces': (1, 1, ALIGNED),
    }
    if BITS[dtype] % 8 == 0:
        shapes |= {"scalar": (), "odd": (5,), "one": (1,)}
    return {f"{dtype}.{name}": Tensor(dtype, shape, random_bytes(dtype, shape)) for name, shape in shapes.items()}


def random_bytes(dtype: str, shape: tuple[int, ...]) -> bytes:
    count = int(np.prod(shape)) * BITS[dtype] // 8
    drawn = random.Random(f"{dtype} {shape}").randbytes(count)
    return bytes(byte & 1 for byte in drawn) if dtype == "BOOL" else drawn


def write_by_hand(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A shard as the format's page describes it; no library writes six-bit floats."""
    table: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        table[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t.data for t in tensors.values()))


def write_by_library(tensors: Mapping[str, Tensor]) -> bytes:
    """The shard that safetensors makes of `tensors`."""
    buffers = {name: np.frombuffer(tensor.data, np.uint8) for name, tensor in tensors.items()}
    specs = {
        name: safetensors.TensorSpec(
            dtype=str(TORCH_DTYPES[tensor.dtype]).removeprefix("torch."),
            # The library doubles the last extent of packed dtypes by itself.
            shape=[*tensor.shape[:-1], tensor.shape[-1] // 2] if tensor.dtype == "F4" else tensor.shape,
            data_ptr=buffers[name].ctypes.data,
            data_len=len(tensor.data),
        )
        for name, tensor in tensors.items()
    }
    return bytes(safetensors.serialize(specs, {"format": "pt"}))


TORCH_DTYPES = {
    "BOOL": torch.bool,
    "F4": torch.float4_e2m1fn_x2,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}


@dataclass(frozen=True)
class Built:
    """Shards that we built, and what went into them."""

    folder: Path
    by_dtype: dict[str, dict[str, Tensor]]

    def shard(self, dtype: str) -> Path:
        return self.folder / f"graft-{dtype}.safetensors"


@pytest.fixture(scope="session")
def donor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Tensor]]]:
    """A donor with tensors of every dtype, scattered over two shards so that no graft is a shard of it."""
    folder = tmp_path_factory.mktemp("every-dtype")
    by_dtype = {dtype: tensors_of_dtype(dtype) for dtype in BITS}
    names = [(dtype, name) for dtype, tensors in by_dtype.items() for name in tensors]
    weight_map = {}
    for number, shard in enumerate(("one.safetensors", "two.safetensors")):
        chosen = {name: by_dtype[dtype][name] for dtype, name in names[number::2]}
        write_by_hand(folder / shard, chosen)
        weight_map.update(dict.fromkeys(chosen, shard))
    size = sum(len(by_dtype[dtype][name].data) for dtype, name in names)
    write_index(folder, weight_map, size)
    return folder, by_dtype


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small-base")
    write_by_hand(folder / "base.safetensors", {"trunk": Tensor("U8", (8,), bytes(8))})
    write_index(folder, {"trunk": "base.safetensors"}, 8)
    return folder


@pytest.fixture(scope="session")
def built(
    donor: tuple[Path, dict[str, dict[str, Tensor]]], base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """One graft a dtype."""
    folder = tmp_path_factory.mktemp("built")
    path, by_dtype = donor
    grafts = {f"graft-{dtype}.safetensors": [f"{dtype}.**"] for dtype in by_dtype}
    return Built(assemble(folder, base, path, grafts), by_dtype)


def write_index(folder: Path, weight_map: Mapping[str, str], total_size: int) -> None:
    text = json.dumps({"metadata": {"total_size": total_size}, "weight_map": weight_map}, indent=2)
    (folder / INDEX).write_text(text + "\n")


def assemble(folder: Path, base: Path, donor: Path, grafts: Mapping[str, list[str]]) -> Path:
    """Apply a manifest with `grafts` (shard to patterns) to ``folder/serve``."""
    manifest = folder / "readers.yaml"
    document = {
        "overlay": 1,
        "name": "readers",
        "base": str(base),
        "donors": {"every": str(donor)},
        "grafts": [{"shard": shard, "from": "every", "tensors": patterns} for shard, patterns in grafts.items()],
    }
    manifest.write_text(json.dumps(document))  # JSON is YAML
    overlay.apply(overlay.Request(sources=(str(manifest),)), str(folder / "serve"))
    return folder / "serve"


class TestBuiltShards:
    @pytest.mark.parametrize(
        ("reader", "dtype"), [(reader, dtype) for reader, known in KNOWN.items() for dtype in BITS if dtype in known]
    )
    def test_a_reader_sees_the_bytes_that_went_in(self, built: Built, reader: str, dtype: str) -> None:
        expected = {name: tensor.read for name, tensor in built.by_dtype[dtype].items()}

        assert READERS[reader](built.shard(dtype)) == expected

    @pytest.mark.parametrize("reader", READERS)
    def test_a_reader_sees_all_its_dtypes_in_one_shard(
        self, built: Built, base: Path, donor: tuple[Path, Any], tmp_path: Path, reader: str
    ) -> None:
        patterns = [f"{dtype}.**" for dtype in BITS if dtype in KNOWN[reader]]
        shard = assemble(tmp_path, base, donor[0], {"graft.safetensors": patterns}) / "graft.safetensors"

        expected = {n: t.read for dtype in KNOWN[reader] for n, t in built.by_dtype[dtype].items()}
        assert READERS[reader](shard) == expected

    def test_is_to_the_byte_the_shard_that_the_library_writes(
        self, built: Built, base: Path, donor: tuple[Path, Any], tmp_path: Path
    ) -> None:
        patterns = [f"{dtype}.**" for dtype in TORCH_DTYPES]
        shard = assemble(tmp_path, base, donor[0], {"graft.safetensors": patterns}) / "graft.safetensors"

        tensors = {name: t for dtype in TORCH_DTYPES for name, t in built.by_dtype[dtype].items()}
        assert shard.read_bytes() == write_by_library(tensors)

    def test_says_in_its_metadata_the_format_that_loaders_ask_for(self, built: Built) -> None:
        with safetensors.safe_open(built.shard("BF16"), framework="pt") as shard:
            assert shard.metadata() == {"format": "pt"}

    def test_the_library_writes_all_dtypes_that_torch_has(self) -> None:
        assert TORCH_DTYPES.keys() == BITS.keys() - NO_TORCH

    def test_is_readable_for_all(self, built: Built) -> None:
        assert {path.stat().st_mode & 0o777 for path in built.folder.glob("graft-*")} == {0o644}


class TestLinkModes:
    @pytest.fixture(scope="class", params=get_args(LinkMode))
    @staticmethod
    def served(
        request: pytest.FixtureRequest, glm4_moe: Pair, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[LinkMode, Path]:
        """The pair, with the base's shards placed in one of the modes."""
        folder = tmp_path_factory.mktemp(f"link-{request.param}")
        source = str(glm4_moe.write_manifest(folder))
        try:
            overlay.apply(overlay.Request(sources=(source,)), str(folder / "serve"), link=request.param)
        except overlay.EnvironmentFault as fault:
            if request.param != "reflink":
                raise
            pytest.skip(fault.line)
        return request.param, folder / "serve"

    @pytest.mark.parametrize("reader", ["safetensors", "torch", "mlx", "gguf"])
    def test_a_reader_sees_base_and_graft_in_every_mode(
        self, served: tuple[LinkMode, Path], glm4_moe: Pair, reader: str
    ) -> None:
        expected = {n: (b.shape, b.sha256) for n, b in (tensors_of(glm4_moe.base) | glm4_moe.draft).items()}

        found: dict[str, tuple[tuple[int, ...], str]] = {}
        for shard in shards_of(served[1]):
            read = READERS[reader](served[1] / shard)
            found.update({name: (t.shape, hashlib.sha256(t.data).hexdigest()) for name, t in read.items()})
        assert found == expected

    def test_shards_of_the_base_are_placed_as_asked(self, served: tuple[LinkMode, Path], glm4_moe: Pair) -> None:
        mode, folder = served
        shards = shards_of(glm4_moe.base)
        links = {(folder / shard).is_symlink() for shard in shards}
        shared = {(folder / shard).samefile(glm4_moe.base / shard) for shard in shards}

        expected = {
            "symlink": (True, True),
            "hardlink": (False, True),
            "copy": (False, False),
            "reflink": (False, False),
        }
        if mode == "auto":  # the file system decides between two
            assert (links, shared) in [({True}, {True}), ({False}, {False})]
        else:
            link, same = expected[mode]
            assert (links, shared) == ({link}, {same})

    def test_verify_finds_nothing(self, served: tuple[LinkMode, Path]) -> None:
        assert overlay.verify(str(served[1]), level="content").findings == ()
