"""ENG: what one serving engine does with a checkpoint that is sound in itself.  `overlay lint` reports them.

Which releases a behaviour belongs to, and where it was read, is in `engines.rules`.
"""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, SGLANG, TRANSFORMERS, VLLM, Meaning, Severity

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

ENGINE_CODES: Final[dict[str, Meaning]] = {
    "ENG001": Meaning(
        _N,
        "a header's __metadata__ is empty",
        'write {"format": "pt"} when the shard is made again',
        {"Fastsafetensors before 2026-07": "KeyError: 'data_offsets'"},
        "An empty object is valid and unusual; one loader took it for a tensor.",
        (f"{GITHUB}/foundation-model-stack/fastsafetensors/pull/89",),
    ),
    "ENG002": Meaning(
        _W,
        "which copy of a tensor wins depends on the engine",
        "take one copy out of its shard: a manifest with mode: replace does",
        {VLLM: "sorts names naturally", SGLANG: "sorts them as text", TRANSFORMERS: "sorts them as text"},
        "The last file wins, and engines sort names in two ways: part-10 comes before part-2 as text, after it by number.",
        (f"{GITHUB}/vllm-project/vllm/pull/54230",),
    ),
    "ENG003": Meaning(
        _W,
        "several files end in hf_quant_config.json",
        "move the others away",
        {VLLM: "ValueError: Found multiple config files, where config.json declares no quantisation"}
        | {SGLANG: "the same ValueError"},
        "The file is looked for by how its name ends, so that a backup beside it is found as well.",
    ),
    "ENG004": Meaning(
        _N,
        "the config states no dtype",
        "add dtype to config.json",
        {VLLM: "infers it from the headers of every shard in the folder, listed or not"},
        "A few F32 tensors that are added can then change the dtype of the whole model.",
    ),
    "ENG005": Meaning(
        _W,
        "a shard that the index does not name holds an output layer",
        "move the shard away",
        {VLLM: "since 0.29 loads the model untied: more memory, another output layer"},
        "vLLM reads the header of every shard in the folder to decide whether embeddings are tied.",
    ),
    "ENG006": Meaning(
        _W,
        "the folder's name makes vLLM take the draft for another kind",
        "rename the folder",
        {VLLM: "a path with eagle-, eagle3, dflash or dspark overrides the method, even one that was asked for"},
        "The test is on the path's text, case ignored (`config/speculative.py:1433-1468`).",
    ),
    "ENG007": Meaning(
        _E,
        "a repository that holds only a difference is no checkpoint to serve",
        "assemble it first: overlay apply REPOSITORY -o DIR --base BASE; lint --base BASE says what comes of it",
        {VLLM: "FileNotFoundError (before 0.26: loads, nearly all weights uninitialised)"}
        | {
            SGLANG: "RuntimeError (before 0.5.17: loads, nearly all weights uninitialised)",
            TRANSFORMERS: "FileNotFoundError",
        },
        "Its index names the shards of its base as well, which are not there.",
    ),
    "ENG008": Meaning(
        _W,
        "mtp.safetensors is not in the index, and no engine adds it for this architecture",
        "list it: overlay verify DIR --fix PATH --adopt mtp.safetensors",
        {SGLANG: "adds it for Glm4Moe and Glm4MoeLite only", VLLM: "ignores it"},
        "The draft in it is inert.",
        (f"{GITHUB}/sgl-project/sglang/pull/17166", f"{GITHUB}/NVIDIA/Model-Optimizer/issues/750"),
    ),
    "ENG010": Meaning(
        _E,
        "the trunk lacks a tensor that the config asks for",
        "fetch the shard that holds it, or graft it",
        {
            VLLM: "unquantised: ValueError for norms; else says nothing, and the weight stays uninitialised",
            SGLANG: "says nothing",
            TRANSFORMERS: "warns and fills it with random values; an expert: RuntimeError",
        },
        "What a layer needs is derived from config.json for the families that are known.",
    ),
    "ENG011": Meaning(
        _W,
        "the trunk holds a tensor that the engine does not know",
        "take it out, or correct the config",
        {VLLM: "KeyError", SGLANG: "passes over it", TRANSFORMERS: "passes over it"},
        "vLLM looks every name up among its parameters. The other two report unknown names at most.",
    ),
    "ENG012": Meaning(
        _E,
        "a tensor's shape is not what the config asks for",
        "take the config and the shards from one checkpoint",
        {VLLM: "AssertionError; a smaller expert, since 0.20: fills part of it silently"}
        | {SGLANG: "RuntimeError", TRANSFORMERS: "RuntimeError"},
        "Sizes come from config.json alone: hidden_size, heads, ranks, experts, vocab_size.",
    ),
    "ENG014": Meaning(
        _E,
        "the experts of a layer are not those that the config counts",
        "prune or renumber them together with the router and the config: the step keep-experts does",
        {VLLM: "too many: KeyError; too few: says nothing", SGLANG: "too many: passes over them; too few: says nothing"}
        | {TRANSFORMERS: "RuntimeError while converting"},
        "Experts are numbered 0 to n-1 in every layer, the draft layer included, and gate and bias have n rows.",
        (f"{GITHUB}/jundot/omlx/issues/3610",),
    ),
    "ENG020": Meaning(
        _N,
        "an architecture whose tensors lint does not know",
        "trust the rules about files, and verify the draft with overlay probe",
        detail="Rules that need no names of modules were applied: files, order, duplicates, phantoms, declarations. Nothing "
        "is said about missing or unknown tensors.",
    ),
    "ENG021": Meaning(
        _N,
        "a release of an engine that nobody looked at",
        "take the prediction as that of the named release",
        detail="The rules of the nearest older release that was read were used.",
    ),
    "ENG022": Meaning(
        _N,
        "a declaration of quantisation that lint does not understand",
        "trust the rules about files and names; schemes were not compared",
        detail="Nothing is guessed about a method or format that lint has no rules for.",
    ),
    "ENG023": Meaning(
        _N,
        "the engine cannot draft for this family",
        "serve the draft with another engine",
        {TRANSFORMERS: "MtpModel knows drafts by the published layer number, and needs keys that configs seldom have"},
        "This says nothing against the checkpoint: generate(use_mtp=True) is refused, everything else works.",
    ),
    "ENG024": Meaning(
        _N,
        "a standalone draft: it holds no layer of the trunk",
        "hold it against its target: overlay lint DRAFT --target TARGET",
        detail="It is served as the draft model beside a target; nothing is predicted about a target.",
    ),
    "ENG025": Meaning(
        _W,
        "the engine cannot serve this quantisation",
        "serve it with another engine or release",
        {
            TRANSFORMERS: "passes over quant_method modelopt, and then refuses the packed shapes; refuses zero points",
            SGLANG: "refuses zero points of experts in compressed-tensors' layout, and a packed q_a_proj beside kv_a_proj",
        },
        "Measured with the engines' own loaders on small checkpoints.",
    ),
}
