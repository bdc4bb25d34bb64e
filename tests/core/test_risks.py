"""Risks: each way in which a checkpoint can do harm is found by its code, and a harmless one is left in peace."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.codes import CODES, Severity
from overlay.core.file_kinds import kind_of
from overlay.core.findings import Finding
from overlay.core.risks import find_risks
from overlay.core.sidecar_risks import MAX_PLACES
from overlay.core.sidecar_roles import Role
from tests.formats.test_strict_json import TEXTS
from tests.support.json_model import json_values

TOKENIZER = {
    "version": "1.0",
    "added_tokens": [{"id": 2, "content": "<|end|>", "special": True}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
}
CONFIG = {"model_type": "x", "rope_theta": 10000, "eos_token_id": [2], "vision_config": {"depth": 1}}


def text(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


BASE: dict[str, bytes] = {
    "config.json": text(CONFIG),
    "generation_config.json": text({"temperature": 1.0, "eos_token_id": 2}),
    "hf_quant_config.json": text({"producer": {"version": "1"}, "quantization": {"exclude_modules": ["lm_head"]}}),
    "tokenizer.json": text(TOKENIZER),
    "tokenizer_config.json": text({"eos_token": "<|end|>", "name_or_path": "x"}),
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"---\nlicense: mit\n---\n# base\n",
    "LICENSE": b"MIT License\n",
}


def with_values(name: str, **values: Any) -> dict[str, bytes]:
    """The base's sidecars, with members of one set."""
    return {**BASE, name: text({**json.loads(BASE.get(name, b"{}")), **values})}


def found(new: Mapping[str, bytes], old: Mapping[str, bytes] | None = BASE, **rest: Any) -> list[tuple[str, str]]:
    """Code and subject of every finding."""
    return [(finding.code, finding.subject) for finding in find_risks(old, new, **rest)]


def the_one(new: Mapping[str, bytes], **rest: Any) -> Finding:
    (finding,) = find_risks(BASE, new, **rest)
    return finding


def test_the_base_itself_is_no_risk() -> None:
    assert find_risks(BASE, BASE) == []
    assert find_risks(None, BASE) == []


def test_a_file_that_was_only_set_out_anew_is_no_risk() -> None:
    anew = {name: json.dumps(json.loads(data)).encode() for name, data in BASE.items() if name.endswith(".json")}
    assert find_risks(BASE, {**BASE, **anew}) == []


def test_every_severity_is_the_agreed_one() -> None:
    runs_code = {"SEC001", "SEC002", "SEC003"}
    changes = {f"SEC{n:03d}" for n in (4, 5, 6, 7, 8, 10)} | {"CFG002"}
    assert {code for code in runs_code if CODES[code].severity is Severity.ERROR} == runs_code
    assert {code for code in changes if CODES[code].severity is Severity.WARNING} == changes
    assert {CODES[code].severity for code in ("SEC009", "CFG003")} == {Severity.NOTE}


# --- code


@pytest.mark.parametrize(
    ("name", "values", "pointer"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling_x.M"}}, "/auto_map"),
        ("config.json", {"vision_config": {"depth": 1, "auto_map": "org/repo--x.M"}}, "/vision_config/auto_map"),
        ("config.json", {"parts": [[{"auto_map": "x.M"}]]}, "/parts/0/0/auto_map"),
        ("config.json", {"model_file": "x.py"}, "/model_file"),
        ("config.json", {"custom_pipelines": {"t": {"impl": "x.P"}}}, "/custom_pipelines"),
        ("config.json", {"vision_config": {"depth": 1, "_target_": "os.system"}}, "/vision_config/_target_"),
        ("config.json", {"attn_implementation": "evil/kernel"}, "/attn_implementation"),
        ("config.json", {"_attn_implementation": {"vision": "evil/kernel@main"}}, "/_attn_implementation"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.T", None]}}, "/auto_map"),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "p.P"}}, "/auto_map"),
        ("anything.json", {"auto_map": "x.M"}, "/auto_map"),
    ],
)
def test_a_config_that_names_code(name: str, values: dict[str, Any], pointer: str) -> None:
    for old in (BASE, None):
        lines = [f.line for f in find_risks(old, with_values(name, **values)) if f.code == "SEC001"]
        assert len(lines) == 1
        assert lines[0].startswith(f"SEC001 {name}: {pointer}: ")


@pytest.mark.parametrize(
    "values",
    [{"auto_map": None}, {"auto_map": {}}, {"attn_implementation": "sdpa"}, {"nested": {"model_file": "x.py"}}],
)
def test_a_config_that_names_no_code(values: dict[str, Any]) -> None:
    assert [code for code, _ in found(with_values("config.json", **values)) if code == "SEC001"] == []


def test_code_that_the_base_names_too_is_not_new() -> None:
    base = with_values("config.json", auto_map={"AutoModel": "a.A"})
    assert found({**base, "config.json": base["config.json"] + b"\n"}, base) == []
    other = with_values("config.json", auto_map={"AutoModel": "b.B"})
    (finding,) = find_risks(base, other)
    assert finding.code == "SEC001"
    assert "b.B" in finding.message
    assert "a.A" in finding.message


def test_code_that_is_no_longer_named_is_a_change() -> None:
    base = with_values("config.json", auto_map={"AutoModel": "a.A"})
    assert found(BASE, base) == [("CFG002", "config.json: /auto_map")]


@pytest.mark.parametrize(
    "config",
    [
        b'{"auto_map": "x.M", "a": 1, "a": 2}',
        b'{"auto_map": "x.M", "a": NaN}',
        b'{"auto\\u005fmap": "x.M"}',
        b'{"auto_map": "x.M", "deep": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"auto_map": "x.M", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"auto\\u005Fmap": "x.M", ',
        b"\xef\xbb\xbf" + b'{"auto_map": "x.M"}',
        b'{"auto_map": "x.M"}\xff',
        b'{"auto_map": "x.M", "a": "\\ud800"}',
    ],
)
def test_code_is_found_in_what_is_no_strict_json(config: bytes) -> None:
    for old in (BASE, None):
        codes = [code for code, _ in found({**BASE, "config.json": config}, old)]
        assert "SEC001" in codes
        assert ("CFG001" in codes) == (b"5fmap" not in config)


def test_the_last_of_two_equal_keys_counts_as_it_does_for_loaders() -> None:
    assert ("SEC001", "config.json: /auto_map") in found(
        {"config.json": b'{"auto_map": null, "auto_map": "x.M"}'}, None
    )


def test_half_a_surrogate_pair_does_not_reach_the_output() -> None:
    (finding,) = find_risks(None, {**BASE, "config.json": b'{"\\ud800": {"auto_map": "\\udfff"}}'})[1:]
    assert finding.code == "SEC001"
    finding.line.encode()


@pytest.mark.parametrize(
    "name",
    ["modeling_x.py", "lib.so", "lib.so.2", "run.sh", "demo.ipynb", "custom_generate", "custom_generate/generate.py"],
)
def test_files_of_code(name: str) -> None:
    for old in (BASE, None):
        assert found({**BASE, name: b"import os\n"}, old) == [("SEC002", name)]
        assert found(BASE, old, left_out=[name]) == [("SEC002", name)]


def test_code_of_the_base_is_told_when_it_changed() -> None:
    base = {**BASE, "modeling_x.py": b"1"}
    assert found(base, base) == []
    (finding,) = find_risks(base, {**base, "modeling_x.py": b"2"})
    assert finding.code == "SEC002"
    assert "the base has a file of this name" in finding.message


# --- pickles and disguises


@pytest.mark.parametrize("name", ["extra.bin", "pytorch_model.bin", "a.pt", "a.PTH", "a.ckpt", "a.pkl", "a.h5"])
def test_pickles_by_suffix(name: str) -> None:
    for old in (BASE, None):
        assert found(BASE, old, strays=[name], magic={name: b"\x80\x04\x8c"}) == [("SEC003", name)]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return buffer.getvalue()


PICKLES = [*(pickle.dumps({"a": [1]}, protocol) for protocol in range(2, 6)), b"cos\nsystem\n(S'true'\ntR.", zipped()]


@pytest.mark.parametrize("data", PICKLES)
@pytest.mark.parametrize("name", ["other.json", "model.safetensors", "vocab.txt", "shard-00001-of-00001.safetensors"])
def test_pickles_by_their_first_bytes(name: str, data: bytes) -> None:
    assert ("SEC003", name) in found(BASE, strays=[name], magic={name: data[:64]})
    assert ("SEC003", name) in found(BASE, magic={name: data[:64]})  # a listed shard
    assert ("SEC003", name) in found({**BASE, name: data})


@pytest.mark.parametrize("data", [b"\x7fELF\x02\x01", b"#!/bin/sh\n", b"MZ\x90\x00"])
def test_programs_by_their_first_bytes(data: bytes) -> None:
    assert found({**BASE, "notes.txt": data}) == [("SEC002", "notes.txt")]


@pytest.mark.parametrize("length", [0x0480, 0x0280, 0x0580, 0x04034B50, 0x8B1F])
def test_a_shard_whose_header_length_looks_like_a_pickle_is_a_shard(length: int) -> None:
    beginning = struct.pack("<Q", length) + b'{"a":{"dtype"'
    assert kind_of("model-00001-of-00002.safetensors", beginning) is None
    disguised = kind_of("model-00001-of-00002.safetensors", beginning[:8] + b"x")
    assert disguised is not None
    assert disguised.role is Role.PICKLE


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("figures.zip", zipped()),
        ("vocab.txt", b"cat\ndog\nbird\n"),
        ("LICENSE", b"copyright\nall\n"),
        ("tokenizer.model", b"\n\x0e\n\x05<unk>"),
        ("logo.png", b"\x89PNG\r\n\x1a\n"),
        ("empty", b""),
    ],
)
def test_what_is_honest_is_no_disguise(name: str, data: bytes) -> None:
    assert kind_of(name, data) is None


def test_a_stray_counts_as_the_bases_only_where_that_is_known() -> None:
    name = "pytorch_model.bin"
    assert found(BASE, strays=[name], old_names={name}, same={name}) == []
    (finding,) = find_risks(BASE, BASE, [name], old_names={name})
    assert finding.code == "SEC003"
    assert "not known to be the same" in finding.message


# --- what a model reads and says


def test_a_template_that_changed() -> None:
    assert found({**BASE, "chat_template.jinja": b"x"}) == [("SEC004", "chat_template.jinja")]
    gone = {name: data for name, data in BASE.items() if name != "chat_template.jinja"}
    assert found(gone) == [("SEC004", "chat_template.jinja")]
    name = "additional_chat_templates/tool.jinja"
    assert found({**BASE, name: b"x"}) == [("SEC004", name)]
    assert found({**BASE, "chat_template.json": text({"chat_template": "x"})}) == [("SEC004", "chat_template.json")]


def test_a_template_inside_of_a_config() -> None:
    pointer = "/chat_template"
    assert found(with_values("tokenizer_config.json", chat_template="x")) == [
        ("SEC004", f"tokenizer_config.json: {pointer}")
    ]
    bare = {name: data for name, data in BASE.items() if name != "tokenizer_config.json"}
    new = with_values("tokenizer_config.json", chat_template="x")
    assert found(new, bare) == [
        ("SEC004", f"tokenizer_config.json: {pointer}"),
        ("SEC005", "tokenizer_config.json"),
    ]


def test_a_tokenizer_that_changed() -> None:
    longer = {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": {"a": 0, "b": 1, "c": 3}}}  # type: ignore[dict-item]
    finding = the_one({**BASE, "tokenizer.json": text(longer)})
    assert (finding.code, finding.subject) == ("SEC005", "tokenizer.json")
    assert finding.message == "vocabulary: 1 token added"
    assert found({**BASE, "vocab.json": b'{"a": 0}'}) == [("SEC005", "vocab.json")]
    assert found(with_values("tokenizer_config.json", eos_token="a")) == [
        ("SEC005", "tokenizer_config.json: /eos_token")
    ]
    assert found({**BASE, "tokenizer_config.json": b"{"}) == [
        ("CFG001", "tokenizer_config.json"),
        ("SEC005", "tokenizer_config.json"),
    ]


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "pad_token_id", "image_token_index"])
def test_ids_of_tokens_outside_of_the_tokenizer(name: str, key: str) -> None:
    assert found(with_values(name, **{key: 5})) == [("SEC005", f"{name}: /{key}")]


def test_the_members_of_a_list_are_told_one_by_one() -> None:
    messages = {f.message for f in find_risks(BASE, with_values("config.json", eos_token_id=[7]))}
    assert messages == {"2 is missing, which the base lists", "found 7, which the base does not list"}


def test_generation_defaults() -> None:
    assert found(with_values("generation_config.json", temperature=0.1)) == [
        ("SEC006", "generation_config.json: /temperature")
    ]


def test_the_scope_of_a_quantisation() -> None:
    quantization = {"exclude_modules": ["lm_head", "model.layers.78*"]}
    finding = the_one(with_values("hf_quant_config.json", quantization=quantization))
    assert finding.line == (
        'SEC007 hf_quant_config.json: /quantization/exclude_modules: found "model.layers.78*", which the base does not list'
    )
    assert found(with_values("config.json", quantization_config={"ignore": []})) == [
        ("SEC007", "config.json: /quantization_config")
    ]
    assert found(with_values("hf_quant_config.json", producer={"version": "2"})) == [
        ("CFG003", "hf_quant_config.json: /producer/version")
    ]


def test_other_values_of_a_config() -> None:
    finding = the_one(with_values("config.json", rope_theta=5e6))
    assert finding.line == "CFG002 config.json: /rope_theta: expected 10000, the base's, found 5000000.0"
    assert found(with_values("config.json", transformers_version="5")) == [
        ("CFG003", "config.json: /transformers_version")
    ]
    assert found({**BASE, "config.json": b"[]"}) == [("CFG002", "config.json: the whole document")]


def test_many_values_are_counted() -> None:
    new = with_values("config.json", **{f"key{n}": n for n in range(MAX_PLACES + 7)})
    findings = find_risks(BASE, new)
    assert len(findings) == MAX_PLACES + 1
    (rest,) = [f for f in findings if f.subject == "config.json"]
    assert rest.message.startswith("and 7 more")


# --- licences


@pytest.mark.parametrize(
    ("card", "subjects"),
    [
        (b"---\nlicense: cc-by-nc-4.0\n---\n# base\n", ["README.md: license"]),
        (b"# base\n", ["README.md: license"]),
        (b"---\nlicense: other\nlicense_name: x\n---\n", ["README.md: license", "README.md: license_name"]),
        (b"---\nlicense: mit\nbase_model: org/other\n---\n# other\n", []),
    ],
)
def test_the_licence_of_the_card(card: bytes, subjects: list[str]) -> None:
    assert found({**BASE, "README.md": card}) == [("SEC008", subject) for subject in subjects]


def test_the_text_of_a_licence() -> None:
    assert found({**BASE, "LICENSE": b"Other License\n"}) == [("SEC008", "LICENSE")]
    assert found({**BASE, "USAGE_POLICY": b"x"}) == [("SEC008", "USAGE_POLICY")]
    assert found({name: data for name, data in BASE.items() if name != "LICENSE"}) == [("SEC008", "LICENSE")]


def test_no_licence_at_all() -> None:
    bare = {name: data for name, data in BASE.items() if name not in ("LICENSE", "README.md")}
    (finding,) = find_risks(bare, bare)
    assert (finding.code, finding.subject) == ("SEC009", "README.md: license")
    assert "neither does the base" in finding.message
    (finding,) = find_risks(None, {**bare, "NOTICE": b"x"})
    assert finding.code == "SEC009"
    assert "base" not in finding.message
    assert [code for code, _ in found(bare)] == ["SEC008", "SEC008"]


# --- names that redirect


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "consolidated.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "consolidated.safetensors.index.json",
        "other.index.json",
        "params.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "mtp.safetensors",
        "base_hf_quant_config.json",
        "model.gguf",
    ],
)
def test_names_that_redirect(name: str) -> None:
    for old in (BASE, None):
        assert ("SEC010", name) in found(BASE, old, strays=[name])
        assert ("SEC010", name) in found({**BASE, name: b"{}"}, old)
    assert found(BASE, strays=[name], old_names={name}, same={name}) == []


@pytest.mark.parametrize("name", ["quantize_config.json", "preprocessor_config.json", "modules.json"])
def test_names_that_redirect_only_where_the_base_lacks_them(name: str) -> None:
    assert found({**BASE, name: b"{}"}) == [("SEC010", name)]
    assert found({**BASE, name: b"{}"}, None) == []


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "notes.md", "model.safetensors.index.json"])
def test_names_that_redirect_nobody(name: str) -> None:
    assert found(BASE, left_out=[name]) == []


def test_a_listed_shard_is_judged_by_its_bytes_alone() -> None:
    assert found(BASE, magic={"mtp.safetensors": struct.pack("<Q", 64) + b'{"a"'}) == []


# --- whatever it is given


def test_iterators_are_as_good_as_lists() -> None:
    names: Iterable[str] = iter(["extra.bin", "mtp.safetensors"])
    assert found(BASE, strays=names, left_out=iter(["x.py"])) == [
        ("SEC002", "x.py"),
        ("SEC003", "extra.bin"),
        ("SEC010", "mtp.safetensors"),
    ]


ODD_BYTES = st.one_of(
    st.binary(max_size=40),
    TEXTS.map(str.encode),
    json_values.map(text),
    st.sampled_from([*BASE.values(), *PICKLES, b'{"auto_map": [[["x"]]]}', b"[" * 3000]),
)
SIDECARS = st.dictionaries(
    st.sampled_from([*BASE, "params.json", "x.py", "x.bin", "vocab.json", "adapter_config.json", "chat_template.json"]),
    ODD_BYTES,
    max_size=4,
)


@given(st.none() | SIDECARS, SIDECARS, st.lists(st.sampled_from(["x.bin", "mtp.safetensors", "\x1b.py", ""])))
@settings(max_examples=300)
def test_nothing_makes_it_fail(old: dict[str, bytes] | None, new: dict[str, bytes], strays: list[str]) -> None:
    findings = find_risks(old, new, strays, strays, frozenset(), dict.fromkeys(strays, b"\x80\x04"))
    assert findings == sorted(set(findings))
    for finding in findings:
        assert finding.code in CODES
        assert finding.file in {*new, *(old or {}), *strays, "README.md"}
        finding.line.encode()


@given(SIDECARS)
def test_what_the_base_has_is_no_risk(sidecars: dict[str, bytes]) -> None:
    assert {finding.code for finding in find_risks(sidecars, sidecars)} <= {"SEC009"}


@given(SIDECARS, SIDECARS)
def test_whatever_runs_code_is_found_with_and_without_a_base(old: dict[str, bytes], new: dict[str, bytes]) -> None:
    alone = {(f.code, f.file) for f in find_risks(None, new) if f.severity is Severity.ERROR}
    against = {(f.code, f.file) for f in find_risks(old, new)}
    assert {(code, name) for code, name in alone if name not in old} <= against
