"""The index (``model.safetensors.index.json``): read strictly, changed in place of its own text.

A changed index must differ only in what was changed: order, indentation, unknown metadata and the final newline of
22 MB of somebody else's JSON stay.  So nothing is parsed and dumped again: `rewrite` splices the text, and finds its
places with byte searches that cost a few milliseconds.

Source of the format: transformers `utils/hub.py:get_checkpoint_shard_files` and huggingface_hub
`serialization/_base.py`: ``{"metadata": {"total_size": bytes, …}, "weight_map": {tensor: shard}}``; ``total_size`` is
the sum of tensor data bytes, headers excluded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import Any, Final

from overlay.formats import strict_json
from overlay.formats.json_spans import STRING, skip_blank, value_end
from overlay.formats.names import explain_shard_name

MAX_INDEX_BYTES: Final = 512 * 1024 * 1024
"""Refused before reading; the largest real index is about 25 MB."""

_MEMBER = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:\s*)("[^"\\]*(?:\\.[^"\\]*)*")(\s*,?\s*)', re.DOTALL)
_BLANK = b" \t\r\n"


class IndexProblem(ValueError):
    """The text is not an index; `problems` holds (key, message) for everything found."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{key}: {message}" if key else message for key, message in problems))


@dataclass(frozen=True, eq=False)
class Index:
    """A valid index and the text it was read from."""

    raw: bytes
    metadata: dict[str, Any] | None
    """None when the text has no ``metadata``; transformers then raises KeyError."""
    weight_map: dict[str, str]

    @property
    def total_size(self) -> int | None:
        """Tensor data bytes as stated; None when the index does not say."""
        size = (self.metadata or {}).get("total_size")
        return None if size is None else int(size)

    def shards(self) -> list[str]:
        """The shards that the weight map names, in order of first mention."""
        return list(self._shards)

    @cached_property
    def _shards(self) -> dict[str, None]:
        """The values, each once; found once, since it takes a pass over the map."""
        return dict.fromkeys(self.weight_map.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexEdit:
    """What to change; everything else keeps its bytes."""

    add: Mapping[str, str] = field(default_factory=dict)
    """Tensor to shard, appended in this order; none of them may be in the index."""
    remove: AbstractSet[str] = frozenset()
    remap: Mapping[str, str] = field(default_factory=dict)
    """Tensor to its new shard; all of them must be in the index, and none removed."""
    metadata: Mapping[str, int] = field(default_factory=dict)
    """Metadata entries to set, ``total_size`` among them."""


def parse_index(raw: bytes) -> Index:
    """Parse an index strictly.

    Raises:
        IndexProblem: not strict JSON (repeated keys included), no weight map, values that are not bare shard
            names, or sizes in the metadata that are no sizes.  All problems of the content are collected.
    """
    try:
        document = strict_json.decode_unchecked(raw)
        if isinstance(document, dict) and raw.count(b":") != _count_keys(document):
            document = strict_json.decode_slowly(raw)
    except strict_json.JsonProblem as error:
        raise IndexProblem([("", str(error))]) from None
    if not isinstance(document, dict):
        raise IndexProblem([("", "expected a JSON object with a weight_map")])
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict):
        found = "none" if "weight_map" not in document else repr(weight_map)[:40]
        raise IndexProblem([("weight_map", f"expected an object of tensor names, found {found}")])
    metadata = document.get("metadata")
    problems = _check_metadata(metadata) + _check_shards(weight_map)
    if problems:
        raise IndexProblem(problems)
    return Index(raw, metadata, weight_map)


def new_index(weight_map: Mapping[str, str], metadata: Mapping[str, int]) -> bytes:
    """An index as transformers writes it: metadata first, names sorted, indent 2, final newline."""
    return strict_json.encode({"metadata": dict(metadata), "weight_map": dict(sorted(weight_map.items()))})


def rewrite(index: Index, edit: IndexEdit) -> bytes:
    """The text of `index` with `edit` spliced in.

    Costs one copy of the text, and one pass over its names when something is removed or remapped.

    Raises:
        KeyError: `edit` adds a tensor that is there, removes or remaps one that is not, or does both to one.
    """
    for name in edit.add:
        if name in index.weight_map:
            raise KeyError(name)
    for name in (*edit.remove, *edit.remap):
        if name not in index.weight_map or (name in edit.remove and name in edit.remap):
            raise KeyError(name)
    changed = {name: shard for name, shard in edit.remap.items() if index.weight_map[name] != shard}
    raw = index.raw
    members = dict(_members(raw, skip_blank(raw, 0), flat="weight_map"))
    splices = _splice_weight_map(raw, members["weight_map"], index.weight_map, replace(edit, remap=changed))
    splices += _splice_metadata(raw, members.get("metadata"), index.metadata, edit.metadata)
    return _apply(raw, sorted(splices))


Span = tuple[int, int]
Splice = tuple[int, int, bytes]


def _count_keys(document: dict[str, Any]) -> int:
    """Keys in the document; -1, which equals no count, when a float or depth calls for the slow path."""
    weight_map = document.get("weight_map")
    flat = len(weight_map) if isinstance(weight_map, dict) else 0
    rest = {key: value for key, value in document.items() if key != "weight_map" or not flat}
    try:
        keys, exact = strict_json.survey(rest)
    except strict_json.JsonProblem:
        return -1
    return keys + flat + (1 if flat else 0) if exact else -1


def _check_metadata(metadata: Any) -> list[tuple[str, str]]:
    if metadata is None:
        return []
    if not isinstance(metadata, dict):
        return [("metadata", f"expected an object, found {metadata!r}"[:120])]
    problems = []
    for key in ("total_size", "total_parameters"):
        value = metadata.get(key, 0)
        # A whole float is what some writers made of a large integer; it is odd, and not ambiguous.
        if type(value) is float and value.is_integer() and value >= 0:
            continue
        if type(value) is not int or value < 0:
            problems.append((f"metadata.{key}", f"expected a whole number >= 0, found {value!r}"[:120]))
    return problems


def _check_shards(weight_map: dict[str, Any]) -> list[tuple[str, str]]:
    """Problems of the values, by tensor name; each distinct value is judged once."""
    try:
        verdicts = {value: explain_shard_name(value) for value in set(weight_map.values())}
    except TypeError:  # an unhashable value: judge one by one
        return [(name, problem) for name, value in weight_map.items() if (problem := explain_shard_name(value))]
    if not any(verdicts.values()):
        return []
    return [(name, verdicts[value]) for name, value in weight_map.items() if verdicts[value]]


def _members(raw: bytes, start: int, flat: str | None = None) -> Iterator[tuple[str, Span]]:
    """The members of the object that begins at `start`: key and span of the value; `flat` holds strings only."""
    at = skip_blank(raw, start + 1)
    while raw[at : at + 1] == b'"':
        match = STRING.match(raw, at)
        assert match is not None  # the text was parsed before
        key = json.loads(match[0])
        begin = skip_blank(raw, raw.index(b":", match.end()) + 1)
        end = _flat_end(raw, begin) if key == flat else value_end(raw, begin)
        yield key, (begin, end)
        at = skip_blank(raw, end)
        if raw[at : at + 1] == b",":
            at = skip_blank(raw, at + 1)


def _flat_end(raw: bytes, at: int) -> int:
    """Where an object of strings ends.

    Usually it is the last member: its brace and the text's are the last two, and no object begins after it.
    Otherwise, without a backslash, a brace after an even number of quotes is structural.
    """
    final = raw.rfind(b"}")
    close = raw.rfind(b"}", at, final)
    if close >= 0 and not raw[close + 1 : final].strip(_BLANK) and raw.find(b"{", at + 1, close) < 0:
        return close + 1
    close, quotes, counted = at, 0, at
    while (close := raw.find(b"}", close + 1)) >= 0:
        quotes += raw.count(b'"', counted, close)
        if raw.find(b"\\", counted, close) >= 0:
            return value_end(raw, at)
        counted = close
        if quotes % 2 == 0:
            return close + 1
    raise AssertionError("unbalanced braces in text that was parsed before")


def _splice_weight_map(raw: bytes, span: Span, weight_map: dict[str, str], edit: IndexEdit) -> list[Splice]:
    """The splices that remove and remap members, then one that adds.

    What lies between two members goes with the one before it, so that a member taken off the end leaves no trace.
    """
    begin, end = span
    if not weight_map:
        return [(begin + 1, end - 1, _members_of_empty(raw, edit.add))] if edit.add else []
    lead, colon, last_end = _last_member(raw, begin, end)
    added = _added(raw, edit.add, lead, colon)
    if edit.remove and len(edit.remove) == len(weight_map):
        text = added.removeprefix(b"," + lead)
        return [(skip_blank(raw, begin + 1), last_end, text)] if text else [(begin, end, b"{}")]
    idle = sum(1 for _ in takewhile(edit.remove.__contains__, reversed(weight_map)))  # removed members at the end
    kept = len(weight_map) - idle
    quoted = _quoter(raw)
    splices: list[Splice] = []
    for place, name, member in _find_members(raw, span, weight_map, edit.remove | edit.remap.keys()):
        if place == kept:
            cut = raw.rindex(b'"', begin, member.start()) + 1  # where the last member that stays ends
            return [*splices, (cut, last_end, added)]
        if name in edit.remap:
            splices.append((*member.span(3), quoted(edit.remap[name])))
        else:
            splices.append((*member.span(), b""))
    return [*splices, (last_end, last_end, added)]


def _find_members(
    raw: bytes, span: Span, weight_map: Mapping[str, str], wanted: AbstractSet[str]
) -> Iterator[tuple[int, str, re.Match[bytes]]]:
    """The `wanted` members of the weight map's text, in its order: place, name, and match.

    Without a backslash every quote is structural, and a member has four: the key of member n is the string that follows 4 n
    quotes.  So the places are found by byte searches, and only the wanted members are taken apart.
    """
    if not wanted:
        return
    begin, end = span
    if raw.find(b"\\", begin, end) >= 0:
        for place, (name, match) in enumerate(zip(weight_map, _MEMBER.finditer(raw, begin, end - 1), strict=True)):
            if name in wanted:
                yield place, name, match
        return
    at, passed = begin, 0
    for place, name in enumerate(weight_map):
        if name not in wanted:
            continue
        key = b'"%b"' % name.encode()
        found = raw.index(key, at, end)
        while (passed := passed + raw.count(b'"', at, found)) != 4 * place:
            at, passed = found + 1, passed + 1  # a value of that text, or what lies between two strings
            found = raw.index(key, at, end)
        at = found
        member = _MEMBER.match(raw, at, end - 1)
        assert member is not None  # the text was parsed before
        yield place, name, member


def _last_member(raw: bytes, begin: int, end: int) -> tuple[bytes, bytes, int]:
    """The blanks before the last member's key, the text between its key and value, and where it ends."""
    if raw.find(b"\\", begin, end) >= 0:
        *_, last = _MEMBER.finditer(raw, begin + 1, end - 1)
        key_open, colon, close = last.start(), last[2], last.end(3)
    else:
        close = raw.rfind(b'"', begin, end) + 1
        value_open = raw.rfind(b'"', begin, close - 1)
        key_close = raw.rfind(b'"', begin, value_open)
        key_open = raw.rfind(b'"', begin, key_close)
        colon = raw[key_close + 1 : value_open]
    lead_start = key_open
    while raw[lead_start - 1] in _BLANK:
        lead_start -= 1
    return raw[lead_start:key_open], colon, close


def _members_of_empty(raw: bytes, add: Mapping[str, str]) -> bytes:
    """The inside of a weight map that had none: indented by two as transformers does, when the text has lines."""
    lead, colon, closing = (b"\n    ", b": ", b"\n  ") if b"\n" in raw.strip() else (b"", b": ", b"")
    return _added(raw, add, lead, colon).removeprefix(b",") + closing


def _added(raw: bytes, add: Mapping[str, str], lead: bytes, colon: bytes) -> bytes:
    quoted = _quoter(raw)
    shards = {shard: quoted(shard) for shard in set(add.values())}
    return b"".join(b"," + lead + quoted(name) + colon + shards[shard] for name, shard in add.items())


def _splice_metadata(
    raw: bytes, span: Span | None, metadata: dict[str, Any] | None, change: Mapping[str, int]
) -> list[Splice]:
    wanted = {key: value for key, value in change.items() if (metadata or {}).get(key) != value}
    if not wanted:
        return []
    if metadata is None:
        return [_whole_metadata(raw, span, wanted)]
    assert span is not None  # metadata was read from it
    spans = dict(_members(raw, span[0]))
    splices = [(*spans[key], str(value).encode()) for key, value in wanted.items() if key in spans]
    new = {key: value for key, value in wanted.items() if key not in spans}
    if new:
        splices.append(_append_metadata(raw, span, spans, new))
    return splices


def _append_metadata(raw: bytes, span: Span, spans: Mapping[str, Span], new: Mapping[str, int]) -> Splice:
    quoted = _quoter(raw)
    if not spans:
        body = b", ".join(quoted(key) + b": " + str(value).encode() for key, value in new.items())
        return span[0] + 1, span[1] - 1, body
    first = skip_blank(raw, span[0] + 1)
    lead = raw[span[0] + 1 : first]
    last = max(end for _, end in spans.values())
    text = b"".join(b"," + lead + quoted(key) + b": " + str(value).encode() for key, value in new.items())
    return last, last, text


def _whole_metadata(raw: bytes, span: Span | None, wanted: Mapping[str, int]) -> Splice:
    """A ``metadata`` object where there was none (or null)."""
    start = skip_blank(raw, 0)
    first = skip_blank(raw, start + 1)
    lead = raw[start + 1 : first]
    inner = lead + lead.lstrip(b"\r\n") if b"\n" in lead else b""
    quoted = _quoter(raw)
    body = b",".join(inner + quoted(key) + b": " + str(value).encode() for key, value in wanted.items())
    value = b"{" + body + (lead if inner else b"") + b"}"
    if span is not None:
        return *span, value
    return first, first, b'"metadata": ' + value + b"," + lead


def _apply(raw: bytes, splices: list[Splice]) -> bytes:
    view, at = memoryview(raw), 0
    pieces: list[bytes | memoryview] = []
    for begin, end, text in splices:
        pieces += [view[at:begin], text]
        at = end
    return b"".join([*pieces, view[at:]])


def _quoter(raw: bytes) -> Callable[[str], bytes]:
    """What writes a string as JSON: in ASCII when the surrounding text is ASCII."""
    encode = json.JSONEncoder(ensure_ascii=raw.isascii()).encode
    return lambda text: encode(text).encode()
