"""The part of a model card that publishing writes: what the repository is, what it is not, and how that can be proved.

Every figure is counted from the lock or the shards themselves.  Texts of the manifest go in as they are, except for what
would end a comment or a cell of a table.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from overlay.core.publishing import (
    LOCK_NAME,
    NO_INDEX,
    REPORT_NAME,
    Mode,
    Repository,
    base_files,
    foreign_shards,
    is_address,
    named_files,
    result_names,
)
from overlay.formats.dtypes import count_bytes
from overlay.formats.lock import Lock, LockedTensor
from overlay.formats.names import CARD_NAME, REPOSITORY_MANIFEST
from overlay.formats.references import HubReference, parse_reference
from overlay.report.text import in_bytes

_WEB: Final = "https://huggingface.co"
_MAX_ROWS: Final = 200
"""Files with their digests; the lock has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A base or donor, as the card names it."""

    name: str
    reference: str
    repo: str
    """``org/name``; "" where it is not on the Hub."""
    commit: str
    licence: str
    """As its card states it; "" for none."""

    @property
    def link(self) -> str:
        """Markdown that leads to the commit."""
        if not self.repo:
            return f"`{self.reference}`"
        return f"[{self.repo}]({_WEB}/{self.repo}/tree/{self.commit or 'main'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the card tells."""

    repo: str
    mode: Mode
    repository: Repository
    licence: str
    base: Source | None = None
    donors: Sequence[Source] = ()
    base_front: Mapping[str, Any] = field(default_factory=dict)
    """The front matter of the base's card."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of the card, and what shows that it holds."""

    text: str
    proof: str


def render_part(facts: Facts) -> str:
    """Our part of the card, in Markdown; the same facts give the same text."""
    lock = facts.repository.lock
    assert lock is not None  # the gate lets nothing through without one
    files = [item for name in _listed(facts) if (item := facts.repository.get(name)) is not None]
    return (
        _environment()
        .get_template("card.md")
        .render(
            facts=facts,
            manifest=facts.repository.manifest,
            lock=lock,
            added=_added(lock),
            foreign=len(foreign_shards(facts.repository)),
            files=files[:_MAX_ROWS],
            files_left_out=max(0, len(files) - _MAX_ROWS),
            claims=list(_claims(facts, lock)),
            by_hand=list(by_hand(facts, lock)),
            launches={name: _options(profile.launch) for name, profile in facts.repository.manifest.engines.items()},
            evidence=list(facts.repository.manifest.evidence),
            conversion=REPORT_NAME in facts.repository.files,
            lock_name=LOCK_NAME,
        )
    )


def front_for(facts: Facts) -> dict[str, Any]:
    """Keys of the front matter that publishing sets where no person did.

    ``base_model_relation`` is not among them: the Hub knows adapter, merge, quantized and finetune, and a graft is none.
    """
    whole = facts.mode == "whole"
    front: dict[str, Any] = {}
    if facts.repository.manifest.license:
        front["license"] = facts.repository.manifest.license
        if front["license"] == facts.base_front.get("license"):  # `other` says nothing without these
            front |= {k: facts.base_front[k] for k in ("license_name", "license_link") if k in facts.base_front}
    models = [facts.base] if facts.base is not None else list(facts.donors)
    repos = list(dict.fromkeys(source.repo for source in models if source.repo))
    if repos:
        front["base_model"] = repos[0] if len(repos) == 1 else repos
    front["library_name"] = facts.base_front.get("library_name", "transformers") if whole else "overlay"
    if whole and "pipeline_tag" in facts.base_front:
        front["pipeline_tag"] = facts.base_front["pipeline_tag"]
    front["tags"] = ["overlay"]
    return front


def stub_for(facts: Facts) -> bytes:
    """The text of a card that nobody has written yet."""
    manifest = facts.repository.manifest
    return f"# {_one_line(manifest.name)}\n\n{_one_line(manifest.summary)}\n".encode()


def by_hand(facts: Facts, lock: Lock) -> Iterator[str]:
    """The commands that put base and difference together without this tool; none where links alone are not enough."""
    if facts.mode != "difference" or lock.trims or facts.base is None or not facts.base.repo:
        return
    base = f"{facts.base.repo} --revision {facts.base.commit}" if facts.base.commit else facts.base.repo
    yield f"base=$(hf download --quiet {base})"
    yield f"diff=$(hf download --quiet {facts.repo})"
    yield 'cp -rs "$base" DIR'
    for path, name in sorted(base_files(facts.repository).items()):
        if path != name:
            yield f"mv DIR/{shlex.quote(name)} DIR/{shlex.quote(path)}"
    for name, change in sorted(facts.repository.manifest.files.items()):
        if change.remove:
            yield f"rm DIR/{shlex.quote(name)}"
    yield 'cp -rs --remove-destination "$diff"/. DIR'


def _listed(facts: Facts) -> list[str]:
    own = [*result_names(facts.repository), *named_files(facts.repository.manifest)]
    return sorted({name for name in own if name not in (CARD_NAME, REPOSITORY_MANIFEST, LOCK_NAME)})


def _added(lock: Lock) -> dict[str, int]:
    tensors = [tensor for graft in lock.grafts.values() for tensor in graft.tensors.values()]
    data = sum(count_bytes(tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
    return {"tensors": len(tensors), "shards": len(lock.grafts), "bytes": data}


def _claims(facts: Facts, lock: Lock) -> Iterator[Claim]:
    """What the lock lets anybody check, in words that ``overlay audit`` understands."""
    tensors = [tensor for graft in lock.grafts.values() for tensor in graft.tensors.values()]
    headers = "headers of the shards below; `overlay verify COPY`"
    if tensors:
        text = f"{len(tensors):,} tensors, by dtype {_dtypes(tensors)}, in {_count(len(lock.grafts), 'new shard')}"
        yield Claim(text, headers)
    made = (
        "file and byte range, or steps and inputs, of each in the lock; `overlay verify COPY --level content --donors`"
    )
    for source in facts.donors:
        theirs = [graft for graft in lock.grafts.values() if graft.donor == source.name]
        copied = all(tensor.file is not None for graft in theirs for tensor in graft.tensors.values())
        if theirs:
            yield Claim(f"all {'copied unchanged' if copied else 'made'} from {source.link}", made)
    if lock.base is not None:
        kept = (
            f"{_count(len(lock.trims), 'shard')} of the base rewritten, without what is left out"
            if lock.trims
            else ("no byte of the base's shards is another one")
        )
        yield Claim(kept, f"`overlay audit hf://{facts.repo} --against {_pinned(facts)}`")
    result = lock.result
    text = f"in all {result.tensors:,} tensors in {_count(result.shards, 'shard')}, total_size {result.total_size}"
    proof = f"index sha256 `{result.index_sha256}`" if lock.result.index_sha256 != NO_INDEX else headers
    yield Claim(text, proof)


def _pinned(facts: Facts) -> str:
    base = facts.base
    assert base is not None  # a lock with a base has one
    return str(HubReference(base.repo, base.commit)) if base.repo else base.reference


def _dtypes(tensors: Iterable[LockedTensor]) -> str:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
    return ", ".join(f"{count:,} {dtype}" for dtype, count in sorted(counts.items()))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _options(launch: Mapping[str, Any]) -> str:
    """The manifest's launch options as a command line has them."""
    words: list[str] = []
    for key, value in launch.items():
        if value is False or value is None:
            continue
        words.append(f"--{key}")
        if value is not True:
            words.append(value if isinstance(value, str) else str(value))
    return shlex.join(words)


def source_of(name: str, text: str, commit: str, licence: str) -> Source:
    """A base or donor by its reference in the manifest."""
    parsed = parse_reference(text)
    repo = parsed.repo if isinstance(parsed, HubReference) else ""
    return Source(name=name, reference=text, repo=repo, commit=commit, licence=licence)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("<!--", "&lt;!--").replace("-->", "--&gt;")


def _cell(text: object) -> str:
    """A text inside a table."""
    return _one_line(str(text)).replace("|", "\\|")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("overlay.report"),
        autoescape=False,  # noqa: S701  # Markdown: the Hub sanitises what it renders, and `_cell` keeps the layout
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "in_bytes": in_bytes,
        "count": lambda number: f"{number:,}",
        "cell": _cell,
        "line": _one_line,
    }
    environment.filters.update(filters)
    environment.tests["address"] = is_address
    return environment
