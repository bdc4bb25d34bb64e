"""Carding: put our part into a model card, and leave what a person wrote as it is.

Our part of the text stands between two comments, and is replaced as a whole.  The first comment also notes which values of
the front matter are ours, and the digest of the text around our part, so that a later publish can tell which of two
copies of the card was edited since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from overlay.formats.digest import sha256_of

Front = Mapping[str, Any]
"""Key of the front matter to its value."""

_BEGIN: Final = "<!-- overlay:begin"
_END: Final = "<!-- overlay:end -->"
_PART = re.compile(rf"{_BEGIN}(?P<note>[^\n]*)-->\n.*?{_END}\n?", re.DOTALL)
_FRONT = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(?P<front>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_LINES: Final = "Written by overlay publish; edit what stands outside of these two comments."


class CardProblem(ValueError):
    """The front matter of a card is no YAML mapping, or has aliases."""


@dataclass(frozen=True, slots=True)
class Card:
    """A model card, taken apart."""

    front: str
    """The text of the front matter, without its fences."""
    before: str
    """A person's text in front of our part, or all of it where there is no such part."""
    after: str
    note: Mapping[str, Any]
    """What we wrote down last time; empty where there is no part of ours."""

    @property
    def own(self) -> str:
        """A person's text, blank lines around our part left out."""
        return "\n\n".join(filter(None, (self.before.strip(), self.after.strip())))

    @property
    def person(self) -> str:
        """Digest of what a person wrote: the text, and the front matter without the values that are ours."""
        try:
            present = _parsed(self.front)
        except CardProblem:
            return sha256_of(f"{self.front}\n---\n{self.own}".encode())
        kept = {key: value for key, value in present.items() if key not in self.stale}
        return sha256_of(json.dumps([self.own, _plain(kept)], sort_keys=True).encode())

    @property
    def stale(self) -> set[str]:
        """Keys of the front matter that are ours, and that nobody changed."""
        ours = self.note.get("front")
        try:
            present = _parsed(self.front)
        except CardProblem:
            return set()
        if not isinstance(ours, dict):
            return set()
        return {key for key in ours if key in present and _plain(present[key]) == ours[key]}

    @property
    def edited(self) -> bool | None:
        """Whether a person changed the text since our part was written; None where that cannot be told."""
        return None if "person" not in self.note else self.note["person"] != self.person


def take_apart(data: bytes) -> Card:
    """The parts of the card `data`; never fails."""
    text = data.decode(errors="replace").replace("\r\n", "\n")
    head = _FRONT.match(text)
    front, body = (head["front"], text[head.end() :]) if head else ("", text.removeprefix("\ufeff"))
    part = _PART.search(body)
    if part is None:
        return Card(front, body, "", {})
    return Card(front, body[: part.start()], body[part.end() :], _noted(part["note"]))


def choose(local: bytes, remote: bytes) -> tuple[bytes, str]:
    """The card to go on with, of the folder's and the repository's, and what to tell about the other one; "" for nothing.

    The one that was edited since they were the same; the repository's where both were, or where nobody can tell, because
    nothing else would bring its text back.
    """
    here, there = take_apart(local), take_apart(remote)
    if not there.own and not there.front.strip():
        return local, ""
    if not here.own or here.person in (there.person, there.note.get("folder")):
        return remote, ""
    if there.edited is False:
        return local, ""
    return remote, "README.md: the repository's own text is kept; what the folder's says otherwise is not taken"


def merge(card: bytes, part: str, front: Front, folder: bytes = b"") -> bytes:
    """`card` with `part` in the place of our part, or at its end, and with the keys of `front` that no person wrote.

    `folder` is the card on this machine, which may be another one: what it says now is no news next time.

    Raises:
        CardProblem: the front matter of `card` is no YAML mapping, or has aliases.
    """
    old = take_apart(card)
    present = _parsed(old.front)
    kept = {key: value for key, value in present.items() if key not in old.stale}
    free = {key: value for key, value in front.items() if key not in kept}
    head = _kept_lines(old.front, old.stale) + _dumped(free)
    if not _says(head, {**kept, **free}):  # flow style, or a layout that lines do not show
        head = _dumped({**kept, **free})
    notes = {"person": old.person, "folder": take_apart(folder or card).person, "front": _plain(free)}
    note = json.dumps(notes, sort_keys=True, ensure_ascii=True)
    note = note.replace("--", "-\\u002d")  # would end the comment
    block = f"{_BEGIN} {note} -->\n<!-- {_LINES} -->\n\n{part.strip()}\n\n{_END}\n"
    body = "\n\n".join(filter(None, (old.before.strip(), block.strip(), old.after.strip())))
    return f"---\n{head}---\n\n{body}\n".encode()


def front_of(card: bytes) -> Front:
    """The front matter of a card, as far as it is YAML."""
    try:
        return _parsed(take_apart(card).front)
    except CardProblem:
        return {}


def _noted(text: str) -> Mapping[str, Any]:
    try:
        note = json.loads(text)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


class _Loader(yaml.SafeLoader):
    """Without aliases, by which a value can hold itself, and a few lines can be written out to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("expected no aliases")
        return super().compose_node(parent, index)


def _plain(value: Any) -> Any:
    """`value` as JSON can say it: keys, dates and bytes become texts."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, set):
        return sorted(str(entry) for entry in value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _parsed(front: str) -> dict[str, Any]:
    try:
        value = yaml.load(front, _Loader) if front.strip() else {}  # noqa: S506  # it is a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CardProblem(" ".join(str(error).split())[:300]) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CardProblem(f"expected a mapping, found {type(value).__name__}")
    return value


def _kept_lines(front: str, keys: set[str]) -> str:
    """The text of a front matter without some top-level keys; comments and order of the others are kept."""
    kept: list[str] = []
    skipping = False
    for line in front.splitlines():
        top = re.match(r"""(["']?)([^\s"'#:][^"':]*)\1\s*:(?=\s|$)""", line)
        if top is not None:
            skipping = top[2] in keys
        elif line.strip() and not line.startswith((" ", "\t", "-")):
            skipping = False
        if not skipping:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _says(front: str, values: Front) -> bool:
    try:
        return _parsed(front) == values
    except CardProblem:
        return False


def _dumped(values: Front) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000) if values else ""
