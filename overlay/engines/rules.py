"""The rules, as data: what each is about, which engines it holds for, what a person sees, and where it was read or measured.

A rule is found under its code, whose meaning, fix and references are in `core.codes`; what changed between releases is
`versions.SINCE`.  The checks are small functions: files and order in `files`, the index in `declarations`, modules in
`simulating` and `outcomes`, drafts in `drafting`, bytes in `values`, a draft beside its target in `pairing`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Symptom = Literal["silent", "error", "ignored", "warning", "none"]
"""What a person sees: nothing although weights are wrong, an error, a part that is not used, less than promised, nothing at
all."""

_ALL: Final = ("vllm", "sglang", "transformers")
_SERVING: Final = ("vllm", "sglang")
_CONVERTERS: Final = ("llama.cpp", "mlx")


class Rule(NamedTuple):
    """One rule."""

    number: int
    codes: tuple[str, ...]
    title: str
    engines: tuple[str, ...]
    symptoms: tuple[Symptom, ...]
    evidence: str
    """Files and lines of the releases that `versions.KNOWN` ends with; what was run with the real loaders says so."""


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        1,
        ("IDX003",),
        "every file that the index names exists",
        _ALL,
        ("silent", "error"),
        "vLLM weight_utils.py:590-616 (run); SGLang weight_utils.py:757-808 (run); transformers utils/hub.py:962 (run)",
    ),
    Rule(
        2,
        ("IDX010",),
        "a shard that the index does not name is not opened",
        _ALL,
        ("ignored",),
        "vLLM weight_utils.py:590-616; SGLang weight_utils.py:757-808 (run)",
    ),
    Rule(
        3,
        ("IDX005",),
        "every tensor of an opened shard is loaded, whatever the index says",
        _ALL,
        ("silent",),
        "vLLM weight_utils.py:1244-1249; transformers modeling_utils.py:4552-4577 (run)",
    ),
    Rule(
        4,
        ("IDX007",),
        "of a tensor in two opened shards the last one wins, or a race decides",
        _ALL,
        ("silent",),
        "vLLM weight_utils.py:152-158 (run); SGLang deepseek_weight_loader.py:291-427 (run)",
    ),
    Rule(
        5,
        ("IDX004",),
        "a tensor that the index maps and no file holds is not missed",
        _ALL,
        ("silent",),
        "vLLM default_loader.py:510-572 (run)",
    ),
    Rule(
        6,
        ("IDX005",),
        "a tensor that the index does not map is loaded by engines, and passed over by what trusts the index",
        _ALL,
        ("silent", "error"),
        "transformers modeling_layers.py (MtpModel.from_pretrained goes by the index, run)",
    ),
    Rule(
        7,
        ("IDX002",),
        "values of the index are bare file names",
        _ALL,
        ("silent", "error"),
        "vLLM and SGLang compare them with a flat glob (run)",
    ),
    Rule(
        8,
        ("IDX016",),
        "no consolidated*.safetensors beside the shards",
        ("vllm",),
        ("error",),
        "vLLM default_loader.py:170-197, repo_utils.py:174-206 (run)",
    ),
    Rule(
        9,
        ("IDX015",),
        "no model.safetensors beside an index",
        ("transformers",),
        ("silent",),
        "transformers modeling_utils.py:591-605 (run)",
    ),
    Rule(
        10,
        ("IDX009",),
        "the index has metadata",
        ("transformers",),
        ("error",),
        "transformers utils/hub.py:969 (run)",
    ),
    Rule(
        11,
        ("IDX008",),
        "total_size is the sum of tensor data; no engine reads it, overlay verify does",
        _ALL,
        ("none",),
        "grep of all three",
    ),
    Rule(
        12,
        ("ENG001",),
        "__metadata__ of a header is not empty",
        _SERVING,
        ("error",),
        "fastsafetensors PR 89",
    ),
    Rule(
        13,
        ("IDX017",),
        "listed shards are called model*.safetensors",
        _CONVERTERS,
        ("ignored", "error"),
        "llama.cpp issue 16361; omlx issue 2062",
    ),
    Rule(
        14,
        ("ENG002",),
        "a superseding shard comes last in natural and in lexicographic order",
        _ALL,
        ("silent",),
        "vLLM sorts naturally, SGLang and transformers as text (run)",
    ),
    Rule(
        15,
        ("MTP001", "MTP002"),
        "draft layers are declared and there, or neither",
        _ALL,
        ("silent", "error"),
        "vLLM deepseek_mtp.py:520-537, deepseek_v2.py:1653; SGLang: no check (run)",
    ),
    Rule(
        16,
        ("MTP003",),
        "exactly one draft layer",
        ("sglang",),
        ("error",),
        "SGLang deepseek_weight_loader.py:552-584 (run)",
    ),
    Rule(
        17,
        ("MTP004", "MTP006", "ENG010", "ENG011"),
        "every layer holds the tensors that the config asks for, and no other",
        _ALL,
        ("silent", "error"),
        "vLLM deepseek_mtp.py:400-537, default_loader.py:510-572; SGLang deepseek_weight_loader.py:390, 528 (run)",
    ),
    Rule(
        18,
        ("MTP005",),
        "copies of embedding and output layer in a draft are not used",
        _ALL,
        ("ignored",),
        "vLLM llm_base_proposer.py:1418-1576; SGLang deepseek_weight_loader.py:319",
    ),
    Rule(
        19,
        ("QNT001",),
        "eh_proj, norms, gate, indexer.wk and weights_proj are never quantised",
        _SERVING,
        ("error", "silent"),
        "vLLM deepseek_mtp.py:87, deepseek_v2.py:679-720 (run)",
    ),
    Rule(
        20,
        ("QNT002",),
        "each module is stored in the scheme that the config assigns to its name",
        _SERVING,
        ("error", "silent"),
        "vLLM deepseek_mtp.py:83, modelopt.py:191-226, compressed_tensors/utils.py (run)",
    ),
    Rule(
        21,
        ("QNT003",),
        "under modelopt_fp4 the draft is BF16",
        ("sglang",),
        ("error", "silent"),
        "SGLang deepseek_nextn.py:75-79, glm4_moe_nextn.py:52-56 (run)",
    ),
    Rule(
        22,
        ("QNT004",),
        "entries describe model.decoder as well",
        ("sglang",),
        ("error", "silent"),
        "SGLang glm4_moe.py:1353-1430 remaps Quark alone",
    ),
    Rule(
        23,
        ("QNT005",),
        "config.json and hf_quant_config.json declare the same",
        _SERVING,
        ("error",),
        "vLLM transformers_utils/config.py:951-965; SGLang model_config.py:1727-1797 (run)",
    ),
    Rule(
        24,
        ("ENG003",),
        "one file ends in hf_quant_config.json",
        ("sglang",),
        ("error",),
        "SGLang weight_utils.py:377-394 (run); vLLM reads the file by its name (run)",
    ),
    Rule(
        25,
        ("QNT006",),
        "parts of a fused module have one scheme",
        _SERVING,
        ("error",),
        "vLLM compressed_tensors/utils.py:62-70, compressed_tensors_moe.py:36-58",
    ),
    Rule(
        26,
        ("QNT007",),
        "gate and up share weight_scale_2 and input_scale",
        _SERVING,
        ("warning",),
        "vLLM modelopt.py:1057-1063, 2085-2095",
    ),
    Rule(
        27,
        ("QNT008", "ENG012"),
        "shapes of experts and scales are exact",
        _SERVING,
        ("silent", "error"),
        "vLLM fused_moe/layer.py; SGLang fused_moe_triton/layer.py narrow the parameter (run)",
    ),
    Rule(28, ("QNT009",), "dtypes are those of the scheme", _ALL, ("silent",), "Tensor.copy_ casts (run)"),
    Rule(
        29,
        ("QNT010",),
        "weight_shape is the shape of the packed weight",
        _SERVING,
        ("silent", "error"),
        "compressed-tensors 0.20 pack_to_int32",
    ),
    Rule(
        30,
        ("QNT011",),
        "experts with zero points need vLLM 0.23 or SGLang 0.5.14",
        _SERVING,
        ("error",),
        "vLLM PR 44025; SGLang PR 27690",
    ),
    Rule(
        31,
        ("QNT012",),
        "sizes divide by groups and ranks",
        _SERVING,
        ("error",),
        "vLLM compressed_tensors_moe_wna16.py:238-276",
    ),
    Rule(
        32,
        ("ENG014", "MTP007"),
        "experts are numbered 0 to n-1 everywhere, and n is the config's",
        _ALL,
        ("error", "silent"),
        "vLLM deepseek_mtp.py:81, 243, 324 (run)",
    ),
    Rule(
        33,
        ("QNT013",),
        "an FP8 indexer.wk comes with its scale",
        ("vllm",),
        ("silent",),
        "vLLM deepseek_v2.py:857-913",
    ),
    Rule(
        34,
        ("QNT014",),
        "FP8 blocks call their scale as the quant_method does",
        _SERVING,
        ("error", "silent"),
        "DeepSeek: weight_scale_inv; compressed-tensors and ModelOpt: weight_scale",
    ),
    Rule(
        35,
        ("ENG004",),
        "the config states a dtype",
        ("vllm",),
        ("warning",),
        "vLLM transformers_utils/config.py:1452-1458",
    ),
    Rule(
        36,
        ("ENG005",),
        "no stray shard holds an output layer where embeddings are tied",
        ("vllm",),
        ("warning",),
        "vLLM transformers_utils/config.py:1532-1550",
    ),
    Rule(
        37,
        ("ENG006",),
        "the path holds no word that names another kind of draft",
        ("vllm",),
        ("silent",),
        "vLLM config/speculative.py:1433-1468",
    ),
    Rule(
        38,
        ("ENG007",),
        "a repository that holds only a difference is not served",
        _ALL,
        ("silent", "error"),
        "as rule 1 (run)",
    ),
    Rule(
        39,
        ("ENG008",),
        "mtp.safetensors beside the index is added for Glm4Moe alone",
        ("sglang",),
        ("ignored",),
        "SGLang weight_utils.py:811-865",
    ),
    Rule(
        40,
        ("QNT015",),
        "an entry describes the layers that it means, and no others",
        ("vllm",),
        ("error",),
        "vLLM modelopt.py:191-226",
    ),
    Rule(
        41,
        ("CFG002",),
        "a graft leaves the base's config as it is, but for what is declared",
        _ALL,
        ("warning",),
        "overlay audit --against BASE compares them; a manifest says what it changes",
    ),
    Rule(
        42,
        ("LNK002",),
        "no link dangles",
        _ALL,
        ("error",),
        "FileNotFoundError when the file is opened (run)",
    ),
    Rule(
        43,
        ("QNT016",),
        "the draft's output layer is left out of NVFP4",
        ("vllm",),
        ("error",),
        "vLLM modelopt.py:2076-2085, glm4_moe_mtp.py:275 (run)",
    ),
    Rule(
        44,
        ("ENG025",),
        "the engine can serve the quantisation at all",
        ("sglang", "transformers"),
        ("error",),
        "SGLang fused_moe_triton/layer.py:879, linear.py:376 (run); transformers quantizers/auto.py:296 (run)",
    ),
)
"""By number; those up to 42 are the first that were collected, and a number is never given again."""
