"""Details: single differences between two versions of a sidecar, shown in a few words.

Text of a file stays data here, control characters and all: whoever prints it escapes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from overlay.formats.strict_json import JsonValue

MAX_DETAILS: Final = 50
"""Details that are kept of a change; the others are counted."""
MAX_SHOWN: Final = 120
"""Characters that are shown of a value."""
MAX_WHERE: Final = 500
"""Characters that are shown of a place; a real JSON pointer stays far below."""


class Absent(Enum):
    """Stands for a value that is not there, which null is not."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
Side: TypeAlias = JsonValue | Absent
"""A value in one of two versions, or that there is none."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One difference."""

    where: str
    """A JSON pointer (RFC 6901; "" is the whole document); a key of a card's front matter; ``line 12``; ``byte 12``; or
    ``vocab``, ``merges``, ``added_tokens``.  Members of a list that is used as a set bear the pointer of the list."""
    old: str | None
    """What was there, shortened (JSON text for JSON); None: nothing."""
    new: str | None
    """What is there now, shortened; None: nothing."""

    def document(self) -> dict[str, str | None]:
        """The detail as it stands in JSON documents."""
        return asdict(self)


class Part(NamedTuple):
    """One aspect in which two versions of a file differ."""

    summary: str
    details: list[Detail]
    """At most `MAX_DETAILS` of them."""
    total: int
    """How many details there are, kept or not."""


def shown(side: Side) -> str | None:
    """A value as short JSON text; None for one that is absent."""
    return None if isinstance(side, Absent) else cut(_json(side))


def shown_pair(old: Side, new: Side) -> tuple[str | None, str | None]:
    """Both sides of a difference as short JSON texts, so cut that the first difference can be seen."""
    if isinstance(old, Absent) or isinstance(new, Absent):
        return shown(old), shown(new)
    return cut_pair(_json(old), _json(new))


def cut(text: str, limit: int = MAX_SHOWN) -> str:
    """At most `limit` characters of `text`; half a surrogate pair, which no output can hold, becomes a question mark."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return short if short.isascii() else short.encode(errors="replace").decode()


def cut_pair(old: str, new: str) -> tuple[str, str]:
    """Two texts cut to the same window, which holds their first difference."""
    if len(old) <= MAX_SHOWN and len(new) <= MAX_SHOWN:
        return cut(old), cut(new)
    start = max(0, common_prefix(old, new) - MAX_SHOWN // 3)
    if start <= 1:  # the ellipsis would hide as much as it says
        return cut(old), cut(new)
    return "…" + cut(old[start:], MAX_SHOWN - 1), "…" + cut(new[start:], MAX_SHOWN - 1)


def counted(number: int, one: str, several: str = "") -> str:
    """``1 token`` or ``2 tokens``."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest common prefix, by bisection: slices compare at the speed of memory."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _json(value: JsonValue) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return "(too large to be shown)"
