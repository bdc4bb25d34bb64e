"""What ``overlay diff`` and ``overlay audit`` print."""

from __future__ import annotations

from typing import Final

from documents.shared import AMOUNT_KEYS, FINDINGS
from documents.words import count, flag, items, one_of, or_null, record, shared, text
from overlay.core.diffing import Change

COMPARISON: Final = {
    "old": or_null(text("The older or base checkpoint, as it was named; null: there is none.")),
    "new": text("The newer checkpoint, as it was named."),
    "differs": flag("Whether the two are known to differ."),
    "sound": flag("Whether there is no error and no claim that somebody made fails."),
    "unread": count("Tensors whose bytes were not compared and may differ."),
    "totals": record("Change to how much there is of it.", {change.value: shared("amount") for change in Change}),
    "rollup": items("The changes, rolled up by layer and module.", shared("row")),
    "sidecars": items("Sidecars that differ.", shared("sidecar_change")),
    "findings": FINDINGS,
    "tensors": items("With --tensors: every tensor that changed.", shared("tensor_change")),
}

AUDIT: Final = {
    "layers": items(
        "Every layer, and every component outside of layers.",
        record(
            "What each change has in it.",
            {
                "where": text("The layer or component."),
                **{change.value: shared("amount", f"Tensors that are {change.value}.") for change in Change},
            },
            optional=[change.value for change in Change],
        ),
    ),
    "dtypes": items(
        "Every dtype and change; retyped tensors count for their new dtype.",
        record(
            "How much there is of it.",
            {
                "dtype": text("Stored as."),
                "change": one_of("How these tensors changed.", [change.value for change in Change]),
                **AMOUNT_KEYS,
            },
        ),
    ),
    "claims": items("Statements of the card and of --claim.", shared("claim")),
}
