"""Terms: whether what is published may bear its licence, by the names of licences alone.

The rule is small on purpose.  A permissive licence lets what is derived have any other; every other licence, and every
name that is not known here, is taken to ask for itself again; no licence at all allows nothing.  It reads no licence text,
knows no exceptions, versions or compatible pairs, and sees only the base and the donors themselves, not what they were made
from.  Where it is wrong, ``--allow SEC014`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from overlay.core.details import cut
from overlay.core.findings import Finding, about

PERMISSIVE: Final = frozenset(
    {
        *("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "unlicense", "zlib"),
        *("cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-2.0", "cc-by-2.5", "cdla-permissive-1.0", "cdla-permissive-2.0"),
        *("wtfpl", "0bsd", "afl-3.0", "artistic-2.0", "bsl-1.0", "ncsa", "postgresql", "pddl"),
    }
)
"""Identifiers whose terms let derived works have others (https://huggingface.co/docs/hub/repositories-licenses)."""


def name_of_licence(keys: Mapping[str, str]) -> str:
    """The licence that a card's front matter states: its identifier, or the name behind ``other``; "" for none."""
    licence = keys.get("license", "").strip().lower()
    if licence in ("", "unknown", "null"):
        return ""
    own = keys.get("license_name", "").strip().lower()
    return f"other ({own})" if licence == "other" and own else licence


def find_licence_obstacles(ours: str, theirs: Mapping[str, str], card: str) -> Iterator[Finding]:
    """That there is no licence, and every base or donor whose licence asks for another one.

    Args:
        ours: what is to be published, as `name_of_licence` gives it.
        theirs: ``base hf://org/name`` or the like to the licence that its card states; "" for none.
        card: the file that the findings are about.
    """
    if not ours:
        stated = ", ".join(sorted({f"{whose} is {licence}" for whose, licence in theirs.items() if licence}))
        yield about("SEC013", card, f"expected a licence, found none{f' ({stated})' if stated else ''}", key="license")
    for whose, licence in sorted(theirs.items()):
        if not licence:
            yield about(
                "SEC014", card, f"expected the licence of {whose}, found that its card states none", key="license"
            )
        elif ours and licence != ours and licence not in PERMISSIVE:
            message = f"expected {cut(licence)}, which {whose} has, found {cut(ours)}"
            yield about("SEC014", card, message, key="license")
