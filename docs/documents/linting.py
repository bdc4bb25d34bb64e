"""What ``overlay lint`` prints."""

from __future__ import annotations

from typing import Final, get_args

from documents.shared import NAMES
from documents.words import count, entries, flag, items, one_of, or_null, record, shared, text
from overlay.engines.outcomes import Stage
from overlay.engines.predicting import Answer
from overlay.engines.remarks import EFFECTS, Scope

_FINDING: Final = record(
    "Something that an engine would meet.",
    {
        "code": shared("finding/properties/code", "Stable code; docs/findings.md explains it."),
        "severity": shared("finding/properties/severity", "An error makes `lint` exit with 1."),
        "subject": text("File, layer or folder, and tensor or key where there is one."),
        "message": text("What was expected and what was found, and what a person would see."),
        "hint": text("What to do about it."),
        "file": text("The file, layer or folder."),
        "tensor": text('The tensor or key in it; "" where there is none.'),
        "engine": text("The engine."),
        "effect": one_of("What it does to the prediction; `none`: nothing.", EFFECTS),
        "scope": one_of("Which of the two models it is about.", get_args(Scope)),
    },
)

_LOAD: Final = record(
    "With --explain-load: what the engine would load.",
    {
        "files": items("Shards in the order in which they are read.", NAMES),
        "order": text("How that order comes about."),
        "shared": text('What the draft takes from the target; "" where the family is not known.'),
        "parameters": items(
            "Parameters of families that are known module by module.",
            record(
                "A parameter; those of the target that differ in the layer alone are one, with `*` for the number.",
                {
                    "name": text("Its name in the engine."),
                    "stage": one_of("Which of the two models it belongs to.", get_args(Stage)),
                    "state": one_of("Whether all its tensors are there.", ["set", "partly", "unset"]),
                    "expected": count("Tensors that it is made of."),
                    "found": count("Those that are there."),
                },
            ),
        ),
    },
)

_ANSWERS: Final = get_args(Answer)

LINT: Final = {
    "checkpoint": text("What was looked at, as it was named; with --fix the manifest."),
    "against": or_null(text("The target that a standalone draft was held against; null: none.")),
    "ok": flag("Whether every engine that was asked loads it, and there is no error."),
    "unread": count(
        "Scales and shapes that rules ask for and that were not read: they lie elsewhere, or are not made yet."
    ),
    "engines": entries(
        "Engine to its prediction.",
        record(
            "What it will do.",
            {
                "version": text("The release that was asked about."),
                "profile": text("The release whose rules were used: the same, or the nearest older one."),
                "target": one_of(
                    "`wrong`: loads, and weights differ or stay unset; `absent`: a draft alone.", _ANSWERS
                ),
                "draft": one_of("`absent`: there is none, and no error says so.", _ANSWERS),
                "findings": items("The reasons, the worst first.", _FINDING),
                "load": _LOAD,
            },
            optional=["load"],
        ),
    ),
}
