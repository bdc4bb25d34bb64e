"""What a changed sidecar changes for whoever is served by the checkpoint: a finding a place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from overlay.core.code_keys import CODE_KEYS
from overlay.core.details import ABSENT, shown, shown_pair
from overlay.core.findings import Finding, about
from overlay.core.sidecar_diffing import TEMPLATE_KEY, diff_sidecar, pointer_text
from overlay.core.sidecar_roles import Role, role_of
from overlay.core.tokenizer_diffing import VOCABULARIES
from overlay.core.value_diffing import ValueChange, differences, read_json
from overlay.formats.strict_json import JsonProblem

MAX_PLACES: Final = 20
"""Findings of one code about one file; what is past them is counted in one more."""

_CODE_OF: Final[dict[Role, str]] = {
    Role.TEMPLATE: "SEC004",
    Role.TOKENIZER: "SEC005",
    Role.GENERATION: "SEC006",
    Role.QUANTIZATION: "SEC007",
    Role.CONFIG: "CFG002",
    Role.PROCESSOR: "CFG002",
}
"""The code of a change in a file of this role; files of the other roles are no risk by what they say."""

_QUANTIZATION_KEYS: Final = frozenset({"quantization_config", "quantization", "compression_config"})
_TOKEN_KEY = re.compile(r"\w+_token(_ids?|_index)?|(begin_)?suppress_tokens|additional_special_tokens")
"""Keys that name tokens in a model's or a generation config: ``eos_token_id``."""
_ORIGIN_KEYS: Final = frozenset(
    {"transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "_diffusers_version", "producer"}
)
_WHOLE: Final = frozenset({"tokenizer.json", *VOCABULARIES})
"""Files that get one finding: nobody wants one a token."""


def find_changes(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[Finding]:
    """Findings about the sidecars that are not the base's, but for licences and for code.

    Args:
        old: the sidecars of the base.
        new: those of the target.
    """
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        code = _CODE_OF.get(role_of(name))
        if before == after or code is None:
            continue
        if before is None:
            yield from _about_added(name, code, after or b"")
        elif after is None:
            yield about(code, name, "the base has this file, the target does not")
        else:
            yield from _about_changed(name, code, before, after)


def _about_added(name: str, code: str, data: bytes) -> Iterator[Finding]:
    # A second source of the quantisation, or a processor, is found by its name (SEC010).
    if role_of(name) not in (Role.QUANTIZATION, Role.PROCESSOR):
        yield about(code, name, "the base has no such file")
    # What such a file can hold besides: a template in a tokenizer's or a processor's config, a scheme in the config.
    for change in _json_changes(b"{}", data) or []:
        hidden = _code_of(name, code, change)
        if hidden in ("SEC004", "SEC007") and hidden != code:
            yield about(
                hidden, name, f"found {shown(change.new)}, the base has no such file", key=pointer_text(change.tokens)
            )


def _about_changed(name: str, code: str, old: bytes, new: bytes) -> Iterator[Finding]:
    base = name.rpartition("/")[2].lower()
    changes = None if base in _WHOLE or not base.endswith(".json") else _json_changes(old, new)
    if changes is None:
        change = diff_sidecar(name, old, new)
        if change is not None and not change.same_values:
            yield about(code, name, change.summary)
        return
    by_code: dict[str, list[ValueChange]] = defaultdict(list)
    for place in changes:
        if found := _code_of(name, code, place):
            by_code[found].append(place)
    for found, places in by_code.items():
        for place in places[:MAX_PLACES]:
            yield about(found, name, _message(place), key=pointer_text(place.tokens) or "the whole document")
        if len(places) > MAX_PLACES:
            yield about(found, name, f"and {len(places) - MAX_PLACES} more such differences; overlay diff lists them")


def _json_changes(old: bytes, new: bytes) -> list[ValueChange] | None:
    """The places that differ; None if one side is no JSON."""
    try:
        return list(differences(read_json(old), read_json(new)))
    except JsonProblem:
        return None


def _code_of(name: str, code: str, change: ValueChange) -> str:
    """The code of one change in a file whose changes are `code` otherwise; "" if another rule finds it."""
    keys = change.tokens
    last = keys[-1] if keys else ""
    if not CODE_KEYS.isdisjoint(keys) and change.new is not ABSENT:
        return ""
    if TEMPLATE_KEY in keys:
        return "SEC004"
    if last.lower().startswith(("license", "licence")):
        return "SEC008"
    if last in _ORIGIN_KEYS or (keys and keys[0] == "producer"):
        return "CFG003"
    if not _QUANTIZATION_KEYS.isdisjoint(keys):
        return "SEC007"
    if code != "SEC007" and any(_TOKEN_KEY.fullmatch(key) for key in keys):
        return "SEC005"
    return code


def _message(change: ValueChange) -> str:
    old, new = shown_pair(change.old, change.new)
    if change.member:
        return (
            f"found {new}, which the base does not list" if old is None else f"{old} is missing, which the base lists"
        )
    if old is None:
        return f"found {new}, where the base has nothing"
    if new is None:
        return f"found nothing, where the base has {old}"
    return f"expected {old}, the base's, found {new}"
