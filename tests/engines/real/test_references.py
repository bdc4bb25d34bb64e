"""The directories that the others are judged by hold the checkpoint's values, parameter by parameter.

An engine concatenates tensors along their first dimension and does nothing else with unquantised weights.  So each
parameter's digest must be that of one tensor, or of one of the concatenations that the engines are known for.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch

from tests.engines.real.conftest import Ran
from tests.engines.real.judging import SHARED
from tests.engines.real.matrix import ENGINES, REFERENCES
from tests.engines.real.variants import BY_BASE
from tests.support.checkpoints import Tensor

pytestmark = pytest.mark.engines

DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}
FUSED = (
    ("gate_proj", "up_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("q_proj", "k_proj", "v_proj"),
    ("indexer.wk", "indexer.weights_proj"),
)


def digest(*parts: Tensor) -> str:
    """Of the tensors one behind the other, as the runners make it of a parameter."""
    values = (torch.frombuffer(bytearray(part.data), dtype=DTYPES[part.dtype]).half() for part in parts)
    return hashlib.sha256(b"".join(value.view(torch.uint8).numpy().tobytes() for value in values)).hexdigest()[:12]


def possible_digests(tensors: Iterable[Tensor]) -> Iterator[str]:
    """Of every tensor, and of everything that engines make of several."""
    held = {tensor.name: tensor for tensor in tensors}
    experts: dict[str, dict[int, str]] = defaultdict(dict)
    for name, tensor in held.items():
        yield digest(tensor)
        for first, *others in FUSED:
            if f".{first}." in name and all(name.replace(first, other) in held for other in others):
                yield digest(tensor, *(held[name.replace(first, other)] for other in others))
        if found := re.fullmatch(r"(.*\.experts\.)(\d+)\.up_proj\.weight", name):
            experts[found[1]][int(found[2])] = name
    for prefix, numbered in experts.items():
        routed = [numbered[number] for number in sorted(numbered)]
        shared = f"{prefix.removesuffix('experts.')}shared_experts.up_proj.weight"
        for ups in (routed, [*routed, shared] if shared in held else routed):  # SGLang may append the shared expert
            yield digest(*(held[up.replace("up_proj", part)] for up in ups for part in ("gate_proj", "up_proj")))
            yield digest(*(held[up.replace("up_proj", "down_proj")] for up in ups))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", [family for family, scheme in BY_BASE if scheme == "bf16"])
def test_every_parameter_of_a_good_directory_holds_the_checkpoints_values(
    ran: Callable[[str, str], Ran], family: str, engine: str
) -> None:
    base = ran(family, "bf16")
    case = base.cases["draft in the keys of transformers"]
    tree = case.tree

    outcome = base.happened[engine][case.folder]

    possible = set(possible_digests(tensor for shard in tree.shards for tensor in tree.tensors(shard)))
    for part in ("target", "draft"):
        values = {
            name: value
            for name, value in outcome[part]["values"].items()
            if part == "target" or not any(shared in name for shared in SHARED)
        }
        assert [name for name, value in values.items() if value not in possible] == []
        assert len(values) > 10


@pytest.mark.parametrize(("family", "scheme"), BY_BASE)
def test_vllm_loads_every_reference(ran: Callable[[str, str], Ran], family: str, scheme: str) -> None:
    # Else a directory that loads has nothing to be compared with, and counts as wrong.
    did = ran(family, scheme).real["vllm"]

    assert {name: (did[name].target, did[name].draft) for name in REFERENCES[scheme]} == dict.fromkeys(
        REFERENCES[scheme], ("ok", "ok")
    )
