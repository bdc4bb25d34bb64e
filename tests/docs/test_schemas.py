"""Every document that a command prints is what its schema says, and a schema says nothing that is never printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest

from overlay import api
from overlay.cli.main import cli
from overlay.demo.layout import SCALED_DOWN, base_layout
from overlay.demo.replica import write_dense
from tests.bad_inputs.running import run_here
from tests.bad_inputs.world import build
from tests.docs.pages import DOCS
from tests.docs.schemas import SCHEMAS, listed, objects, problems, used, validator
from tests.engines.tiny import good
from tests.probing.servers import VLLM, serving
from tests.publishing import cases as publishing
from tests.support import small
from tests.support.checkpoints import INDEX, SIDECARS, Checkpoint, Tensor, tensor, write_hub_cache

SUCCESSES = """
init --base world/base --graft world/graft
init --base world/base --graft world/graft -o new.yaml
init --base small/base --derived small/serve -o derived
lock small/small.yaml
lock small/small.yaml --level headers --upgrade
lock whole/whole.yaml
lock converted/small.yaml --level headers
plan small/small.yaml -o planned
plan small/small.yaml -o small/serve
apply small/small.yaml -o applied --dry-run
apply small/small.yaml -o applied
apply small/small.yaml -o applied
apply world/recipe/mtp.yaml -o applied --link copy
build small/small.yaml -o built
publish publishing/built hf://tester/result --dry-run
publish publishing/built hf://tester/result
status applied
history applied
undo applied
verify small/serve --level content
verify small/base
verify small/base --level structure
verify small/small.yaml
verify world/wrong-index --fix fixed.index.json
verify small/base --fix same.index.json
lint hub
lint replica --engine sglang==0.5.23
lint lean --target lean --engine sglang --explain-load
inspect world/graft
inspect replica
inspect small/base
inspect hub
diff small/base small/base
audit small/base
launch small/serve --engine vllm
launch small/serve --engine sglang --manifest small/small.yaml --checksum sums.json
explain
explain MTP001
explain model.layers.0.mlp.gate_proj.weight replica
explain model.layers.0.proj.weight small/serve --lock small/small.yaml
explain model.layers.1.proj.weight small/serve
explain model.layers.1.proj.weight hub
schema
demo demo
"""

FINDINGS = """
publish publishing/unfit hf://tester/result
verify world/damaged
verify world/damaged --fix left.index.json
lint replica
verify small/damaged --level content
diff small/base small/serve --tensors
diff old new --tensors
diff old new --content --tensors
audit new --against old --content --tensors
audit new --against old --claim '3 tensors' --claim '5 BF16 + 1 F32'
audit small/serve --against small/base
status small/modified
undo small/modified
launch small/damaged --engine vllm --exec
"""

FAILURES = """
frobnicate
verify
verify gone
verify hf://org/gone
inspect gone
lint gone
lint replica --engine nosuch
diff gone small/base
audit small/base --against gone
explain NOSUCH
launch gone --engine vllm
probe http://127.0.0.1:9
explain none small/base
init --base gone --graft world/graft
lock world/wrong.yaml
plan world/recipe/mtp.yaml -o world/base/serve
apply world/recipe/mtp.yaml -o gone/serve
apply world/recipe/wrong-count.yaml -o other
build gone.yaml -o built-too
publish gone hf://tester/result
status world/base
history gone
undo small/serve --to 9
schema --gone
demo world
"""


@dataclass(frozen=True)
class Printed:
    """What a command printed."""

    line: str
    code: int
    document: Mapping[str, Any]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[Printed]:
    """Every command line above, carried out one after the other in one folder."""
    root = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("OVERLAY_CACHE", str(root / "cache"))
        patch.setattr(os, "fsync", lambda descriptor: None)
        _write(root)
        with publishing.world(root / "publishing", patch):
            documents = [_run(line) for line in f"{SUCCESSES}{FINDINGS}{FAILURES}".split("\n") if line]
        return [*documents, *_probed(), _explained_conversion()]


def _probed() -> list[Printed]:
    """What probe prints of a server."""
    with serving(VLLM()) as url:
        return [_run(f"probe {url} --sweep 2")]


def _run(line: str) -> Printed:
    said = run_here([*shlex.split(line), "--json"])
    assert 1 == said.out.count("\n"), line
    return Printed(line, said.code, json.loads(said.out))


def _explained_conversion() -> Printed:
    """What explain prints of a computed tensor; to compute one takes the extra ``convert``."""
    trace = api.trace(small.PROJ, "small/serve", lock="small/small.yaml")
    donated = trace.origin.donated
    assert donated is not None
    origin = replace(trace.origin, donated=None, steps=("cast to=F32",), inputs=(donated,))
    document = {"kind": "explain", "format": 1, **replace(trace, origin=origin).document()}
    return Printed("explain CONVERTED", 0, document)


def _write(root: Path) -> None:
    """Checkpoints, manifests and targets: small ones, each good for some part of a document."""
    (root / "world").mkdir()
    _write_world(root / "world")
    write_dense(base_layout(SCALED_DOWN), root / "replica", 1)
    good().write(root / "lean")
    (root / "hub").symlink_to(write_hub_cache(root / "cache-of-hub", small.base()))
    _write_changes(root)
    _write_small(root / "small")
    _write_whole(root / "whole")
    graft = {"shard": small.NEW, "from": "new", "tensors": [small.PROJ], "mode": "replace", "steps": [{"cast": "F32"}]}
    (root / "converted").mkdir()
    small.write(root / "converted", grafts=[graft])


def _write_whole(root: Path) -> None:
    """A manifest that takes a donor's shard as it is."""
    root.mkdir()
    small.base().write(root / "base")
    Checkpoint(shards={"extra.safetensors": [tensor("model.layers.2.extra")]}).write(root / "donor")
    (root / "whole.yaml").write_text(small.manifest(grafts=[{"shard": "extra.safetensors", "from": "new"}], drop=[]))


def _write_world(root: Path) -> None:
    world = build(root)
    for name in ("damaged", "wrong-index"):
        shutil.copytree(world / "base", world / name)
    (world / "damaged/config.json").write_text("{")
    index = json.loads((world / "wrong-index" / INDEX).read_bytes())
    index["metadata"]["total_size"] += 1
    (world / "wrong-index" / INDEX).write_text(json.dumps(index))
    (world / "wrong.yaml").write_text("overlay: 1\nname: x\nbase: base\nfrom: y\nto: z\n")
    text = (world / "recipe/mtp.yaml").read_text()
    (world / "recipe/wrong-count.yaml").write_text(text.replace("tensors: 3", "tensors: 4"))


def _write_small(root: Path) -> None:
    """A locked manifest, what it makes, a target that was another tree before and was edited, and a cut base."""
    root.mkdir()
    path = small.write(root)
    request = api.Request(sources=(str(path),))
    api.apply(request, str(root / "modified"), link="copy")
    api.lock(str(path))
    api.apply(request, str(root / "serve"))
    api.apply(request, str(root / "modified"))
    (root / "modified/config.json").write_text("{}")
    (root / "modified/notes.txt").write_text("mine\n")
    shutil.copytree(root / "base", root / "damaged")
    with (root / "damaged" / small.FIRST).open("ab") as stream:
        stream.write(b"x")


def _write_changes(root: Path) -> None:
    """``old`` and ``new``, which differ in each way that there is."""
    old = [tensor(f"model.layers.{number}.proj.weight", "BF16", (40, 80)) for number in range(7)]
    changed = {
        1: old[1]._replace(dtype="F16"),
        2: old[2]._replace(shape=(80, 40)),
        3: small.other(old[3]),
        4: old[4]._replace(name="model.layers.4.projection.weight"),
        6: tensor("model.layers.9.proj.weight", "BF16", (40, 80)),
    }
    new = [changed.get(number, entry) for number, entry in enumerate(old)]
    card = b"---\nlicense: mit\n---\nAdds 2 tensors.\n"
    _in_shards(old, 6).write(root / "old")
    replace(_in_shards(new, 5), sidecars={**SIDECARS, "config.json": b'{"model_type": "x"}', "README.md": card}).write(
        root / "new"
    )


def _in_shards(tensors: list[Tensor], first: int) -> Checkpoint:
    return Checkpoint(shards={small.FIRST: tensors[:first], small.SECOND: tensors[first:]}, sidecars=SIDECARS)


# The documents


def test_every_document_is_what_its_schema_says(printed: list[Printed]) -> None:
    wrong = {entry.line: found for entry in printed if (found := problems(entry.document))}

    assert {} == wrong


def test_every_kind_that_is_printed_has_a_schema_and_the_other_way_round(printed: list[Printed]) -> None:
    kinds = {entry.document["kind"] for entry in printed}

    assert {f"{kind}.json" for kind in kinds} | {"shared.json"} == SCHEMAS.keys()
    assert kinds - {"error"} == set(cli.list_commands(cli.make_context("overlay", ["schema"])))


def test_every_property_of_a_schema_is_printed_by_something(printed: list[Printed]) -> None:
    found = {pointer for entry in printed for pointer in used(entry.document)}

    assert [] == sorted("/".join(pointer) for pointer in listed() - found)


def test_commands_end_as_they_should(printed: list[Printed]) -> None:
    ends = defaultdict(set)
    for entry in printed:
        block = next((name for name, lines in _BLOCKS.items() if f"\n{entry.line}\n" in lines), "successes")
        ends[block].add(entry.document["kind"] == "error")
        assert (entry.code > 1) <= (entry.document["kind"] == "error"), entry

    assert {"successes": {False}, "findings": {False}, "failures": {True}} == ends


_BLOCKS = {"successes": SUCCESSES, "findings": FINDINGS, "failures": FAILURES}


def test_a_manifest_in_a_document_is_one(printed: list[Printed]) -> None:
    manifests = [entry.document["manifest"] for entry in printed if entry.document["kind"] == "init"]

    assert len(manifests) == 3
    assert [] == [error for manifest in manifests for error in validator(api.schema()).iter_errors(manifest)]


# The schemas


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_knows_its_name(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])

    assert ("https://json-schema.org/draft/2020-12/schema", name) == (SCHEMAS[name]["$schema"], SCHEMAS[name]["$id"])


def test_an_object_has_fixed_keys_or_names_for_keys() -> None:
    open_ones = {"/".join(at) for at, schema in objects() if "additionalProperties" not in schema}
    fixed = [schema for _, schema in objects() if "properties" in schema]

    assert {"init.json/properties/manifest"} == open_ones  # its schema is what `overlay schema` prints
    assert all(schema["additionalProperties"] is False for schema in fixed)


def test_every_property_says_what_it_is_about() -> None:
    silent = [
        "/".join((*at, key))
        for at, schema in objects()
        for key, value in schema.get("properties", {}).items()
        if "description" not in value and "$ref" not in value
    ]

    assert [] == silent


def test_a_size_says_its_unit() -> None:
    sizes = [
        (key, value["description"])
        for _, schema in objects()
        for key, value in schema.get("properties", {}).items()
        if re.fullmatch(r"(\w+_)?(bytes|size)|begin|end", key) and value.get("type") == "integer"
    ]

    assert len(sizes) > 20
    assert [] == [(key, about) for key, about in sizes if "ytes" not in about]


def _openings(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The ways to every object in a document."""
    if isinstance(value, dict):
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from _openings(entry, (*path, key))


_NAMED = {
    "engines",
    "dtypes",
    "present",
    "metadata",
    "files",
    "donors",
    "grafts",
    "trims",
    "tensors",
    "manifest",
    "schema",
}
"""Keys of objects whose own keys are names."""


@pytest.mark.parametrize("kind", [name.removesuffix(".json") for name in SCHEMAS if name != "shared.json"])
def test_another_key_anywhere_is_noticed(kind: str, printed: list[Printed]) -> None:
    document = max((entry.document for entry in printed if entry.document["kind"] == kind), key=lambda d: len(str(d)))
    places = [path for path in _openings(document) if not {"manifest", "schema"} & set(path)]

    for path in places[:200]:
        if path and path[-1] in _NAMED:
            continue
        copy = json.loads(json.dumps(document))
        place = copy
        for key in path:
            place = place[key]
        place["another"] = 1
        assert problems(copy), path


def test_a_missing_key_is_noticed(printed: list[Printed]) -> None:
    for entry in printed:
        for key in entry.document:
            rest = {name: value for name, value in entry.document.items() if name != key}
            optional = key in SCHEMAS[f"{entry.document['kind']}.json"].get("properties", {}) and key not in SCHEMAS[
                f"{entry.document['kind']}.json"
            ].get("required", ())
            assert optional or problems(rest), (entry.line, key)


# The page


def test_every_kind_is_on_the_page_with_its_keys() -> None:
    page = (DOCS / "json.md").read_text(encoding="utf-8")

    for name, schema in SCHEMAS.items():
        assert f"](schemas/{name})" in page
        for form in schema.get("oneOf", [schema]):
            assert all(f"| `{key}` |" in page for key in form.get("properties", {}) if key not in ("kind", "format"))
