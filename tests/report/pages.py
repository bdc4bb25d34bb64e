"""Views to render, and a reader of the page that they become."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from itertools import count
from typing import Any

from overlay.core.checkpoint import Checkpoint, FileSeen, Fingerprint, Shard
from overlay.core.diffing import diff
from overlay.core.view import View
from overlay.demo.layout import FULL_SIZE, Geometry, base_layout, mtp_tensors
from overlay.formats.dtypes import count_bytes
from overlay.formats.header import Header

Spec = tuple[str, str, tuple[int, ...]]
"""Name, dtype, shape."""

_INODES = count(1)


def shard(name: str, tensors: Iterable[Spec]) -> Shard:
    """A shard that lies in no file, with a header that a reader of files would give."""
    entries = list(tensors)
    names, dtypes, shapes = ([entry[at] for entry in entries] for at in range(3))
    ends, end = array("Q"), 0
    for _, dtype, shape in entries:
        end += count_bytes(dtype, shape)
        ends.append(end)
    digest = sha256(repr(entries).encode("utf-8", "surrogatepass")).hexdigest()
    header = Header(names, dtypes, shapes, ends, None, 8, digest)
    return Shard(FileSeen(name, f"/nowhere/{name}", Fingerprint(1, next(_INODES), end + 8, 0, 0)), header)


def checkpoint(label: str, shards: Mapping[str, Iterable[Spec]]) -> Checkpoint:
    """A checkpoint without index and sidecars."""
    seen = {name: shard(name, tensors) for name, tensors in shards.items()}
    return Checkpoint(label=label, root="/nowhere", index=None, index_file=None, shards=seen)


def view_of(old: Mapping[str, Iterable[Spec]], new: Mapping[str, Iterable[Spec]], **more: Any) -> View:
    """A diff of two checkpoints, called ``old`` and ``new`` unless said otherwise."""
    labels = more.pop("labels", ("old", "new"))
    difference = diff(checkpoint(labels[0], old), checkpoint(labels[1], new))
    return View(**{"kind": "diff", "difference": difference, **more})


def base_shards(geometry: Geometry = FULL_SIZE) -> dict[str, list[Spec]]:
    """The base of the founding case: 232,296 tensors at full size."""
    files = base_layout(geometry).files
    return {name: [(t.name, t.dtype, t.shape) for t in tensors] for name, tensors in files.items()}


def graft_shards(geometry: Geometry = FULL_SIZE) -> dict[str, list[Spec]]:
    """What the founding case adds: layer 78."""
    return {"model-00046-of-00046.safetensors": [(t.name, t.dtype, t.shape) for t in mtp_tensors(geometry)]}


def founding_case(geometry: Geometry = FULL_SIZE, **more: Any) -> View:
    """The audit of base and graft against the base."""
    base = base_shards(geometry)
    return view_of(base, {**base, **graft_shards(geometry)}, **{"kind": "audit", **more})


_VOID = {"meta", "input", "col", "br", "link", "img"}


@dataclass
class Element:
    """An element of a page, with everything in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    """Its own text and that of its children, in the order of the page."""

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """The elements in it of this tag, with these attributes; ``class_`` is one of the classes."""
        wanted = dict(attributes)
        of_class = wanted.pop("class_", "")
        found = []
        for child in self.children:
            fits = child.tag == tag or not tag
            fits = fits and all(child.attributes.get(name) == value for name, value in wanted.items())
            if fits and (not of_class or of_class in child.attributes.get("class", "").split()):
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> Element:
        """The only such element."""
        (element,) = self.all(tag, **attributes)
        return element


class _Reader(HTMLParser):
    """Reads a page, and refuses what is not nested as it should be."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open[-1].tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.pieces.append(data)


def read_page(page: str) -> Element:
    """The page's elements; it must be well-formed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].tag}> is never ended"
    return reader.root
