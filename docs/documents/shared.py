"""What several documents have in common."""

from __future__ import annotations

from typing import Final, get_args

from documents.words import (
    Schema,
    count,
    digest,
    entries,
    flag,
    items,
    one_of,
    or_null,
    record,
    shared,
    text,
)
from overlay.core.codes import Severity
from overlay.core.diffing import Change
from overlay.core.judging import Standing
from overlay.core.sidecar_roles import Role
from overlay.core.tallying import Amount
from overlay.formats.lock import LockLevel
from overlay.formats.receipt import How, Origin, Proof

AMOUNT_KEYS: Final = {
    "tensors": count("Tensors."),
    "parameters": count("Elements; packed dtypes count their containers."),
    "bytes": count("Bytes of tensor data; headers are not counted."),
}
assert AMOUNT_KEYS.keys() == set(Amount._fields)

SCHEME_KEYS: Final = {
    "scheme": text("The scheme in a few words, such as `pack-quantized int4 g32 asym`."),
    "kind": text("`dense`, `norm`, `kv-scales`, `unknown`, or the name that a format's own library gives it."),
    "dtype": or_null(text("Of the largest tensor; dense modules and norms only.")),
    "bits": or_null(count("Bits of a weight's element; null where shapes leave it open, or nothing is quantised.")),
    "group_size": or_null(count("Elements that share a scale; null for one scale a row or tensor.")),
    "block": or_null(items("Rows and columns that share a scale.", {"type": "integer", "minimum": 1})),
    "symmetric": or_null(flag("False where zero points are stored; null where the scheme knows none.")),
    "static_inputs": flag("Whether a scale of the inputs is stored: activations are quantised with it."),
}

NUMBERS: Final = {"type": "integer", "minimum": 0}
_SHAPE: Final = items("Extents.", NUMBERS)
NAMES: Final = {"type": "string"}
FINDINGS: Final = items("Everything that is wrong.", shared("finding"))

FINDING: Final = record(
    "One thing wrong with data.",
    {
        "code": {**text("Stable code; docs/findings.md explains it."), "pattern": "^[A-Z]{3}[0-9]{3}$"},
        "severity": one_of("An error makes `verify` exit with 1.", [severity.value for severity in Severity]),
        "subject": text("File, and tensor or key where there is one."),
        "message": text("What was expected and what was found."),
        "hint": text("What to do about it."),
        "file": text("The file."),
        "tensor": text('The tensor or key in it; "" where there is none.'),
        "engines": entries("Engine, with the version that was looked at, to what it does then.", {"type": "string"}),
    },
)

SIDECAR_CHANGE: Final = record(
    "How a sidecar changed.",
    {
        "name": text("The file."),
        "kind": one_of("What happened to it.", ["added", "removed", "changed"]),
        "role": one_of("What loaders and people use it for.", [role.value for role in Role]),
        "summary": text("One line."),
        "details": items(
            "At most 50 differences.",
            record(
                "One difference.",
                {
                    "where": text(
                        "JSON pointer, key of a card's front matter, `line 12`, `byte 12`, or a part's name."
                    ),
                    "old": or_null(text("What was there, shortened; null: nothing.")),
                    "new": or_null(text("What is there now, shortened; null: nothing.")),
                },
            ),
        ),
        "omitted": count("Differences that are not in `details`."),
        "same_values": flag("Whether a JSON file holds the values it held before, set out in another way."),
    },
)

CLAIM: Final = record(
    "A statement about the checkpoint, and what became of it.",
    {
        "text": text("The words that say it."),
        "source": text("The file that says it, `--claim`, or `audit` for the one that every audit answers."),
        "standing": one_of("Whether it is true.", [standing.value for standing in Standing]),
        "reason": text("What was counted or compared, or why nobody could."),
    },
)

ROW: Final = record(
    "Changed tensors of one kind and place.",
    {
        "change": one_of("How they changed.", [change.value for change in Change]),
        "where": text("Where they are: a pattern of names, such as `model.layers.{3-77}.mlp.experts.**`."),
        **AMOUNT_KEYS,
        "old_dtypes": items("What they were stored as; empty for what was added.", NAMES),
        "new_dtypes": items("What they are stored as; empty for what was removed.", NAMES),
    },
)

TENSOR_CHANGE: Final = record(
    "One tensor that changed.",
    {
        "change": one_of("How it changed.", [change.value for change in Change]),
        "name": text("Its name; of a removed tensor, the one that it had."),
        "old": text('The shard that held it; "" for what was added.'),
        "new": text('The shard that holds it; "" for what was removed.'),
        "was": text("The name that it had; another one only where it was renamed."),
    },
)

HELD: Final = record(
    "A tensor as a file holds it.",
    {
        "file": text("The file: a path, or a shard's name in the donor."),
        "begin": count("Where it begins: bytes from the start of the file."),
        "end": count("Where it ends: bytes from the start of the file."),
        "dtype": text("Stored as."),
        "shape": _SHAPE,
    },
)

RECEIPT: Final = record(
    "What was done to make a target; docs/lock.md describes it.",
    {
        "overlay_receipt": {"const": 1, "description": "Version of the receipt's format."},
        "name": text("The manifest's name."),
        "manifest_sha256": digest("Of the meaning of the manifest, or of a stack."),
        "lock_sha256": or_null(digest("Of the lock's text; null: nothing was pinned.")),
        "state": digest("Of the plan that was carried out."),
        "generation": count("Number of the tree, from 1.", least=1),
        "replaced": count("The generation that it took the place of; 0 for the first."),
        "tensors": count("Tensors of the target."),
        "total_size": count("Bytes of tensor data."),
        "files": entries(
            "File of the target to how it was placed.",
            record(
                "How a file was placed.",
                {
                    "how": one_of("How it came to be.", get_args(How)),
                    "origin": one_of("What it is.", get_args(Origin)),
                    "source": or_null(text("The real file that it links to or was copied from.")),
                    "size": count("Bytes of the file."),
                    "sha256": or_null(digest("Of the file, where known.")),
                    "header_sha256": or_null(digest("Of length and header; shards only.")),
                    "recipe": or_null(digest("Built and trimmed shards: of what it was made from.")),
                    "proof": one_of("Whether `sha256` was compared with bytes on this machine.", get_args(Proof)),
                },
            ),
        ),
    },
)

LOCKED_FILE: Final = record(
    "A file as a lock pins it.",
    {
        "size": count("Bytes of the file."),
        "sha256": or_null(digest("Of the file; null where only the header was pinned.")),
        "header_sha256": or_null(digest("Of length and header; shards only.")),
    },
)

LOCKED_SOURCE: Final = record(
    "A base or donor as a lock pins it.",
    {
        "reference": text("As it stands in the manifest."),
        "commit": or_null(text("The 40-hex commit that a branch or tag of a Hub reference meant.")),
        "files": entries("Those of its files that are used.", shared("locked_file")),
    },
)

_LOCKED_KEYS: Final = {
    "dtype": text("Stored as."),
    "shape": _SHAPE,
    "xxh3_128": or_null(digest("Of the tensor's bytes; null where they were not read or computed.", digits=32)),
}
_RANGE_KEYS: Final = {
    "file": text("The donor's shard."),
    "begin": count("Where it begins there: bytes from the start of the file."),
    "end": count("Where it ends there: bytes from the start of the file."),
}
_COPIED: Final = record("A tensor whose bytes are the donor's.", {**_LOCKED_KEYS, **_RANGE_KEYS})
_COMPUTED: Final = record(
    "A tensor that is computed.",
    {
        **_LOCKED_KEYS,
        "steps": items("What is done, in order, with parameters.", NAMES),
        "inputs": items(
            "What it is made from.",
            record(
                "A stretch of a donor's shard.",
                {**_RANGE_KEYS, "xxh3_128": or_null(digest("Of its bytes; null where they were not read.", digits=32))},
            ),
        ),
    },
)

LOCK: Final = record(
    "What a manifest meant when it was locked; docs/lock.md describes it.",
    {
        "overlay_lock": {"const": 1, "description": "Version of the lock's format."},
        "manifest_sha256": digest("Of the meaning of the manifest, or of a stack."),
        "level": one_of("Whether weights were hashed.", get_args(LockLevel)),
        "base": or_null(shared("locked_source", "The checkpoint at the bottom; null: a standalone checkpoint.")),
        "donors": entries("Name to donor.", shared("locked_source")),
        "grafts": entries(
            "Shard to what it is made of.",
            record(
                "A shard that the overlay adds.",
                {
                    "donor": text("Its name in the manifest."),
                    "size": count("Bytes of the shard."),
                    "header_sha256": digest("Of length and header."),
                    "sha256": or_null(digest("Of the shard; null where it was not hashed.")),
                    "whole": flag("True: the donor's shard as it is; false: built from the ranges of `tensors`."),
                    "tensors": entries(
                        "Tensor to where its bytes come from.",
                        {"oneOf": [_COPIED, _COMPUTED]},
                    ),
                },
            ),
        ),
        "trims": entries("Shard that is rewritten without superseded tensors, as it comes out.", shared("locked_file")),
        "files": entries("Sidecar that is not the base's own, as it comes out.", shared("locked_file")),
        "result": record(
            "What the target comes to.",
            {
                "tensors": count("Tensors."),
                "shards": count("Shards."),
                "total_size": count("Bytes of tensor data."),
                "index_sha256": digest("Of the text of the index."),
            },
        ),
    },
)

DEFINITIONS: Final[dict[str, Schema]] = {
    "amount": record("How much there is of something.", AMOUNT_KEYS),
    "claim": CLAIM,
    "finding": FINDING,
    "held": HELD,
    "lock": LOCK,
    "locked_file": LOCKED_FILE,
    "locked_source": LOCKED_SOURCE,
    "receipt": RECEIPT,
    "row": ROW,
    "sidecar_change": SIDECAR_CHANGE,
    "tensor_change": TENSOR_CHANGE,
}
