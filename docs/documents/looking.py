"""What the verbs that look at checkpoints print."""

from __future__ import annotations

from typing import Final, get_args

from documents.shared import FINDINGS, NAMES, NUMBERS, SCHEME_KEYS
from documents.words import count, digest, entries, flag, items, one_of, or_null, record, shared, text
from overlay.core.tracing import OriginKind
from overlay.running.proving import LEVELS

VERDICT: Final = {
    "target": text("What was checked, as it was named."),
    "level": one_of("How deep it was looked into.", LEVELS),
    "ok": flag("Whether there is no error; with --fix, whether none is left."),
    "mendable": flag("Whether a new index would put something right."),
    "shards": count("Shards that were looked at."),
    "tensors": count("Tensors in them."),
    "total_size": count("Bytes of tensor data."),
    "hashed_bytes": count("Bytes that were read and digested."),
    "derived": count("Shards of grafts that were made again from their donors and compared."),
    "proof": record(
        "What was proven of the bytes.",
        {
            "compared": count("Files whose digest was compared with an expected one."),
            "unproven": items("Files of which no digest is expected, or whose bytes were not read.", NAMES),
        },
    ),
    "findings": FINDINGS,
    "fix": record(
        "With --fix: the new index.",
        {
            "path": text("Where it lies."),
            "written": flag("False: the index that is there is the right one."),
            "anew": flag("Whether it was written from nothing."),
            "mapped": count("Tensors that were not mapped and are now."),
            "removed": count("Tensors that were mapped and lie in no listed shard."),
            "moved": count("Tensors that were mapped to another shard."),
            "metadata": entries(
                "Entry of the metadata to its change.",
                record(
                    "A change.",
                    {
                        "from": {"description": "What it said, of any type; null: nothing."},
                        "to": count("What it says: bytes for `total_size`, elements for `total_parameters`."),
                    },
                ),
            ),
            "tensors": count("Tensors that it maps."),
            "shards": count("Shards that it names."),
            "left": items("What would still be found with the new index.", shared("finding")),
        },
    ),
}

DESCRIPTION: Final = {
    "checkpoint": text("What was looked at, as it was named."),
    "architecture": or_null(text("The first of the config's `architectures`.")),
    "model_type": or_null(text("The config's `model_type`.")),
    "quant_method": or_null(text("The config's `quant_method`.")),
    "tensors": count("Tensors; those that the index names elsewhere are counted."),
    "total_size": count("Bytes of tensor data that are here."),
    "dtypes": entries(
        "Dtype to how much there is of it.",
        record("How much.", {"tensors": count("Tensors."), "bytes": count("Bytes of tensor data.")}),
    ),
    "layers": count("Layers that have tensors."),
    "layers_declared": or_null(count("Layers of the trunk, as the config says.")),
    "draft": record(
        "Draft layers.",
        {
            "declared": count("How many the config declares."),
            "key": text('The key that declares them; "" where none does.'),
            "present": items("Numbers of layers past the trunk that have tensors.", NUMBERS),
            "dialects": items(
                "Draft layers by how their tensors are named.",
                record(
                    "Draft layers under one dialect of names.",
                    {
                        "dialect": text("`model.layers.N`, `mtp.*` or the like."),
                        "layers": items("Their numbers; empty where names have none.", NUMBERS),
                        "tensors": count("Tensors."),
                        "bytes": count("Bytes of tensor data."),
                    },
                ),
            ),
        },
    ),
    "experts": record(
        "Experts.",
        {
            "declared": or_null(count("Routed experts of a layer, as the config says.")),
            "shared_declared": or_null(count("Shared experts of a layer, as the config says.")),
            "routed": items(
                "Layers that have the same routed experts.",
                record(
                    "Such layers.",
                    {
                        "stack": text("Path before the layers' numbers."),
                        "layers": items("Numbers of the layers.", NUMBERS),
                        "present": count("Experts of each."),
                        "numbers": text("Their numbers, as ranges."),
                    },
                ),
            ),
            "shared": items(
                "Layers that have shared experts.",
                record(
                    "Such layers.",
                    {
                        "stack": text("Path before the layers' numbers."),
                        "layers": items("Numbers of the layers.", NUMBERS),
                    },
                ),
            ),
        },
    ),
    "embeddings": record(
        "Embeddings.",
        {
            "tied": or_null(flag("The config's `tie_word_embeddings`.")),
            "output_layer": flag("Whether there is an output layer (`lm_head`) of its own."),
        },
    ),
    "quantization": record(
        "Quantisation.",
        {
            "declared": items(
                "What files say of it.",
                record(
                    "One declaration; null and empty where it is silent.",
                    {
                        "source": text("File, and key where there is one."),
                        "method": or_null(text("`quant_method`: the loader's name of it.")),
                        "algorithm": or_null(text("`quant_algo`; ModelOpt only.")),
                        "format": or_null(text("compressed-tensors: `format`; FP8: `fmt`.")),
                        "bits": items("Bits of a weight's element; several where groups differ.", NUMBERS),
                        "group_sizes": items("Elements that share a scale; several where groups differ.", NUMBERS),
                        "block": items("Rows and columns that share a scale; FP8 only.", NUMBERS),
                        "symmetric": or_null(flag("Whether there are no zero points.")),
                        "kv_cache": or_null(text("What the KV cache is quantised to.")),
                        "excluded_key": text('The key of `excluded`, or "".'),
                        "excluded": items("Names and patterns of modules that stay unquantised.", NAMES),
                    },
                ),
            ),
            "present": entries("Scheme that quantises to its number of modules.", NUMBERS),
            "kv_scales": count("Tensors that scale the KV cache."),
        },
    ),
    "schemes": items(
        "Modules by component and scheme.",
        record(
            "The modules of one component that store their weights alike.",
            {
                "stack": text('Path before the layers\' numbers, such as `model.layers`; "" outside any layer.'),
                "component": text("Part of the model, such as `mlp.experts`."),
                "layers": items("Numbers of the layers; empty outside any layer.", NUMBERS),
                **SCHEME_KEYS,
                "modules": count("Modules."),
                "tensors": count("Tensors."),
                "bytes": count("Bytes of tensor data."),
            },
        ),
    ),
    "shards": items(
        "Shards that are here.",
        record(
            "A shard.",
            {
                "name": text("Its name."),
                "tensors": count("Tensors in it."),
                "bytes": count("Bytes of tensor data."),
                "file_bytes": count("Bytes of the file."),
            },
        ),
    ),
    "elsewhere": items(
        "Shards that the index names and that are not here.",
        record("A shard.", {"name": text("Its name."), "tensors": count("Tensors that the index maps to it.")}),
    ),
    "sidecars": items("Files that hold no weights.", NAMES),
    "findings": FINDINGS,
}

MEANING: Final = {
    "code": text("The code."),
    "severity": shared("finding/properties/severity", "An error makes `verify` exit with 1."),
    "title": text("What it means, in a few words."),
    "hint": text("What to do about it."),
    "detail": text("What it means, in sentences."),
    "engines": entries("Engine, with the version that was looked at, to what it does then.", NAMES),
    "references": items("Where this is known from.", {"type": "string", "format": "uri"}),
}

TRACE: Final = {
    "tensor": text("Its name."),
    "checkpoint": text("The checkpoint, as it was named."),
    "shard": text("The shard that holds it."),
    "file": text("The real file behind that shard."),
    "begin": count("Where it begins: bytes from the start of the file."),
    "end": count("Where it ends: bytes from the start of the file."),
    "bytes": count("Bytes of the tensor."),
    "dtype": text("Stored as."),
    "shape": items("Extents.", NUMBERS),
    "sha256": digest("Of the tensor's bytes."),
    "also_in": items("Further listed shards that hold a tensor of this name.", NAMES),
    "module": record(
        "The module that it belongs to.",
        {
            "name": text("Its path."),
            **SCHEME_KEYS,
            "partners": items(
                "The module's other tensors.",
                record(
                    "A tensor.",
                    {
                        "name": text("Its name."),
                        "shard": text("The shard that holds it."),
                        "dtype": text("Stored as."),
                        "shape": items("Extents.", NUMBERS),
                    },
                ),
            ),
        },
    ),
    "origin": record(
        "Where it came from, as far as anything says so.",
        {
            "kind": one_of("`checkpoint`: overlay did not assemble this.", get_args(OriginKind)),
            "how": text('How the shard was placed; "" for a plain checkpoint.'),
            "link": text('The real file behind the shard\'s own link, or "".'),
            "commit": text('Of the Hub snapshot that holds the checkpoint, or "".'),
            "source": or_null(shared("held", "In the file that its shard links to, was copied or trimmed from.")),
            "donor": text('The donor\'s name in the manifest, or "".'),
            "reference": text('What the manifest calls the donor, and its commit, or "".'),
            "donated": or_null(shared("held", "In the donor's shard, as the lock says; null: computed, or not known.")),
            "steps": items("What was done to compute it, in order, with parameters.", NAMES),
            "inputs": items(
                "What it was computed from.",
                record(
                    "A stretch of a donor's shard.",
                    {
                        "shard": text("The donor's shard."),
                        "begin": count("Where it begins there: bytes from the start of the file."),
                        "end": count("Where it ends there: bytes from the start of the file."),
                    },
                ),
            ),
            "superseded": or_null(shared("held", "The base's tensor that it took the place of.")),
            "notes": items("What is not known, and how it can be.", NAMES),
        },
    ),
}
