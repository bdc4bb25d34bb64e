"""Declarations: rules that need the small files, the names of files and the command line alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from overlay.engines.families import Family
from overlay.engines.files import natural_key
from overlay.engines.inventory import EXPERTS, needs_of
from overlay.engines.layers import Seen
from overlay.engines.matching import Matcher
from overlay.engines.remarks import Remark, remark
from overlay.engines.subject import Subject
from overlay.engines.versions import SINCE, Engine
from overlay.formats.model_config import CONFIG_NAME
from overlay.formats.names import INDEX_NAME, SHARD_SUFFIX
from overlay.formats.quant_config import QUANT_CONFIG_NAME
from overlay.formats.weight_schemes import WeightScheme

_WORDS: Final = ("eagle-", "eagle3", "dflash", "dspark")
"""Parts of a path by which vLLM tells drafts (`config/speculative.py:1433-1468`)."""
_NUMBERED: Final = re.compile(r"(.*layers\.)(\d{1,6})")
_SERVING: Final = ("vllm", "sglang")


def check_names(engine: Engine, subject: Subject) -> Iterator[Remark]:
    """What names of files and folders do."""
    backups = [name for name in subject.names if name.endswith(QUANT_CONFIG_NAME)]
    if engine.name in _SERVING and len(backups) > 1:
        declared = subject.quantization[1] == CONFIG_NAME or engine.name == "vllm"  # vLLM reads the file by its name
        text = "the engine does not look for others here" if declared else "ValueError"
        message = f"expected one file that ends so, found {', '.join(backups)} ({text})"
        yield remark("ENG003", QUANT_CONFIG_NAME, message, "none" if declared else "refuses")
    if engine.name != "vllm":
        return
    words = [word for word in _WORDS if word in subject.path.lower()]
    if words:
        message = f"expected a path without {', '.join(words)}, which override the method of speculation"
        yield remark("ENG006", subject.label, message, "wrong", "draft")
    if subject.config is not None and not {"dtype", "torch_dtype"} & subject.scope.keys():
        yield remark("ENG004", CONFIG_NAME, "expected dtype, found none; vLLM infers it from all headers", "none")
    if subject.scope.get("tie_word_embeddings") is True and engine.has("unties by any shard"):
        listed = subject.listed
        for name in subject.top_shards:
            if subject.weight_map is not None and name not in listed and _has_head(subject, name):
                yield remark("ENG005", name, "found lm_head.weight in a shard that is not listed; vLLM unties", "none")


def check_map(engine: Engine, subject: Subject, seen: Seen, opened: tuple[str, ...], order: str) -> Iterator[Remark]:
    """What the index says against the files that are opened; strays, orphans, phantoms and copies."""
    mapped = subject.weight_map
    yield from _copies(engine, subject, seen, order)
    if mapped is None:
        return
    listed = subject.listed
    for name in subject.top_shards:
        if name not in listed and name not in opened and name in subject.headers:
            yield remark("IDX010", name, "the index does not name this shard; it is not opened", "none")
    globbing = engine.name in ("llama.cpp", "mlx")
    if engine.name == "mlx" or not seen.differs_from(mapped):
        return
    phantoms = [name for name in mapped if name not in seen.names and mapped[name] in opened]
    if phantoms:
        message = f"expected it in {mapped[phantoms[0]]}, found it in no opened file ({len(phantoms)} such tensors)"
        yield remark("IDX004", INDEX_NAME, message, "refuses" if globbing else "none", tensor=phantoms[0])
    orphans = seen.names - mapped.keys()
    if orphans:
        message = f"found it in an opened file, and not in the index; it is loaded ({len(orphans)} such tensors)"
        yield remark("IDX005", INDEX_NAME, message, "none", tensor=min(orphans))


def _copies(engine: Engine, subject: Subject, seen: Seen, order: str) -> Iterator[Remark]:
    """Tensors in several opened files: the last one wins, whatever the index says."""
    trunk = subject.number("num_hidden_layers")
    for name, holders in list(seen.duplicates.items())[:_MOST]:
        same = len({subject.identities.get(holder, holder) for holder in holders}) == 1
        mapped = (subject.weight_map or {}).get(name)
        is_draft = trunk is not None and name.startswith(f"{seen.stack}{trunk}.")
        shapes = {(subject.headers[holder][name].dtype, subject.headers[holder][name].shape) for holder in holders}
        effect = "none" if same or mapped in (holders[-1], None) else "wrong"
        if len(shapes) > 1 and engine.name in _SERVING:
            effect = "refuses"
        message = (
            f"found it in {', '.join(holders)}; {holders[-1]} wins (order: {order}), the index maps it to {mapped}"
        )
        yield remark("IDX007", holders[-1], message, effect, "draft" if is_draft else "target", tensor=name)
        if not same and max(holders, key=natural_key) != max(holders):
            last = f"{max(holders, key=natural_key)} by number, {max(holders)} as text"
            yield remark("ENG002", holders[-1], f"expected one order of names, found {last} last", "none", tensor=name)


_MOST: Final = 50
"""Copies, or entries, that get a remark each."""


def check_layers(engine: Engine, subject: Subject, seen: Seen) -> Iterator[Remark]:
    """Layers past the trunk that the target's loader meets."""
    trunk = subject.number("num_hidden_layers")
    if trunk is None or engine.name != "vllm":
        return
    beyond = sorted(number for number in seen.layers if number >= trunk + subject.draft_layers)
    if beyond:
        first = beyond[0]
        message = (
            f"expected no layer past {trunk + subject.draft_layers - 1}, found {first} (KeyError: layers.{first}.…)"
        )
        key = subject.draft_key or "num_nextn_predict_layers"
        yield remark("MTP002", CONFIG_NAME, message, "refuses", "target", key=key)


def check_declarations(engine: Engine, subject: Subject, seen: Seen, matcher: Matcher) -> Iterator[Remark]:
    """What is declared of the quantisation, in itself and against what the release can do."""
    if engine.name not in _SERVING:
        return
    yield from _compare_files(subject)
    if matcher.problem:
        message = f"expected a declaration that lint knows, found: {matcher.problem}"
        yield remark("ENG022", subject.quantization[1], message, "none", key="quantization_config")
    if engine.name == "vllm" and matcher.method == "modelopt":
        yield from _side_effects(subject, seen, matcher)


def _compare_files(subject: Subject) -> Iterator[Remark]:
    declared = subject.scope.get("quantization_config")
    inner = (subject.hf_quant or {}).get("quantization")
    if not isinstance(declared, dict) or not isinstance(inner, dict):
        return
    lists = [_listed(declared, ("ignore", "exclude_modules")), _listed(inner, ("exclude_modules", "ignore"))]
    if lists[0] != lists[1]:
        only = sorted(lists[0] ^ lists[1])
        message = f"expected the list of config.json, found {len(only)} entries in one of the two, such as {only[0]}"
        yield remark("QNT005", QUANT_CONFIG_NAME, message, "none", key="quantization.exclude_modules")
    algorithms = declared.get("quant_algo"), inner.get("quant_algo")
    if None not in algorithms and algorithms[0] != algorithms[1]:
        message = f"expected {algorithms[0]} as in config.json, found {algorithms[1]}"
        yield remark("QNT005", QUANT_CONFIG_NAME, message, "none", key="quantization.quant_algo")


def _listed(value: dict[str, Any], keys: tuple[str, ...]) -> set[str]:
    found: list[Any] = next((value[key] for key in keys if isinstance(value.get(key), list)), [])
    return {entry for entry in found if isinstance(entry, str)}


def _side_effects(subject: Subject, seen: Seen, matcher: Matcher) -> Iterator[Remark]:
    longer: dict[str, list[int]] = {}
    for number in seen.layers:
        for end in range(1, len(str(number))):
            longer.setdefault(str(number)[:end], []).append(number)
    said = 0
    for entry in dict.fromkeys(matcher.rules.ignore) if matcher.rules is not None else ():
        match = _NUMBERED.fullmatch(entry)
        if match is None:
            continue
        others = longer.get(match[2])
        if others and (said := said + 1) <= _MOST:
            found = f"{len(others)} others: {min(others)} …"
            message = f"expected layer {match[2]} alone, found that {entry} also describes {found}"
            yield remark("QNT015", subject.quantization[1], message, "none", key=entry)


def check_sizes(engine: Engine, subject: Subject, family: Family, matcher: Matcher) -> Iterator[Remark]:
    """What a release cannot do with the scheme of the experts, and sizes that ranks and groups do not divide."""
    layer = max((subject.number("num_hidden_layers") or 1) - 1, 0)
    needs = needs_of(subject, family, layer, draft=False)
    if engine.name not in _SERVING or needs is None or not matcher.understood:
        return
    prefix = f"model.layers.{layer}."
    experts = matcher.decide_experts(f"{prefix}{EXPERTS}", tuple(needs.projections)).scheme if needs.experts else None
    if experts is not None and experts.format == "pack-quantized" and not experts.symmetric:
        least = SINCE["has zero points of experts"][engine.name]
        if not engine.has("has zero points of experts"):
            message = f"expected {engine.name} >= {least} for experts with zero points, found {engine.version}"
            yield remark("QNT011", CONFIG_NAME, message, "refuses", key="quantization_config")
    slots = {f"{EXPERTS}.*.{name}": (slot, experts) for name, slot in needs.projections.items()}
    slots |= {
        path: (slot, matcher.decide(f"{prefix}{path}").scheme)
        for path, slot in needs.slots.items()
        if slot.role == "linear"
    }
    for path, (slot, scheme) in slots.items():
        if scheme is not None and (
            problem := _indivisible(path, slot.outputs, slot.inputs, scheme, subject.tensor_parallel)
        ):
            yield remark("QNT012", CONFIG_NAME, problem, "refuses", tensor=f"{prefix}{path}")


def _indivisible(path: str, outputs: int, inputs: int, scheme: WeightScheme, ranks: int) -> str | None:
    """Why a weight [outputs, inputs] cannot be cut for `ranks`: along inputs where rows are summed, else along outputs."""
    by_input = path.endswith(("down_proj", "o_proj"))
    replicated = path.endswith(("q_a_proj", "kv_a_proj_with_mqa")) or "indexer" in path
    parts = 1 if replicated else ranks
    cut_inputs = inputs / parts if by_input else inputs
    cut_outputs = outputs if by_input else outputs / parts
    group = scheme.group_size or 1
    if cut_inputs % group:
        return f"expected {inputs} inputs on {parts} ranks to divide by groups of {group}, found {cut_inputs:g} a rank"
    if scheme.format == "pack-quantized" and not scheme.symmetric and cut_outputs % (32 // scheme.bits):
        return f"expected {outputs} outputs on {parts} ranks to divide by {32 // scheme.bits}, found {cut_outputs:g} a rank"
    if cut_outputs % 1:
        return f"expected {outputs} outputs to divide by {parts} ranks, found {cut_outputs:g}"
    return None


def check_headers(engine: Engine, subject: Subject, opened: tuple[str, ...]) -> Iterator[Remark]:
    """What headers say besides tensors."""
    if engine.name in _SERVING:
        for name in opened:
            if subject.headers[name].metadata == {}:
                yield remark("ENG001", name, 'expected {"format": "pt"} as __metadata__, found {}', "none")


def _has_head(subject: Subject, name: str) -> bool:
    header = subject.headers.get(name)
    return (
        name.endswith(SHARD_SUFFIX) and header is not None and any(t.endswith("lm_head.weight") for t in header.names)
    )
