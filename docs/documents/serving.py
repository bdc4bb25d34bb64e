"""What `launch` and `probe` print."""

from __future__ import annotations

from typing import Final

from documents.shared import FINDINGS, NAMES
from documents.words import Schema, count, flag, items, one_of, or_null, record, text
from overlay.core.launching import ENGINES as LAUNCHED
from overlay.core.probing import ENGINES as PROBED
from overlay.core.probing import SOURCES, VERDICTS


def number(about: str) -> Schema:
    """A number, not below 0."""
    return {"type": "number", "minimum": 0, "description": about}


LAUNCH: Final = {
    "engine": one_of("What shall serve it.", LAUNCHED),
    "directory": text("The checkpoint's folder, as the command names it."),
    "command": text("The command on one line, as bash reads it."),
    "words": items("The same, word by word.", NAMES),
    "speculates": flag("Whether it asks the engine to use a draft."),
    "port": count("Where the server will listen.", least=1),
    "mounts": items(
        "What a container needs to see, read-only; the first is the folder itself.",
        record(
            "A folder, or the file of checksums.",
            {"source": text("Its real path on this machine."), "target": text("Where links expect it.")},
        ),
    ),
    "manifest": or_null(text("The manifest that gave options; null: none.")),
    "checksum": or_null(text("The file of checksums that was asked for.")),
    "verified": or_null(flag("With --exec: whether there were no errors at level headers.")),
    "findings": FINDINGS,
    "notes": items("What a person should know.", NAMES),
}

_RAN: Final = {
    "concurrency": count("Requests at a time.", least=1),
    "requests": count("Requests in all."),
    "failed": count("Those that were not answered."),
    "tokens": count("Tokens that were generated."),
    "seconds": number("From the first request to the last answer."),
    "tokens_per_second": number("Of all requests together."),
    "seconds_per_request": number("A request, on average."),
}

PROBE: Final = {
    "server": text("Its address."),
    "engine": one_of("What it is.", PROBED),
    "version": text('The engine\'s own word for its version, or "".'),
    "model": text("The model's name at the server."),
    "verdict": one_of(
        "`garbage`: drafts are made and practically none is accepted; `inert`: none is made; `unclear`: nobody counts, or "
        "there were too few.",
        VERDICTS,
    ),
    "reason": text("Why."),
    "acceptance": or_null(
        record(
            "What became of the drafts; null: no draft was seen.",
            {
                "length": number("Tokens that a step yields: 1 and what was accepted of a draft."),
                "drafts": or_null(count("Drafts; null: only the mean is known.")),
                "drafted": or_null(count("Draft tokens; null: not counted.")),
                "accepted": or_null(count("Draft tokens that were accepted; null: only the mean is known.")),
                "positions": items(
                    "Share of the drafts of which the first, second … token was accepted; empty: not known.",
                    number("From 0 to 1."),
                ),
                "source": one_of(
                    "`answers`: of these very completions; `counters`: of all that the server did in that time; `average`: "
                    "since it started.",
                    SOURCES,
                ),
            },
        )
    ),
    "max_tokens": count("Tokens that a completion may have.", least=1),
    "temperature": count("What completions were asked for with: always 0."),
    "completions": record("The completions that were judged, one at a time.", _RAN),
    "sweep": items(
        "With --sweep: completions so many at a time.",
        record(
            "A run.", {**_RAN, "acceptance_length": or_null(number("Tokens that a step yielded; null: not known."))}
        ),
    ),
    "notes": items("What a person should know when reading the numbers.", NAMES),
}
