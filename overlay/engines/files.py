"""Files: which shards an engine opens, and in which order.

The index chooses files, never tensors: every tensor of an opened file is loaded, and of two copies the one that is read
last.  Sources: vLLM 0.33 `default_loader.py:147-263`, `weight_utils.py:152-158, 590-616`; SGLang 0.5.23 `loader.py:480-601`,
`weight_utils.py:757-865`; transformers 5.23 `utils/hub.py:962-976`, `modeling_utils.py:591-605`; llama.cpp
`convert_hf_to_gguf.py`, mlx-lm `utils.py`: both glob ``model*.safetensors``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from overlay.engines.remarks import Remark, remark
from overlay.engines.subject import NO_METADATA, Subject
from overlay.engines.versions import Engine
from overlay.formats.names import INDEX_NAME, SINGLE_NAME

CONSOLIDATED: Final = "consolidated*.safetensors"
MTP_NAME: Final = "mtp.safetensors"
_GLM4: Final = (
    "Glm4MoeForCausalLM",
    "Glm4MoeForCausalLMNextN",
    "Glm4MoeLiteForCausalLM",
    "Glm4MoeLiteForCausalLMNextN",
)
"""Architectures for which SGLang adds ``mtp.safetensors`` by itself."""


class Opening(NamedTuple):
    """What an engine opens."""

    files: tuple[str, ...]
    """In the order in which their tensors are read."""
    order: str
    """How that order comes about."""
    remarks: tuple[Remark, ...] = ()


def open_files(engine: Engine, subject: Subject) -> Opening:
    """The shards that `engine` opens, in order, and what it says about the others."""
    if subject.index_broken:
        said = remark("IDX001", INDEX_NAME, "expected a JSON object with a weight map, found none", "refuses")
        return Opening((), "nothing", (said,))
    opening = _OPENING[engine.name](engine, subject)
    opened = [name for name in opening.files if name in subject.headers]
    broken = [
        remark(subject.unreadable[name], name, "expected a shard that can be opened and read", "refuses")
        for name in opening.files
        if name in subject.unreadable
    ]
    return Opening(tuple(opened), opening.order, (*opening.remarks, *broken))


def natural_key(name: str) -> list[tuple[int, str]]:
    """vLLM's order of names: runs of digits by value (`weight_utils.py:152`)."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d{1,18})", name)]


def _values(subject: Subject) -> list[str]:
    return list(subject.listed)


def _vllm(engine: Engine, subject: Subject) -> Opening:
    if mistral := [name for name in (*subject.names, *subject.nested) if _is_consolidated(name)]:
        files = tuple(sorted((name for name in mistral if "/" not in name), key=natural_key))
        message = "found it; vLLM takes the folder for one in Mistral's format and opens nothing else"
        said = [remark("IDX016", name, message, "refuses" if not files else "none") for name in mistral]
        return Opening(files, "natural", tuple(said))
    globbed = subject.top_shards
    if subject.weight_map is None:
        return Opening(tuple(sorted(globbed, key=natural_key)), "natural")
    wanted = _values(subject)
    found = [name for name in wanted if name in globbed]
    refuses = engine.has("refuses missing files")
    said = []
    for name in wanted:
        if name not in globbed and name not in subject.unreadable:
            text = "FileNotFoundError: Weight files referenced in index but missing"
            outcome = f"refuses: {text}" if refuses else "drops it without a word"
            said.append(_unopened(subject, name, outcome, "refuses" if refuses else "none"))
    return Opening(tuple(sorted([*found, *_broken(subject, wanted)], key=natural_key)), "natural", tuple(said))


def _sglang(engine: Engine, subject: Subject) -> Opening:
    order = (
        "lexicographic" if engine.has("sorts files as text") else "that of the folder's listing, which nothing fixes"
    )
    globbed = subject.top_shards
    if subject.weight_map is None:
        pair = set(globbed) == {"consolidated.safetensors", SINGLE_NAME}
        return Opening((SINGLE_NAME,) if pair else tuple(globbed), order)
    wanted = _values(subject)
    said = []
    for name in wanted:
        if name in globbed or name in subject.unreadable:
            continue
        refuses = name not in subject.headers and engine.has("refuses missing files")
        outcome = "refuses: RuntimeError: references shard files missing" if refuses else "drops it without a word"
        said.append(_unopened(subject, name, outcome, "refuses" if refuses else "none"))
    files = [name for name in wanted if name in globbed] + _broken(subject, wanted)
    if MTP_NAME in globbed and MTP_NAME not in files and subject.draft_layers:
        if subject.architecture in _GLM4:
            files.append(MTP_NAME)
        else:
            message = f"SGLang adds it by itself for Glm4Moe only, and this is {subject.architecture or 'unknown'}"
            said.append(remark("ENG008", MTP_NAME, message, "none", "draft"))
    return Opening(tuple(sorted(set(files))), order, tuple(said))


def _transformers(engine: Engine, subject: Subject) -> Opening:
    if SINGLE_NAME in subject.names or SINGLE_NAME in subject.unreadable:
        listed = _values(subject)
        said = []
        if subject.weight_map is not None and listed != [SINGLE_NAME]:
            message = f"found it beside an index of {len(listed)} shards; transformers opens this file alone"
            said.append(remark("IDX015", SINGLE_NAME, message, "none"))
        return Opening((SINGLE_NAME,), "one file", tuple(said))
    if subject.weight_map is None:
        message = f"expected {INDEX_NAME} or {SINGLE_NAME}, found neither"
        return Opening((), "nothing", (remark("IDX013", INDEX_NAME, message, "refuses"),))
    said = []
    if not isinstance(subject.metadata, dict):
        found = "none" if subject.metadata is NO_METADATA else "null"
        text = "KeyError: 'metadata'" if subject.metadata is NO_METADATA else "TypeError"
        said.append(remark("IDX009", INDEX_NAME, f"expected metadata, found {found} ({text})", "refuses"))
    wanted = _values(subject)
    for name in wanted:
        if name not in subject.headers and name not in subject.unreadable:
            said.append(_unopened(subject, name, "refuses: FileNotFoundError", "refuses"))
    return Opening(tuple(wanted), "lexicographic", tuple(said))


def _globbing(engine: Engine, subject: Subject) -> Opening:
    """Loaders that read every file called ``model*.safetensors``, whatever the index says."""
    files = tuple(name for name in subject.top_shards if fnmatchcase(name, "model*.safetensors"))
    if not files:
        return Opening(
            (), "glob", (remark("IDX017", "*", "expected model*.safetensors, found no such file", "refuses"),)
        )
    said = []
    for name in _values(subject):
        if name not in files:
            effect = "refuses" if engine.name == "llama.cpp" else "none"
            outcome = "refuses: its tensors are in the index and not found" if effect == "refuses" else "passes over it"
            code = "IDX017" if name in subject.headers else "IDX003"
            said.append(remark(code, name, f"expected a file called model*.safetensors; {outcome}", effect))
    return Opening(files, "lexicographic", tuple(said))


_OPENING: Final[dict[str, Callable[[Engine, Subject], Opening]]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "transformers": _transformers,
    "llama.cpp": _globbing,
    "mlx": _globbing,
}


def _unopened(subject: Subject, name: str, outcome: str, effect: str) -> Remark:
    """An entry of the index that is no file at the top; `outcome` is what the engine does then."""
    if "/" in name:
        return remark("IDX002", name, f"expected a bare file name in the index, found a path; it {outcome}", effect)
    code = "ENG007" if subject.difference else "IDX003"
    found = "a repository that holds only a difference" if subject.difference else "none"
    return remark(code, name, f"expected a file of this name, found {found}; it {outcome}", effect)


def _broken(subject: Subject, wanted: Iterable[str]) -> list[str]:
    return [name for name in wanted if name in subject.unreadable]


def _is_consolidated(name: str) -> bool:
    return fnmatchcase(name.rpartition("/")[2], CONSOLIDATED)
