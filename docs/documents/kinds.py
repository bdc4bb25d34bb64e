"""The kinds of documents: which command prints them, and what is in them."""

from __future__ import annotations

from typing import Final, NamedTuple, get_args

from documents.comparing import AUDIT, COMPARISON
from documents.linting import LINT
from documents.looking import DESCRIPTION, MEANING, TRACE, VERDICT
from documents.publishing import PUBLISHED
from documents.serving import LAUNCH, PROBE
from documents.shared import FINDINGS, NAMES, NUMBERS
from documents.words import Schema, count, digest, document, entries, flag, items, one_of, or_null, record, shared, text
from overlay.core.planning import Do
from overlay.core.target import Standing
from overlay.formats.receipt import Origin
from overlay.storage.linking import LINK_MODES


class Kind(NamedTuple):
    """One kind of document."""

    commands: str
    """Who prints it."""
    schema: Schema
    """A whole document; several under ``oneOf``."""


MANIFEST: Final = {
    "type": "object",
    "description": "The manifest that was written, defaults spelled out; `overlay schema` prints its own schema.",
}

PLAN: Final = record(
    "What apply would do; `overlay apply --plan` takes it.",
    {
        "name": text("The manifest's name."),
        "target": text("The folder to assemble."),
        "link": one_of("How shards are placed.", LINK_MODES),
        "empty": flag("Whether there is nothing to do."),
        "reasons": items("Why there is something to do.", NAMES),
        "actions": items(
            "In order; the index comes after the shards.",
            record(
                "One file of the target, and how it gets there.",
                {
                    "do": one_of("What is done.", get_args(Do)),
                    "name": text("The file."),
                    "origin": one_of("What it is.", get_args(Origin)),
                    "bytes": count("Bytes of the file."),
                    "sha256": digest('Of the file, where known beforehand; else "".', may_be_empty=True),
                    "source": text('The real file, or the donor\'s shards; "" for a file that is written.'),
                    "recipe": digest(
                        'Shards: of what the source was when it was looked at; else "".', may_be_empty=True
                    ),
                },
            ),
        ),
        "bytes": record(
            "What it costs.",
            {
                "linked": count("Bytes that are linked."),
                "written": count("Bytes that take space."),
                "fetched": count("Bytes that come from other machines."),
            },
        ),
        "result": record(
            "What the target comes to.",
            {"tensors": count("Tensors."), "total_size": count("Bytes of tensor data.")},
        ),
        "notes": items("Anything worth a look.", NAMES),
        "state": digest("Of what the target will be."),
    },
)

BUILT_SHARD: Final = record(
    "A shard that was made.",
    {
        "name": text("Its name."),
        "tensors": count("Tensors in it."),
        "file_bytes": count("Bytes of the file."),
        "sha256": digest("Of the file."),
        "taken_over": flag("Whether it comes from a build that was interrupted."),
        "accuracy": entries(
            "Class of modules to what its lossy steps lost; empty where nothing is lost.",
            entries("Measure to its value, such as `relative_rms`.", {"type": ["number", "null"]}),
        ),
    },
)

GENERATION: Final = record(
    "One tree that the target has been.",
    {
        "generation": count("Its number, from 1.", least=1),
        "current": flag("Whether it is the one in place."),
        "name": text("The manifest's name."),
        "tensors": count("Tensors."),
        "total_size": count("Bytes of tensor data."),
        "state": digest("Of the plan that made it."),
        "manifest_sha256": digest("Of the meaning of the manifest."),
        "path": text("Where the tree lies."),
    },
)

FAILURE: Final = record(
    "What stopped the command.",
    {
        "kind": one_of("By whose fault.", ["mismatch", "usage", "invalid", "conflict", "environment", "interrupted"]),
        "message": text("What was expected and what was found."),
        "hint": text('What to type next, or "".'),
        "others": items("Further problems of the same kind.", NAMES),
        "exit_code": count("The command's exit code.", least=1),
    },
)

INIT_COUNTS: Final = {
    "added": count("With --derived: tensors that were added."),
    "replaced": count("With --derived: tensors that were rewritten."),
    "dropped": count("With --derived: tensors that were taken out."),
    "sidecars": count("With --derived: sidecars that differ."),
    "bytes": count("With --derived: bytes of tensor data that were written."),
}

KINDS: Final[dict[str, Kind]] = {
    "init": Kind(
        "overlay init",
        document(
            "init",
            "The manifest that was written.",
            {"file": or_null(text("Where; null: only here.")), "manifest": MANIFEST, **INIT_COUNTS},
            optional=INIT_COUNTS,
        ),
    ),
    "lock": Kind(
        "overlay lock",
        document(
            "lock",
            "What was pinned.",
            {
                "file": text("The lock."),
                "written": flag("False: the lock that is there says the same."),
                "lock": shared("lock", "The lock."),
            },
        ),
    ),
    "plan": Kind("overlay plan, overlay apply --dry-run", document("plan", "A plan.", {"plan": PLAN})),
    "apply": Kind(
        "overlay apply",
        document(
            "apply",
            "What was assembled.",
            {
                "target": text("The folder."),
                "changed": flag("False: there was nothing to do."),
                "unproven": items("Files whose bytes were not compared with a digest.", NAMES),
                "receipt": shared("receipt", "The receipt."),
            },
        ),
    ),
    "build": Kind(
        "overlay build",
        document(
            "build",
            "What was built.",
            {
                "target": text("The repository."),
                "tensors": count("Tensors in its shards."),
                "bytes": count("Bytes of tensor data in them."),
                "shards": items("Shards that were made.", BUILT_SHARD),
                "lock": shared("lock", "The lock of the repository."),
            },
        ),
    ),
    "publish": Kind("overlay publish", document("publish", "What was published, or would be.", PUBLISHED)),
    "status": Kind(
        "overlay status",
        document(
            "status",
            "How a target stands.",
            {
                "target": text("The folder."),
                "state": items("`clean` alone, or whatever else holds.", one_of("A state.", [*Standing])),
                "generation": or_null(count("The current one's number.", least=1)),
                "generations": items("Every generation there is.", NUMBERS),
                "findings": FINDINGS,
            },
        ),
    ),
    "undo": Kind(
        "overlay undo",
        document(
            "undo",
            "What came back.",
            {
                "target": text("The folder."),
                "generation": count("The one that is back.", least=1),
                "replaced": or_null(count("The one that it took the place of, which is kept.", least=1)),
                "left": items("Files that overlay did not place and that stay in the replaced tree.", NAMES),
                "receipt": shared("receipt", "Of the one that is back."),
                "findings": FINDINGS,
            },
        ),
    ),
    "history": Kind(
        "overlay history",
        document(
            "history",
            "The trees that a target has been.",
            {
                "target": text("The folder."),
                "current": or_null(count("The current one's number.", least=1)),
                "generations": items("The oldest first.", GENERATION),
            },
        ),
    ),
    "verify": Kind(
        "overlay verify", document("verify", "Whether a checkpoint is what it should be.", VERDICT, optional=["fix"])
    ),
    "diff": Kind("overlay diff", document("diff", "How two checkpoints differ.", COMPARISON, optional=["tensors"])),
    "audit": Kind(
        "overlay audit",
        document("audit", "What a checkpoint adds to its base.", {**COMPARISON, **AUDIT}, optional=["tensors"]),
    ),
    "inspect": Kind("overlay inspect", document("inspect", "What a checkpoint is made of.", DESCRIPTION)),
    "lint": Kind("overlay lint", document("lint", "What each engine will do.", LINT)),
    "explain": Kind(
        "overlay explain",
        {
            "oneOf": [
                document("explain", "A code.", MEANING),
                document("explain", "All codes.", {"codes": items("By code.", record("A code.", MEANING))}),
                document("explain", "A tensor.", TRACE),
            ]
        },
    ),
    "launch": Kind("overlay launch", document("launch", "The command that serves a checkpoint.", LAUNCH)),
    "probe": Kind("overlay probe", document("probe", "Whether a running server's draft fires.", PROBE)),
    "schema": Kind(
        "overlay schema",
        document(
            "schema",
            "The schema of the manifest.",
            {
                "schema": {
                    "$ref": "https://json-schema.org/draft/2020-12/schema",
                    "description": "A JSON Schema of 2020-12.",
                }
            },
        ),
    ),
    "demo": Kind(
        "overlay demo",
        document("demo", "How the demonstration ended.", {"folder": text("The folder."), "ok": flag("Always true.")}),
    ),
    "error": Kind("every command that stops", document("error", "Why a command stopped.", {"error": FAILURE})),
}
