"""Steps as a manifest writes them: both forms, every error with its place, renaming, and keep lists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.formats.keep_lists import KeepListProblems, KeepLists, parse_keep_lists
from overlay.formats.manifest import Manifest, ManifestProblems, manifest_schema, parse_manifest
from overlay.formats.patterns import Pattern
from overlay.formats.renaming import Renaming, explain_renaming
from overlay.formats.steps import STEPS

HEAD = """\
overlay: 1
name: x
base: null
donors: {d: d, target: t}
grafts:
  - shard: a.safetensors
    from: d
    tensors: ["**"]
    steps:
"""


def manifest(*steps: str) -> Manifest:
    return parse_manifest(text(*steps).encode())


def text(*steps: str) -> str:
    return HEAD + "".join(f"      - {step}\n" for step in steps)


def complaints(*steps: str) -> list[str]:
    with pytest.raises(ManifestProblems) as caught:
        manifest(*steps)
    return caught.value.lines()


ACCEPTED = [
    "copy: null",
    "rename: {'model.layers.*.mlp.**': 'model.decoder.*.ffn.**', a.weight: b.weight}",
    "cast: BF16",
    "cast: {to: F32, tensors: ['**.norm.weight']}",
    "dequantize: auto",
    "dequantize: {format: fp8-block, to: F16, ignore: ['lm_head'], block: [64, 128]}",
    "dequantize: {format: gptq, checkpoint_format: gptq_v2}",
    "dequantize: {format: pack-quantized, bits: 8}",
    "quantize: {like: target}",
    "quantize: {format: pack-quantized, bits: 4, group_size: 32, symmetric: false, ignore: ['a.**'], targets: ['**']}",
    "quantize: {format: pack-quantized, bits: 8, group_size: channel, symmetric: true, scale_dtype: F32}",
    "quantize: modelopt-nvfp4",
    "quantize: {format: fp8-block, block: [64, 64], scale_name: weight_scale}",
    "quantize: {format: fp8-channel, scale_dtype: F32}",
    "quantize: mxfp4",
    "keep-experts: [0, 3, 5]",
    "keep-experts: lists/keep-218.json",
    "keep-experts: {'78': [0, 1], '3': [1, 2]}",
    "fuse: {parts: [gate_proj, up_proj], into: gate_up_proj, experts: '**.experts', interleave: true}",
    "split: {from: gate_up_proj, into: [gate_proj, up_proj]}",
]


@pytest.mark.parametrize("step", ACCEPTED)
def test_a_step_is_read_and_written_again_alike(step: str) -> None:
    read = manifest(step)

    again = parse_manifest(json.dumps(read.model_dump(mode="json", by_alias=True)).encode())

    assert read == again
    assert read.digest == again.digest


@pytest.mark.parametrize("step", ACCEPTED)
def test_the_schema_accepts_what_is_accepted(step: str) -> None:
    key, _, value = step.partition(": ")
    schema = {
        **manifest_schema(),
        "$ref": "#/$defs/Graft",
        "properties": {},
        "required": [],
        "additionalProperties": True,
    }
    written = parse_manifest(text(step).encode()).grafts[0].model_dump(mode="json", by_alias=True)["steps"]
    short = {key: value} if re.fullmatch(r"[\w-]+", value) and value != "null" else written[0]

    for steps in (written, [short]):
        jsonschema.validate({"shard": "a.safetensors", "from": "d", "steps": steps}, schema)


@pytest.mark.parametrize(
    "step",
    [{}, {"quantise": "x"}, {"cast": "INT8"}, {"quantize": "pack-quantized"}, {"quantize": {"like": 1}}, {"split": {}}],
)
def test_the_schema_refuses_what_is_refused(step: Any) -> None:
    schema = {
        **manifest_schema(),
        "$ref": "#/$defs/Graft",
        "properties": {},
        "required": [],
        "additionalProperties": True,
    }

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"shard": "a.safetensors", "from": "d", "steps": [step]}, schema)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("cast: BF16", "cast: {to: BF16}"),
        ("dequantize: modelopt-nvfp4", "dequantize: {format: modelopt-nvfp4, to: BF16}"),
        ("quantize: fp8-block", "quantize: {format: fp8-block, block: [128, 128]}"),
    ],
)
def test_the_short_form_means_the_long_one_and_counts_as_it(short: str, long: str) -> None:
    assert manifest(short).digest == manifest(long).digest


ONE_STEP = f"expected a mapping with exactly one of {', '.join(STEPS)}"


@pytest.mark.parametrize(
    ("step", "place", "path", "message"),
    [
        ("x", "10:9", "", f"{ONE_STEP}, found 'x'"),
        ("{cast: BF16, copy: null}", "10:9", "", f"{ONE_STEP}, found {{'cast': 'BF16', 'copy': None}}"),
        ("cast: INT8", "10:9", ".cast", "expected 'BF16', 'F16' or 'F32', found 'INT8'"),
        ("cast: {to: BF16, tensors: []}", "10:26", ".cast.tensors", "expected at least one entry, found none"),
        (
            "dequantize: {format: awq, bits: 4}",
            "10:35",
            ".dequantize.bits",
            "expected it with the format pack-quantized only, found awq",
        ),
        (
            "quantize: pack-quantized",
            "10:9",
            ".quantize",
            "expected {format: pack-quantized, bits: …, group_size: …, symmetric: …}, found the format alone",
        ),
        ("quantize: {like: elsewhere}", "10:20", ".quantize.like", "expected a donor (d, target), found 'elsewhere'"),
        ("quantize: {like: target, bits: 4}", "10:34", ".quantize.bits", "expected a known key, found 'bits'"),
        (
            "quantize: {format: fp8-block, block: [128]}",
            "10:39",
            ".quantize.block",
            "expected rows and columns, found [128]",
        ),
        (
            "quantize: {format: pack-quantized, bits: 4, group_size: 0, symmetric: true}",
            "10:53",
            ".quantize.group_size",
            "expected greater than or equal to 1, found 0",
        ),
        (
            "keep-experts: [0, 2, 1]",
            "10:9",
            ".keep-experts",
            "expected experts in ascending order, found 1 after a higher number",
        ),
        ("keep-experts: {'3': [1, 1]}", "10:24", ".keep-experts['3']", "expected each expert once, found 1 again"),
        ("keep-experts: {all: [1]}", "10:24", ".keep-experts.all", "expected '^(0|[1-9][0-9]{0,8})$', found 'all'"),
        (
            "keep-experts: ../keep.json",
            "10:9",
            ".keep-experts",
            "expected a relative path of letters, digits and ._+-, found '../keep.json'",
        ),
        (
            "keep-experts: true",
            "10:9",
            ".keep-experts",
            "expected a list of experts, the name of a JSON file, or a mapping of layers to lists, found True",
        ),
        (
            "rename: {'a.*': 'b.**'}",
            "10:18",
            ".rename['a.*']",
            "expected the wildcards of the pattern (*), found ** in 'b.**'",
        ),
        ("rename: {}", "10:9", ".rename", "expected at least one entry, found none"),
        ("fuse: {parts: [a, a], into: b}", "10:16", ".fuse.parts", "expected each part once, found 'a' again"),
        (
            "split: {from: a, into: [a.b]}",
            "10:33",
            ".split.into[0]",
            "expected '^[A-Za-z_][A-Za-z0-9_]*$', found 'a.b'",
        ),
    ],
)
def test_an_error_names_line_column_and_path(step: str, place: str, path: str, message: str) -> None:
    (line,) = complaints(step)

    assert f"{place}: grafts[0].steps[0]{path}: {message}" == line


def test_all_errors_come_at_once() -> None:
    lines = complaints("quantize: {format: pack-quantized, bits: 3}", "cast: x", "copy: 1", "dequantize: [1]")

    assert [0, 0, 0, 1, 2, 3] == [int(re.findall(r"steps\[(\d)\]", line)[0]) for line in lines]


def test_steps_of_a_graft_are_limited() -> None:
    assert ["9:5: grafts[0].steps: expected at most 32 steps, found 33"] == complaints(*["copy: null"] * 33)


def test_limits_are_read_and_leave_no_trace_where_there_are_none() -> None:
    limited = parse_manifest(f"{text('cast: BF16')}    limits: {{relative_rms: 0.2, saturated: 0}}\n".encode())

    limits = limited.grafts[0].limits
    assert limits is not None
    assert (0.2, 0, None) == (limits.relative_rms, limits.saturated, limits.vanished)
    assert limited.digest != manifest("cast: BF16").digest
    assert "limits" not in manifest("cast: BF16").model_dump(mode="json", by_alias=True)["grafts"][0]


# Renaming


@settings(max_examples=400)
@given(st.lists(st.sampled_from(["a", "b", ".", "*", "**"]), max_size=6), st.text("ab.", max_size=8))
@example(["**", ".", "*"], "a.b.a")
@example(["*", "**"], "ab")
@example([""], "")
def test_a_pattern_renamed_to_itself_changes_nothing(tokens: list[str], name: str) -> None:
    pattern = "".join(tokens)

    expected = name if Pattern(pattern).matches(name) else None
    assert expected == Renaming(pattern, pattern).apply(name)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["a", "b.", ".", "*", "**"]), max_size=6), st.text("ab.", max_size=8))
def test_wildcards_stand_for_as_little_as_possible(tokens: list[str], name: str) -> None:
    pattern = "".join(tokens)
    words = re.findall(r"\*+|[^*]+", pattern)
    groups = {True: r"([\s\S]*?)", False: r"([^.]*?)"}
    expression = "".join(groups[len(word) > 1] if "*" in word else re.escape(word) for word in words)

    replacement = "".join(f"<{word}>" if "*" in word else "-" for word in words)
    found = Renaming(pattern, replacement).apply(name)

    match = re.fullmatch(expression, name)
    captures = iter(match.groups()) if match else iter(())
    expected = "".join(f"<{next(captures)}>" if "*" in word else "-" for word in words) if match else None
    assert expected == found


@pytest.mark.parametrize(
    ("pattern", "replacement", "name", "expected"),
    [
        ("model.layers.*.mlp.**", "x.*.ffn.**", "model.layers.3.mlp.up.weight", "x.3.ffn.up.weight"),
        ("**.gate_proj.*", "**.w1.*", "a.b.gate_proj.weight", "a.b.w1.weight"),
        ("a", "b", "a", "b"),
        ("a", "b", "aa", None),
    ],
)
def test_what_a_wildcard_stood_for_moves_along(pattern: str, replacement: str, name: str, expected: str | None) -> None:
    assert expected == Renaming(pattern, replacement).apply(name)


def test_a_renaming_has_the_wildcards_of_its_pattern_in_their_order() -> None:
    assert "" == explain_renaming("a.*.**", "b.*.**")
    assert "expected the wildcards of the pattern (* **), found ** * in '**.*'" == explain_renaming("a.*.b.**", "**.*")
    assert "expected the wildcards of the pattern (none), found * in 'b*'" == explain_renaming("a", "b*")


# Keep lists


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[0, 2, 5]", KeepLists(everywhere=(0, 2, 5))),
        (b'{"78": [1], "3": [0, 1]}', KeepLists(by_layer=((3, (0, 1)), (78, (1,))))),
        (b'{"model.layers.3.mlp": [0, 2]}', KeepLists(by_layer=((3, (0, 2)),))),
    ],
)
def test_a_keep_list_is_read_in_both_forms(data: bytes, expected: KeepLists) -> None:
    assert expected == parse_keep_lists(data)


def test_a_layer_has_its_own_list_or_that_for_all() -> None:
    assert (0, 2) == KeepLists(everywhere=(0, 2)).for_layer(7)
    assert [(1,), None] == [KeepLists(by_layer=((3, (1,)),)).for_layer(layer) for layer in (3, 4)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[]", ["expected a list of experts, found none"]),
        (b"{}", ["expected at least one layer, found none"]),
        (b"[0, 0]", ["expected each expert once, found 0 again"]),
        (b"[1, true]", ["expected numbers of experts, found True"]),
        (b'{"a": [0], "3": 1}', ["3: expected a list of experts, found int"]),
        (b'{"a": [0], "b.c": [0]}', ["expected a layer, found 'a'", "expected a layer, found 'b.c'"]),
        (b'{"3": [0], "layers.3.mlp": [0]}', ["expected each layer once, found 'layers.3.mlp' again"]),
        (b"[0", ["expected JSON, found unexpected end of data at line 1 column 3"]),
    ],
)
def test_a_keep_list_that_is_malformed_says_everything_that_is(data: bytes, expected: list[str]) -> None:
    with pytest.raises(KeepListProblems) as caught:
        parse_keep_lists(data)

    assert expected == caught.value.lines


def test_the_manifests_of_the_project_are_read() -> None:
    for path in sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml")):
        parse_manifest(path.read_bytes())
