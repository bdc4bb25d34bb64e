"""Risks: what a checkpoint brings that can run code, or change the prompt, the tokenizer, the quantisation or the licence.

Against a base only what is new or different is told; without one, everything that is dangerous by itself.  What a file is
can be told in three ways, and each is used: its name, its first bytes, and the values in it.  Names and values of strangers
stand in the findings as they are; whoever prints them escapes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Final

from overlay.core.code_keys import find_code_keys
from overlay.core.details import cut, shown
from overlay.core.file_kinds import kind_of, redirect_of
from overlay.core.findings import Finding, about
from overlay.core.licence_risks import find_licence_risks
from overlay.core.sidecar_diffing import pointer_text
from overlay.core.sidecar_risks import find_changes
from overlay.core.sidecar_roles import Role, role_of
from overlay.core.value_diffing import read_json
from overlay.formats.strict_json import JsonProblem

_BEGINNING: Final = 128
"""Bytes of a sidecar that are looked at to tell what it is."""
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})


def find_risks(
    old: Mapping[str, bytes] | None,
    new: Mapping[str, bytes],
    strays: Iterable[str] = (),
    left_out: Iterable[str] = (),
    old_names: AbstractSet[str] = frozenset(),
    magic: Mapping[str, bytes] = _NOTHING,
    *,
    same: AbstractSet[str] = frozenset(),
) -> list[Finding]:
    """What can do harm, sorted; each finding names the file, and the key where there is one.

    Args:
        old: the sidecars of the base, name to bytes; None: there is no base.
        new: the sidecars of the target as it will be served: those of a diff-only repository laid over the base's.
        strays: the target's files of weights that its index does not name, other indexes among them.
        left_out: the target's other entries, of which nothing was read: folders, dot files, files too large.
        old_names: every name that the base holds besides `old`, its shards and strays among them.
        magic: the first 64 bytes or more of files that are no sidecars: of strays, of shards, of what was left out.
        same: those of them that are known to be the base's own file: one inode, or one stated digest.  A stray of a known
            name that is not in here counts as different, because nobody compared its bytes.

    Costs one reading of each sidecar that the base has not, and two of each that differs.
    """
    findings: list[Finding] = []
    before = old or {}
    known = old_names | before.keys()
    unlisted = {*new, *strays, *left_out}
    for name in sorted(unlisted | magic.keys()):
        data = new.get(name)
        if old is not None and (name in same or (data is not None and before.get(name) == data)):
            continue
        added = old is not None and name not in known
        kind = kind_of(name, magic.get(name, b"") if data is None else data[:_BEGINNING])
        if name in unlisted:
            findings += _by_name(name, added, changed=name in known)
        if kind is not None and role_of(name) not in (Role.CODE, Role.PICKLE):
            code = "SEC002" if kind.role is Role.CODE else "SEC003"
            findings.append(about(code, name, f"found {kind.what}, which its name does not say"))
        if data is not None and name.lower().endswith(".json"):
            findings += _by_content(name, before.get(name), data)
    if old is not None:
        findings += find_changes(old, new)
    findings += find_licence_risks(old, new)
    return sorted(set(findings))


def _by_name(name: str, added: bool, *, changed: bool) -> Iterator[Finding]:
    """What the name alone says, of a file that is new or not known to be the base's."""
    note = "; the base has a file of this name, and this one is not known to be the same" if changed else ""
    role = role_of(name)
    if role is Role.CODE:
        yield about("SEC002", name, f"found a file of code{note}")
    elif role is Role.PICKLE:
        yield about("SEC003", name, f"found a file that runs code when it is loaded, if its author wants{note}")
    elif effect := redirect_of(name, added=added):
        yield about("SEC010", name, effect + note)


def _by_content(name: str, old: bytes | None, new: bytes) -> Iterator[Finding]:
    """What a JSON file makes loaders import, where the base's does not say the same."""
    try:
        read_json(new)
    except JsonProblem as problem:
        yield about("CFG001", name, cut(str(problem), 300))
    before = find_code_keys(name, old) if old is not None else {}
    for tokens, value in find_code_keys(name, new).items():
        if not tokens:
            yield about(
                "SEC001", name, f"found {value} in a text that is not JSON; a more forgiving reader may obey it"
            )
        elif tokens not in before or before[tokens] != value:
            was = f"; the base names {shown(before[tokens])}" if tokens in before else ""
            yield about("SEC001", name, f"names code to import: {shown(value)}{was}", key=pointer_text(tokens))
