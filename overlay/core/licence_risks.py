"""What is said of the licence, and whether the base says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from overlay.core.details import cut
from overlay.core.findings import Finding, about
from overlay.core.sidecar_diffing import diff_sidecar
from overlay.core.sidecar_roles import Role, role_of
from overlay.formats.front_matter import read_front_matter
from overlay.formats.names import CARD_NAME

_KEYS = ("license", "license_name", "license_link")
_TERMS = re.compile(r"licen[cs]e|copying", re.IGNORECASE)
"""What the name of a file that grants something holds; a NOTICE or a policy of use grants nothing."""


def find_licence_risks(old: Mapping[str, bytes] | None, new: Mapping[str, bytes]) -> Iterator[Finding]:
    """Licence files and the card's licence keys that are not the base's; that there is no licence at all.

    Args:
        old: the sidecars of the base; None: there is no base.
        new: those of the target.
    """
    changed = list(_changes(old, new)) if old is not None else []
    yield from changed
    if not changed and not _states_licence(new):
        also = ", and neither does the base" if old is not None else ""
        yield about("SEC009", CARD_NAME, f"no file and no front matter states a licence{also}", key="license")


def _changes(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[Finding]:
    for name in sorted(name for name in old.keys() | new.keys() if role_of(name) is Role.LICENCE):
        change = diff_sidecar(name, old.get(name), new.get(name))
        if change is None:
            continue
        if change.kind == "changed":
            yield about("SEC008", name, change.summary)
        else:
            yield about("SEC008", name, f"the {'base' if change.kind == 'added' else 'target'} has no such file")
    ours, theirs = _keys(old), _keys(new)
    for key in _KEYS:
        if ours.get(key) != theirs.get(key):
            expected, found = (cut(keys[key]) if key in keys else "nothing" for keys in (ours, theirs))
            yield about("SEC008", CARD_NAME, f"expected {expected}, the base's, found {found}", key=key)


def _keys(sidecars: Mapping[str, bytes]) -> dict[str, str]:
    return read_front_matter(sidecars.get(CARD_NAME, b""))


def _states_licence(sidecars: Mapping[str, bytes]) -> bool:
    if any(_TERMS.search(name) and role_of(name) is Role.LICENCE for name in sidecars):
        return True
    return bool(_keys(sidecars).keys() & {"license", "license_name"})
