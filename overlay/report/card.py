"""The part of a model card that publishing writes: what the repository is, what it is not, and how that can be proved.

Every figure is counted from the lock or the shards themselves.  Texts of the manifest go in as they are, except for what
would end a comment or a cell of a table.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from overlay.core.publishing import (
    CARD,
    LOCK_NAME,
    REPORT_NAME,
    Mode,
    Repository,
    base_files,
    is_address,
    named_files,
    result_names,
)
from overlay.formats.lock import Lock, LockedGraft
from overlay.formats.names import REPOSITORY_MANIFEST
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
            taken=len(base_files(facts.repository)),
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
    return sorted({name for name in own if name not in (CARD, REPOSITORY_MANIFEST, LOCK_NAME)})


def _added(lock: Lock) -> dict[str, int]:
    tensors = [tensor for graft in lock.grafts.values() for tensor in graft.tensors.values()]
    sizes = sum(graft.size for graft in lock.grafts.values())
    return {"tensors": len(tensors), "shards": len(lock.grafts), "file_bytes": sizes}


def _claims(facts: Facts, lock: Lock) -> Iterator[Claim]:
    """What the lock lets anybody check."""
    manifest = facts.repository.manifest
    verify = f"`overlay verify hf://{facts.repo} --level content`"
    for name, graft in sorted(lock.grafts.items()):
        dtypes = ", ".join(f"{count:,} {dtype}" for dtype, count in _dtypes(graft).items())
        yield Claim(f"`{name}` holds {len(graft.tensors):,} tensors ({dtypes})", f"its header; {verify}")
        copied = sum(tensor.file is not None for tensor in graft.tensors.values())
        donor = manifest.donors.get(graft.donor, graft.donor)
        if copied and donor != ".":
            text = f"{copied:,} of them are copied byte for byte from {donor}"
            yield Claim(text, f"file and byte range of each in `{LOCK_NAME}`; {verify[:-1]} --donors`")
        if len(graft.tensors) > copied and donor != ".":
            text = f"{len(graft.tensors) - copied:,} of them are computed from {donor}"
            yield Claim(text, f"steps and inputs of each in `{LOCK_NAME}`; {verify[:-1]} --donors`")
    if lock.base is not None:
        kept = "no byte of the base's shards is changed"
        if lock.trims:
            kept = f"of the base's shards {len(lock.trims)} are written anew, without tensors that are left out"
        yield Claim(kept, f"`overlay audit hf://{facts.repo} --against {_pinned(facts)}`")
    result = lock.result
    text = f"the result has {result.tensors:,} tensors in {result.shards:,} shards, total_size {result.total_size}"
    yield Claim(text, f"index sha256 `{result.index_sha256}`")


def _pinned(facts: Facts) -> str:
    base = facts.base
    assert base is not None  # a lock with a base has one
    return str(HubReference(base.repo, base.commit)) if base.repo else base.reference


def _dtypes(graft: LockedGraft) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in graft.tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
    return dict(sorted(counts.items()))


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
