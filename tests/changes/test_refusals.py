"""What cannot be done is refused: one line that says why, one hint, the right exit code, and nothing changed on disk."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bad_inputs.running import run_here
from tests.support import small
from tests.support.checkpoints import snapshot_of
from tests.support.small import FIRST, NEW, PROJ, SECOND

APPLY = "apply small.yaml -o serve"
BOTH = "apply one.yaml two.yaml -o serve"
WRONG_BASE = "correct the change in the manifest, or pin the revision of the file that it was written for"
APART = "apply one of them alone, or make one the base of the other"
DECLARE = "choose other tensors, or declare the change with mode: replace"
Act = Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A world that is to be refused, and the words for it."""

    what: str
    make: Act
    says: str
    hint: str
    run: str = APPLY
    exit: int = 4


def _with(**changes: Any) -> Act:
    """Keys of the manifest put over those of the small one; None takes one out."""
    return lambda root: _write(root / "small.yaml", small.manifest(**changes))


def _patching(*operations: dict[str, Any], file: str = "config.json") -> Act:
    return _with(files={file: {"patch": list(operations)}})


def _grafting(**changes: Any) -> Act:
    graft = {"shard": NEW, "from": "new", "tensors": [PROJ], "mode": "replace", **changes}
    return _with(grafts=[{key: value for key, value in graft.items() if value is not None}])


def _two(one: dict[str, Any], two: dict[str, Any]) -> Act:
    """Two manifests over one base."""

    def act(root: Path) -> None:
        for name, value in (("one", one), ("two", two)):
            _write(
                root / f"{name}.yaml",
                json.dumps({"overlay": 1, "name": name, "base": "base", "donors": {"new": "donor"}, **value}),
            )

    return act


def _all(*acts: Act) -> Act:
    def act(root: Path) -> None:
        for one in acts:
            one(root)

    return act


def _circle(root: Path) -> None:
    for name, base in (("small", "one"), ("one", "two"), ("two", "small")):
        _write(root / f"{name}.yaml", json.dumps({"overlay": 1, "name": name, "base": f"{base}.yaml"}))


def _other_bases(root: Path) -> None:
    small.base().write(root / "other")
    _two({"base": "base"}, {"base": "other"})(root)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _steps(root: Path) -> None:
    _grafting(steps=[{"cast": "BF16"}])(root)


def _files(patch: list[dict[str, Any]]) -> dict[str, Any]:
    return {"files": {"config.json": {"patch": patch}}}


def _graft(shard: str, *tensors: str, mode: str = "replace") -> dict[str, Any]:
    return {"grafts": [{"shard": shard, "from": "new", "tensors": list(tensors), "mode": mode}]}


SET_BITS = {"op": "replace", "path": "/quantization_config/bits", "value": 8}


def _of_patches() -> Iterator[Case]:
    yield Case(
        what="a patch to a missing member",
        make=_patching({"op": "replace", "path": "/quantisation_config/bits", "value": 8}),
        says="config.json: /quantisation_config/bits: operation 1 (replace): "
        "expected a member 'quantisation_config' in the document, "
        "found architectures, model_type, num_nextn_predict_layers, quantization_config",
        hint="did you mean /quantization_config?",
    )
    yield Case(
        what="a patch past the end of a list",
        make=_patching({"op": "add", "path": "/quantization_config/ignore/7", "value": "x"}),
        says="config.json: /quantization_config/ignore/7: operation 1 (add): expected an index of at most 1 in "
        "/quantization_config/ignore, found 7",
        hint=WRONG_BASE,
    )
    yield Case(
        what="a precondition that does not hold",
        make=_patching({"op": "test", "path": "/num_nextn_predict_layers", "value": 2}),
        says="config.json: /num_nextn_predict_layers: operation 1 (test): expected 2, found 1",
        hint=WRONG_BASE,
    )
    yield Case(
        what="a precondition after a change that fits",
        make=_patching(SET_BITS, {"op": "test", "path": "/quantization_config", "value": {"bits": 4}}),
        says='config.json: /quantization_config: operation 2 (test): expected {"bits": 4}, '
        'found {"bits": 8, "ignore": ["lm_head"]}',
        hint=WRONG_BASE,
    )
    yield Case(
        what="a patch of what is no JSON",
        make=_patching({"op": "add", "path": "/a", "value": 1}, file="chat_template.jinja"),
        says="chat_template.jinja: expected JSON, found unexpected character, expected a string key at line 1 column 2",
        hint="fetch the file again, or replace it as a whole with 'from'",
        exit=3,
    )
    yield Case(
        what="a patch of a file that is not there",
        make=_patching({"op": "add", "path": "/a", "value": 1}, file="hf_quant_config.json"),
        says="hf_quant_config.json: expected this sidecar in the base, found none for small to change",
        hint="correct the file's name in the manifest, or take the whole file with from",
    )
    yield Case(
        what="a merge of a file that is not there",
        make=_with(files={"absent.json": {"merge": {"a": 1}}}),
        says="absent.json: expected this sidecar in the base, found none for small to change",
        hint="correct the file's name in the manifest, or take the whole file with from",
    )
    yield Case(
        what="the removal of a file that is not there",
        make=_with(files={"absent.txt": {"remove": True}}),
        says="absent.txt: expected this sidecar in the base, found none for small to change",
        hint="correct the file's name in the manifest, or take the whole file with from",
    )
    yield Case(
        what="a pointer that is none",
        make=_patching({"op": "add", "path": "bits", "value": 1}),
        says="config.json: bits: operation 1 (add): expected a JSON Pointer such as /a/b/0, found 'bits'",
        hint="correct operation 1 of the patch in the manifest",
        exit=3,
    )


def _of_two_manifests() -> Iterator[Case]:
    yield Case(
        what="two overlays that write one member",
        make=_two(_files([SET_BITS]), {"files": {"config.json": {"merge": {"quantization_config": {"bits": 2}}}}}),
        run=BOTH,
        says="config.json: expected one overlay to touch /quantization_config/bits, found one and two",
        hint=APART,
    )
    yield Case(
        what="two overlays that write one member with a slash in its name",
        make=_two(
            _files([{"op": "add", "path": "/a~1b", "value": 1}]), _files([{"op": "add", "path": "/a~1b", "value": 2}])
        ),
        run=BOTH,
        says="config.json: expected one overlay to touch /a~1b, found one and two",
        hint=APART,
    )
    yield Case(
        what="an overlay that tests what another writes",
        make=_two(_files([SET_BITS]), _files([{"op": "test", "path": "/quantization_config/bits", "value": 4}])),
        run=BOTH,
        says="config.json: expected one overlay to touch /quantization_config/bits, found one and two",
        hint=APART,
    )
    yield Case(
        what="two overlays of which one takes the whole file",
        make=_two({"files": {"config.json": {"from": "donor/all.json"}}}, _files([SET_BITS])),
        run=BOTH,
        says="config.json: expected one overlay to touch the whole file, found one and two",
        hint=APART,
    )
    yield Case(
        what="two overlays that replace one tensor",
        make=_two(_graft("a.safetensors", PROJ), _graft("b.safetensors", PROJ)),
        run=BOTH,
        says=f"{PROJ}: expected one overlay to touch it, found one and two",
        hint=APART,
    )
    yield Case(
        what="an overlay that drops what another replaces",
        make=_two(_graft("a.safetensors", PROJ), {"drop": [PROJ]}),
        run=BOTH,
        says=f"{PROJ}: expected one overlay to touch it, found one and two",
        hint=APART,
    )
    yield Case(
        what="two overlays that add one tensor",
        make=_two(
            _graft("a.safetensors", "model.layers.2.extra", mode="add"),
            _graft("b.safetensors", "model.layers.2.extra", mode="add"),
        ),
        run=BOTH,
        says="model.layers.2.extra: expected one overlay to touch it, found one and two",
        hint=APART,
    )
    yield Case(
        what="a graft's shard whose name another overlay has",
        make=_two(_graft(NEW, PROJ), _graft(NEW, "model.layers.1.proj.weight")),
        run=BOTH,
        says=f"{NEW}: expected a new shard name for the graft of two, found that the overlay one has this shard",
        hint="name the graft's shard model-00005-of-00005.safetensors",
    )
    yield Case(
        what="manifests for different bases",
        make=_other_bases,
        run=BOTH,
        says="one.yaml, two.yaml: expected overlays for one base, found {root}/base and {root}/other",
        hint="name a manifest as base: in the one that is to be laid over it",
    )
    yield Case(
        what="manifests that stand on each other in a circle",
        make=_circle,
        says="{root}/small.yaml: expected a base that is a checkpoint in the end, found the circle "
        "small.yaml -> one.yaml -> two.yaml -> small.yaml",
        hint="let the lowest of them name a checkpoint as its base",
        exit=3,
    )


def _of_tensors() -> Iterator[Case]:
    yield Case(
        what="a drop that describes nothing",
        make=_with(drop=["model.layers.2.**", "model.layers.7.**"]),
        says="small: drop: expected a tensor of the base for each pattern, found none for model.layers.7.**",
        hint="correct the pattern, or allow it: {tensors: PATTERN, allow-missing: true}",
        exit=3,
    )
    yield Case(
        what="a drop in its long form that describes nothing",
        make=_with(drop=[{"tensors": "nothing"}]),
        says="small: drop: expected a tensor of the base for each pattern, found none for nothing",
        hint="correct the pattern, or allow it: {tensors: PATTERN, allow-missing: true}",
        exit=3,
    )
    yield Case(
        what="a graft that describes nothing",
        make=_grafting(tensors=[PROJ, "model.layers.9.*"]),
        says=f"{NEW}: expected a tensor of the donor 'new' for each pattern, found none for model.layers.9.*",
        hint="correct the pattern: * stays within a dotted part, ** goes across parts",
        exit=3,
    )
    yield Case(
        what="a replacement that replaces nothing",
        make=_grafting(tensors=["model.layers.2.extra"]),
        says=f"small: {NEW}: expected tensors to replace, found that the base has none of them",
        hint=DECLARE,
    )
    yield Case(
        what="an override that is not declared",
        make=_grafting(mode=None),
        says=f"small: {PROJ}: expected one owner, found shard {FIRST} of the base and the graft's shard {NEW}",
        hint=DECLARE,
    )
    yield Case(
        what="an override of another overlay's tensor that is not declared",
        make=_all(
            _with(),
            lambda root: _write(
                root / "one.yaml",
                json.dumps(
                    {"overlay": 1, "name": "one", "base": "small.yaml", "donors": {"new": "donor"}}
                    | _graft("x.safetensors", PROJ, mode="add")
                ),
            ),
        ),
        run="apply one.yaml -o serve",
        says=f"one: {PROJ}: expected one owner, found shard {NEW} of the overlay small and the graft's shard x.safetensors",
        hint=DECLARE,
    )
    yield Case(
        what="a tensor that two grafts take",
        make=_with(grafts=[*_graft(NEW, PROJ)["grafts"], *_graft("x.safetensors", PROJ)["grafts"]]),
        says=f"small: {PROJ}: expected one owner, found shard {NEW} of another graft and the graft's shard x.safetensors",
        hint=DECLARE,
    )
    yield Case(
        what="a graft whose shard's name the base has",
        make=_grafting(shard=SECOND),
        says=f"{SECOND}: expected a new shard name for the graft of small, found that the base has this shard",
        hint=f"name the graft's shard {NEW}",
    )
    yield Case(
        what="a drop of everything",
        make=_with(grafts=[], donors={}, drop=["**"]),
        says="base: expected at least one tensor to stay, found that everything is dropped",
        hint="correct the patterns under drop",
    )
    yield Case(
        what="a base that lost a shard",
        make=lambda root: (root / "base" / SECOND).unlink(),
        says=f"base: IDX003 {SECOND}: expected this shard, found",
        hint="overlay verify base",
        exit=3,
    )
    yield Case(
        what="steps",
        make=_steps,
        says="model-00004-of-00004.safetensors: steps[0]: expected a tensor to cast to BF16, found none (rule idle-step)",
        hint="correct the step, or choose other tensors of the donor",
        exit=3,
    )
    yield Case(
        what="a file that is the folder of another",
        make=_with(files={"a/b.json": {"from": "base/config.json"}, "a": {"from": "base/config.json"}}),
        says="a: expected a file or a folder, found both: a/b.json lies in it",
        hint="rename one of the two in the manifest",
        exit=4,
    )
    yield Case(
        what="an engine that no manifest names",
        make=_with(engines={"vllm": {"files": {"config.json": {"merge": {"a": 1}}}}}),
        run=f"{APPLY} --engine sglang",
        says="small.yaml: expected an engine of the manifest (vllm), found sglang",
        hint="name one of the manifest's engines, or leave --engine out",
        exit=2,
    )
    yield Case(
        what="an engine where no manifest names any",
        make=_with(),
        run=f"{APPLY} --engine vllm",
        says="small.yaml: expected an engine of the manifest (it names none), found vllm",
        hint="name one of the manifest's engines, or leave --engine out",
        exit=2,
    )


CASES = [*_of_patches(), *_of_two_manifests(), *_of_tensors()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small.write(tmp_path)
    (tmp_path / "donor" / "all.json").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_it_is_refused_in_one_line_and_a_hint_and_nothing_changes(case: Case, verb: str, world: Path) -> None:
    case.make(world)
    before = snapshot_of(world)

    said = run_here([verb, *shlex.split(case.run)[1:]])

    assert (case.exit, "") == (said.code, said.out), said
    error, hint = said.err.splitlines()
    assert error.startswith("error: " + case.says.replace("{root}", str(world)))
    assert "hint: " + case.hint == hint
    assert before == snapshot_of(world)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_target_that_is_there_already_stays_as_it_was(case: Case, world: Path) -> None:
    assert 0 == run_here(shlex.split(APPLY)).code
    before = snapshot_of(world / "serve")
    case.make(world)

    said = run_here(shlex.split(case.run))

    assert case.exit == said.code, said
    assert before == snapshot_of(world / "serve")


def test_the_changes_for_an_engine_are_made_for_that_engine_only(world: Path) -> None:
    ignore = [{"op": "add", "path": "/quantization_config/ignore/-", "value": "model.layers.2*"}]
    engines = {
        "vllm": {"files": {"config.json": {"patch": ignore}}},
        "sglang": {"files": {"LICENSE": {"remove": True}}},
    }
    _with(files={}, engines=engines)(world)

    for target, options in (("plain", []), ("vllm", ["--engine", "vllm"]), ("sglang", ["--engine", "sglang"])):
        assert 0 == run_here(["apply", "small.yaml", "-o", target, *options]).code

    ignored = {
        t: json.loads((world / t / "config.json").read_bytes())["quantization_config"]["ignore"]
        for t in ("plain", "vllm", "sglang")
    }
    assert {"plain": ["lm_head"], "vllm": ["lm_head", "model.layers.2*"], "sglang": ["lm_head"]} == ignored
    assert [True, True, False] == [(world / target / "LICENSE").exists() for target in ("plain", "vllm", "sglang")]


def test_the_changes_for_an_engine_follow_the_manifests_own(world: Path) -> None:
    _with(
        engines={
            "vllm": {
                "files": {
                    "config.json": {
                        "patch": [{"op": "test", "path": "/quantization_config/ignore/1", "value": "model.layers.2*"}]
                    }
                }
            }
        }
    )(world)

    assert 0 == run_here(["apply", "small.yaml", "-o", "serve", "--engine", "vllm"]).code


def test_a_pattern_that_may_be_missing_is_no_error(world: Path) -> None:
    _with(drop=["model.layers.2.**", {"tensors": "model.layers.7.**", "allow-missing": True}])(world)

    assert 0 == run_here(shlex.split(APPLY)).code


def test_two_overlays_that_append_to_one_list_do_not_disturb_each_other(world: Path) -> None:
    append = {"op": "add", "path": "/quantization_config/ignore/-"}
    _two(_files([{**append, "value": "1"}]), _files([{**append, "value": "2"}]))(world)

    assert 0 == run_here(["apply", "two.yaml", "one.yaml", "-o", "serve"]).code
    ignored = json.loads((world / "serve" / "config.json").read_bytes())["quantization_config"]["ignore"]
    assert ["lm_head", "1", "2"] == ignored
