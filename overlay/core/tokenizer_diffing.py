"""How two tokenizers differ: tokens, merges and added tokens as such, everything else by JSON pointer.

The format is that of the tokenizers library (``tokenizer.json``) and of its forerunners (``vocab.json``,
``added_tokens.json``: an object of token and id).  A value of another shape is compared as the JSON that it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, TypeAlias

from overlay.core.details import ABSENT, MAX_DETAILS, Detail, Part, Side, common_prefix, counted, cut, shown, shown_pair
from overlay.core.value_diffing import ValueChange, differences
from overlay.formats import strict_json
from overlay.formats.strict_json import JsonValue

VOCABULARIES: Final = frozenset({"vocab.json", "added_tokens.json"})
"""Files that are nothing but an object of token and id."""

_Vocabulary: TypeAlias = dict[str, Any]
"""Token to id; to (id, score) in a Unigram model."""


def diff_tokenizer(old: JsonValue, new: JsonValue) -> tuple[list[Part], list[ValueChange]]:
    """How two ``tokenizer.json`` differ: the parts that have a meaning of their own, and the other changes.

    Both are empty when the values are equal but for their notation: merges as strings or as pairs.  Costs a few set
    operations on the vocabularies.
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [], list(differences(old, new))
    parts: list[Part] = []
    our_rest, their_rest = dict(old), dict(new)
    ours, theirs = _added_tokens(old.get("added_tokens", [])), _added_tokens(new.get("added_tokens", []))
    if ours is not None and theirs is not None:
        parts += _diff_mapping(ours, theirs, "added_tokens", "added tokens", "changed")
        our_rest.pop("added_tokens", None)
        their_rest.pop("added_tokens", None)
    our_model, their_model = old.get("model"), new.get("model")
    if isinstance(our_model, dict) and isinstance(their_model, dict):
        our_rest["model"], their_rest["model"] = our_model, their_model = dict(our_model), dict(their_model)
        parts += _diff_vocabularies(our_model, their_model)
        parts += _diff_merges(our_model, their_model)
    return parts, list(differences(our_rest, their_rest))


def diff_vocabulary(old: JsonValue, new: JsonValue) -> list[Part] | None:
    """How two objects of token and id differ; None if one of them is something else."""
    ours, theirs = _vocabulary(old), _vocabulary(new)
    if ours is None or theirs is None:
        return None
    return _diff_mapping(ours, theirs, "vocab", "vocabulary", "renumbered")


def _diff_vocabularies(old: dict[str, Any], new: dict[str, Any]) -> list[Part]:
    """Compare the vocabularies of two models, and take them out of the models if that could be done."""
    parts = diff_vocabulary(old.get("vocab", {}), new.get("vocab", {}))
    if parts is None:
        return []
    old.pop("vocab", None)
    new.pop("vocab", None)
    return parts


def _diff_merges(old: dict[str, Any], new: dict[str, Any]) -> list[Part]:
    """Compare the merges of two models, and take them out of the models if that could be done."""
    sides = old.get("merges", []), new.get("merges", [])
    if not all(map(_are_merges, sides)):
        return []
    old.pop("merges", None)
    new.pop("merges", None)
    if sides[0] == sides[1]:
        return []
    ours, theirs = map(_pairs, sides)
    head = common_prefix(ours, theirs)
    ours, theirs = ours[head:], theirs[head:]
    tail = common_prefix(ours[::-1], theirs[::-1])
    ours, theirs = ours[: len(ours) - tail], theirs[: len(theirs) - tail]
    if not ours and not theirs:
        return []
    before, after = dict.fromkeys(ours), dict.fromkeys(theirs)
    come, gone = [m for m in after if m not in before], [m for m in before if m not in after]
    kept, still = [m for m in ours if m in after], [m for m in theirs if m in before]
    details: Iterator[Detail] = chain(
        (Detail("merges", None, cut(" ".join(merge))) for merge in come),
        (Detail("merges", cut(" ".join(merge)), None) for merge in gone),
    )
    total, notes = len(come) + len(gone), []
    if total:
        notes = [_listed("merge", [(len(come), "added"), (len(gone), "removed")])]
    if kept != still:  # the rank of a merge decides which of two is made first
        at = common_prefix(kept, still)
        first = (cut(" ".join(side[at])) if at < len(side) else None for side in (kept, still))
        details = chain([Detail("merges", *first)], details)
        total, notes = total + 1, [*notes, "merges in another order"]
    return [Part(", ".join(notes), list(islice(details, MAX_DETAILS)), total)]


def _diff_mapping(old: dict[str, Any], new: dict[str, Any], where: str, what: str, changed: str) -> list[Part]:
    come = [key for key in new if key not in old]
    gone = [key for key in old if key not in new]
    moved = [key for key, value in old.items() if key in new and not _equal(value, new[key])]
    total = len(come) + len(gone) + len(moved)
    if not total:
        return []
    keys: Iterable[str] = chain(come, gone, moved)
    details = [_entry(where, key, old.get(key, ABSENT), new.get(key, ABSENT)) for key in islice(keys, MAX_DETAILS)]
    counts = _listed("token", [(len(come), "added"), (len(gone), "removed"), (len(moved), changed)])
    return [Part(f"{what}: {counts}", details, total)]


def _entry(where: str, key: str, old: Side, new: Side) -> Detail:
    if where == "added_tokens":  # the entry repeats the token
        return Detail(where, *shown_pair(old, new))
    token = cut(shown(key) or "", 60)
    return Detail(where, *(None if side is ABSENT else f"{token}: {shown(side)}" for side in (old, new)))


def _listed(one: str, counts: Iterable[tuple[int, str]]) -> str:
    """``3 merges added, 1 removed``."""
    found = [(number, verb) for number, verb in counts if number]
    words = [f"{counted(number, one)} {verb}" for number, verb in found[:1]]
    return ", ".join([*words, *(f"{number} {verb}" for number, verb in found[1:])])


def _vocabulary(value: JsonValue) -> _Vocabulary | None:
    if isinstance(value, dict):
        return None if {dict, list} & set(map(type, value.values())) else value
    if not isinstance(value, list):
        return None
    # A Unigram model has a list of (piece, score); the place in the list is the id.
    pieces: dict[str, Any] = {}
    for number, pair in enumerate(value):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            return None
        pieces[pair[0]] = (number, pair[1])
    return pieces if len(pieces) == len(value) else None


def _are_merges(value: JsonValue) -> bool:
    """Whether it is a list of ``"a b"`` or, as they are written since tokenizers 0.20, of ``["a", "b"]``."""
    if not isinstance(value, list):
        return False
    kinds = set(map(type, value))
    return kinds <= {str} or (kinds == {list} and set(map(type, chain.from_iterable(value))) <= {str})


def _pairs(merges: Any) -> list[tuple[str, ...]]:
    if merges and isinstance(merges[0], str):
        return [tuple(merge.split(" ", 1)) for merge in merges]
    return list(map(tuple, merges))


def _added_tokens(value: JsonValue) -> dict[str, Any] | None:
    """Added tokens by their content."""
    if not isinstance(value, list):
        return None
    if not all(isinstance(token, dict) and isinstance(token.get("content"), str) for token in value):
        return None
    tokens: dict[str, Any] = {token["content"]: token for token in value}
    return tokens if len(tokens) == len(value) else None


def _equal(old: Any, new: Any) -> bool:
    if type(old) is int and type(new) is int:  # the usual id, a few hundred thousand times
        return old == new
    return strict_json.canonical(old) == strict_json.canonical(new)
