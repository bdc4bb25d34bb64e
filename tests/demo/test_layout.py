"""The layouts reproduce every figure that is published; the reference library opens the replicas."""

from __future__ import annotations

import json
import re
import runpy
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from overlay.demo.layout import (
    FULL_SIZE,
    SCALED_DOWN,
    Geometry,
    Layout,
    TensorSpec,
    base_layout,
    base_tensors,
    donor_layout,
    mtp_tensors,
    split_into_shards,
)
from overlay.demo.replica import Written, name_stamp, write_dense, write_sparse
from overlay.formats.header import parse_header
from overlay.formats.header_text import layout_order, render_header
from overlay.formats.index import Index, parse_index
from overlay.formats.names import INDEX_NAME

DONOR_LAYER_78 = [f"model-{number:05d}-of-00282.safetensors" for number in range(270, 275)]


def shard_bytes(layout: Layout, name: str) -> int:
    tensors = layout.files[name]
    return len(render_header(tensors, layout.metadata)) + sum(tensor.nbytes for tensor in tensors)


def shards_with(layout: Layout, prefix: str) -> list[str]:
    return [name for name, tensors in layout.files.items() if any(t.name.startswith(prefix) for t in tensors)]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def donor() -> Layout:
    return donor_layout()


@pytest.fixture(scope="module")
def base() -> Layout:
    return base_layout()


@pytest.fixture(scope="module")
def base_index(base: Layout) -> Index:
    return parse_index(base.index)


@pytest.fixture(scope="module")
def layer_78() -> list[TensorSpec]:
    return list(mtp_tensors(FULL_SIZE))


class TestFullSizeDonor:
    def test_has_the_published_tensors_shards_and_total_size(self, donor: Layout) -> None:
        figures = (sum(1 for _ in donor.tensors()), len(donor.files), donor.total_size)

        assert figures == (59_585, 282, 1_506_659_919_872)

    def test_index_is_the_published_one(self, donor: Layout) -> None:
        assert len(donor.index) == 5_408_032
        assert sha256(donor.index).hexdigest() == "5fd47a926aefce0f2c917f42523e5e0f3c87e23e389e767c3681536a62f5cf5e"

    def test_config_is_the_published_one(self, donor: Layout) -> None:
        config = donor.sidecars["config.json"]

        assert len(config) == 3732
        assert sha256(config).hexdigest() == "185f93ee6d12548e16a847e279dc0c3c90b1524c970b0866b42fb545747d859a"

    def test_headers_sum_to_the_published_size(self, donor: Layout) -> None:
        assert sum(len(render_header(tensors)) for tensors in donor.files.values()) == 7_467_536

    def test_shards_have_the_published_sizes(self, donor: Layout) -> None:
        sizes = {name: shard_bytes(donor, name) for name in donor.files}

        assert sum(sizes.values()) == 1_506_667_387_408
        assert (min(sizes.values()), max(sizes.values())) == (293_618_224, 5_368_361_544)
        assert [sizes[name] for name in DONOR_LAYER_78] == [
            5_366_430_968,
            5_360_347_304,
            5_360_347_320,
            5_360_347_208,
            5_359_997_688,
        ]

    def test_layer_78_lies_in_shards_270_to_274(self, donor: Layout) -> None:
        counts = [
            sum(tensor.name.startswith(FULL_SIZE.mtp_prefix) for tensor in donor.files[name]) for name in DONOR_LAYER_78
        ]

        assert shards_with(donor, FULL_SIZE.mtp_prefix) == DONOR_LAYER_78
        assert counts == [4, 213, 213, 213, 148]

    def test_layer_78_has_the_published_tensors_and_bytes(self, layer_78: list[TensorSpec]) -> None:
        assert len(layer_78) == 791
        assert sum(tensor.nbytes for tensor in layer_78) == 19_905_841_664
        assert Counter(tensor.dtype for tensor in layer_78) == {"BF16": 790, "F32": 1}

    def test_one_layer_in_four_has_an_indexer(self, donor: Layout) -> None:
        types = json.loads(donor.sidecars["config.json"])["indexer_types"]

        assert Counter(types) == {"full": 21, "shared": 57}
        assert [layer for layer, kind in enumerate(types) if kind == "full"] == [0, 1, *range(2, 78, 4)]


class TestFullSizeBase:
    def test_has_the_published_shards_and_total_size(self, base: Layout, base_index: Index) -> None:
        assert (len(base.files), base.total_size, base_index.total_size) == (45, 439_842_893_136, 439_842_893_136)

    def test_has_the_tensors_that_this_total_size_needs(self, base: Layout, base_index: Index) -> None:
        dtypes = Counter(tensor.dtype for tensor in base.tensors())

        assert dtypes == {"U8": 57_834, "F8_E4M3": 57_834, "F32": 115_743, "BF16": 885}
        assert len(base_index.weight_map) == dtypes.total() == 232_296

    def test_grows_by_layer_78_to_the_published_total_size_of_the_graft(
        self, base: Layout, layer_78: list[TensorSpec]
    ) -> None:
        assert base.total_size + sum(tensor.nbytes for tensor in layer_78) == 459_748_734_800

    def test_index_is_in_the_style_of_transformers(self, base: Layout, base_index: Index) -> None:
        assert base_index.metadata == {"total_parameters": 379_233_818_880, "total_size": 439_842_893_136}
        assert list(base_index.weight_map) == sorted(base_index.weight_map)
        assert (len(base.index), base.index[-2:]) == (22_192_859, b"}\n")

    def test_has_no_layer_78(self, base: Layout) -> None:
        assert shards_with(base, FULL_SIZE.mtp_prefix) == []

    def test_both_quantization_statements_spare_the_same_modules(self, base: Layout) -> None:
        inline = json.loads(base.sidecars["config.json"])["quantization_config"]["ignore"]
        separate = json.loads(base.sidecars["hf_quant_config.json"])["quantization"]["exclude_modules"]

        assert inline == separate
        assert (len(inline), inline[0], inline[-1]) == (79, "lm_head", "model.layers.9.self_attn*")


class TestRules:
    def test_a_shard_is_closed_before_it_would_overflow(self) -> None:
        tensors = [
            TensorSpec(name, "U8", (size,)) for name, size in (("a", 4), ("b", 6), ("c", 1), ("d", 99), ("e", 1))
        ]

        shards = split_into_shards(tensors, 10)

        assert [[tensor.name for tensor in shard] for shard in shards] == [["a", "b"], ["c"], ["d"], ["e"]]

    @pytest.mark.parametrize("make", [donor_layout, base_layout])
    def test_tensors_of_a_shard_are_in_the_order_of_the_library(self, make: Callable[[Geometry], Layout]) -> None:
        for tensors in make(SCALED_DOWN).files.values():
            assert tensors == sorted(tensors, key=lambda tensor: layout_order(tensor.name, tensor.dtype))

    def test_nvfp4_refuses_a_width_that_groups_do_not_divide(self) -> None:
        with pytest.raises(ValueError, match="divisible by 16, found 40"):
            list(base_tensors(Geometry(hidden=40, layers=1)))

    def test_the_scaled_down_pair_has_the_names_of_the_real_trunk(self) -> None:
        assert {re.sub(r"experts\.\d+", "experts.0", tensor.name) for tensor in base_tensors(SCALED_DOWN)} == {
            re.sub(r"experts\.\d+", "experts.0", tensor.name) for tensor in base_tensors(FULL_SIZE)
        }


@dataclass(frozen=True, slots=True)
class Replica:
    """A scaled-down checkpoint on disk and what it was written from."""

    layout: Layout
    folder: Path
    written: Written


def write_replica(layout: Layout, folder: Path) -> Replica:
    return Replica(layout, folder, write_dense(layout, folder, seed=1))


@pytest.fixture(scope="module")
def small_donor(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    return write_replica(donor_layout(SCALED_DOWN), tmp_path_factory.mktemp("replica") / "donor")


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    return write_replica(base_layout(SCALED_DOWN), tmp_path_factory.mktemp("replica") / "base")


@pytest.fixture(params=["small_donor", "small_base"])
def replica(request: pytest.FixtureRequest) -> Replica:
    found: Replica = request.getfixturevalue(request.param)
    return found


class TestDenseReplica:
    def test_every_tensor_opens_in_the_reference_library_and_is_finite(self, replica: Replica) -> None:
        for name, tensors in replica.layout.files.items():
            with safe_open(replica.folder / name, framework="pt") as shard:
                found = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118  # not a mapping
                assert shard.metadata() == replica.layout.metadata
            assert {key: tuple(value.shape) for key, value in found.items()} == {t.name: t.shape for t in tensors}
            assert all(torch.isfinite(value.float()).all() for value in found.values())

    def test_every_header_is_strictly_valid(self, replica: Replica) -> None:
        for name, tensors in replica.layout.files.items():
            raw = (replica.folder / name).read_bytes()
            header = parse_header(raw, len(raw))
            assert (header.names, header.quirks) == ([tensor.name for tensor in tensors], ())

    def test_index_names_the_shards_and_tensors_that_are_there(self, replica: Replica) -> None:
        index = parse_index((replica.folder / INDEX_NAME).read_bytes())

        assert index.weight_map == {t.name: file for file, tensors in replica.layout.files.items() for t in tensors}
        assert {path.name for path in replica.folder.glob("*.safetensors")} == set(index.shards())
        assert index.total_size == replica.layout.total_size

    def test_two_writes_give_equal_bytes(self, replica: Replica, tmp_path: Path) -> None:
        again = write_dense(replica.layout, tmp_path / "again", seed=1)

        assert again == replica.written
        assert contents(tmp_path / "again") == contents(replica.folder)

    def test_another_seed_gives_other_data_under_the_same_headers(self, replica: Replica, tmp_path: Path) -> None:
        assert write_dense(replica.layout, tmp_path / "other", seed=2) == replica.written

        for name, tensors in replica.layout.files.items():
            old, new = (replica.folder / name).read_bytes(), (tmp_path / "other" / name).read_bytes()
            start = len(render_header(tensors, replica.layout.metadata))
            assert old[:start] == new[:start]
            assert old[start:] != new[start:]

    def test_reports_what_lies_on_the_disk(self, replica: Replica) -> None:
        assert replica.written == Written(
            shards=len(replica.layout.files),
            tensors=sum(1 for _ in replica.layout.tensors()),
            data_bytes=replica.layout.total_size,
            file_bytes=folder_bytes(replica.folder),
        )

    def test_is_small(self, replica: Replica) -> None:
        assert folder_bytes(replica.folder) < 12_000_000

    def test_files_are_readable_for_all_and_writable_for_the_owner(self, replica: Replica) -> None:
        assert {stat.S_IMODE(path.stat().st_mode) for path in replica.folder.iterdir()} == {0o644}

    def test_refuses_to_overwrite(self, replica: Replica) -> None:
        before = contents(replica.folder)

        with pytest.raises(FileExistsError):
            write_dense(replica.layout, replica.folder, seed=2)

        assert contents(replica.folder) == before

    def test_has_the_small_files_of_a_repository(self, replica: Replica) -> None:
        names = {path.name for path in replica.folder.iterdir() if path.suffix != ".safetensors"}

        assert names - {"hf_quant_config.json"} == {
            INDEX_NAME,
            "LICENSE",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }

    def test_tokenizer_gives_every_text_back(self, replica: Replica) -> None:
        tokenizer = Tokenizer.from_file(str(replica.folder / "tokenizer.json"))
        text = "Grüße,\n\t1 + 1 = 2 \N{WHITE SMILING FACE}"

        ids = tokenizer.encode(text).ids

        assert bytes(ids) == text.encode()
        assert tokenizer.decode(ids) == text

    def test_end_tokens_of_the_config_are_those_of_the_tokenizer(self, replica: Replica) -> None:
        config = json.loads((replica.folder / "config.json").read_bytes())
        tokenizer = Tokenizer.from_file(str(replica.folder / "tokenizer.json"))

        assert [tokenizer.id_to_token(number) for number in config["eos_token_id"]] == [
            "<|endoftext|>",
            "<|user|>",
            "<|observation|>",
        ]
        assert tokenizer.get_vocab_size() <= config["vocab_size"]


class TestScaledDownPair:
    def test_has_as_many_shards_as_the_published_pair(self, small_donor: Replica, small_base: Replica) -> None:
        assert (small_donor.written.shards, small_base.written.shards) == (282, 45)

    def test_layer_78_lies_in_five_donor_shards_and_nowhere_in_the_base(
        self, small_donor: Replica, small_base: Replica
    ) -> None:
        assert len(shards_with(small_donor.layout, "model.layers.78.")) == 5
        assert shards_with(small_base.layout, "model.layers.78.") == []

    def test_tensors_that_both_hold_in_bf16_are_equal(self, small_donor: Replica, small_base: Replica) -> None:
        name = "model.layers.6.self_attn.indexer.wq_b.weight"
        found = []
        for replica in (small_donor, small_base):
            [file] = shards_with(replica.layout, name)
            with safe_open(replica.folder / file, framework="pt") as shard:
                found.append(shard.get_tensor(name))

        assert torch.equal(*found)


class TestSparseReplica:
    def test_has_the_sizes_and_headers_of_the_dense_one(self, small_donor: Replica, tmp_path: Path) -> None:
        written = write_sparse(small_donor.layout, tmp_path / "sparse")

        assert written == small_donor.written
        for name, tensors in small_donor.layout.files.items():
            raw = (tmp_path / "sparse" / name).read_bytes()
            header = render_header(tensors)
            assert raw == header + bytes(sum(tensor.nbytes for tensor in tensors))

    def test_stamps_only_what_is_asked_for(self, small_donor: Replica, tmp_path: Path) -> None:
        write_sparse(small_donor.layout, tmp_path / "sparse", stamp=True, stamp_prefix="model.layers.78.")

        for name, tensors in small_donor.layout.files.items():
            raw = (tmp_path / "sparse" / name).read_bytes()
            header = parse_header(raw, len(raw))
            for tensor in tensors:
                begin = header.data_start + header[tensor.name].begin
                data = raw[begin : begin + tensor.nbytes]
                stamp = name_stamp(tensor.name) if tensor.name.startswith("model.layers.78.") else b""
                assert data == stamp[: tensor.nbytes].ljust(tensor.nbytes, b"\0")

    def test_cuts_a_stamp_to_the_tensor(self, small_base: Replica, tmp_path: Path) -> None:
        assert write_sparse(small_base.layout, tmp_path / "sparse", stamp=True) == small_base.written
        assert folder_bytes(tmp_path / "sparse") == folder_bytes(small_base.folder)

    def test_the_benchmark_writes_the_full_size_pair(self, donor: Layout, base: Layout, tmp_path: Path) -> None:
        script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "full_size.py"))

        script["write_full_size"](tmp_path)

        for layout, folder in ((base, tmp_path / "base"), (donor, tmp_path / "donor")):
            assert {name: (folder / name).stat().st_size for name in layout.files} == {
                name: shard_bytes(layout, name) for name in layout.files
            }
            assert (folder / INDEX_NAME).read_bytes() == layout.index
        assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*")) < 200_000_000
