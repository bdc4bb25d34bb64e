"""MTP and QNT: drafts, and what is quantised how, as engines go by it.  `overlay lint` reports them."""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, SGLANG, TRANSFORMERS, VLLM, Meaning, Severity

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_VLLM, _SGL = f"{GITHUB}/vllm-project/vllm", f"{GITHUB}/sgl-project/sglang"

DRAFT_CODES: Final[dict[str, Meaning]] = {
    "MTP002": Meaning(
        _W,
        "layers past the trunk that the config does not declare",
        "set num_nextn_predict_layers, or drop the layers",
        {VLLM: "KeyError while it loads the target", SGLANG: "ValueError when a draft is asked for"},
        "vLLM passes over a draft layer in the target only where the config says that there is one.",
        (f"{_VLLM}/pull/35548",),
    ),
    "MTP003": Meaning(
        _W,
        "SGLang drafts with exactly one layer",
        "set num_nextn_predict_layers to 1",
        {SGLANG: "ValueError without the key, AssertionError for any number but 1"},
        "The check is in `deepseek_weight_loader.py:552-584`.",
    ),
    "MTP004": Meaning(
        _E,
        "the draft layer lacks a tensor",
        'graft the whole layer: tensors ["model.layers.N.**"]',
        {
            VLLM: "says nothing; unquantised: ValueError for norms and eh_proj. Nothing of the layer: ValueError",
            SGLANG: "says nothing",
            TRANSFORMERS: "RuntimeError: MtpModel weights are missing",
        },
        "A draft with one uninitialised weight proposes garbage: the text stays right, acceptance falls to 1.0.",
        (f"{_VLLM}/issues/43456",),
    ),
    "MTP005": Meaning(
        _N,
        "the draft layer holds a copy of the embedding or output layer",
        "drop it to save space, if it equals the target's",
        {VLLM: "replaces it by the target's", SGLANG: "passes over it", TRANSFORMERS: "passes over it"},
        "DeepSeek-V3 ships both; GLM-5.2 ships neither. Loading them costs time and memory.",
    ),
    "MTP006": Meaning(
        _E,
        "the draft layer holds a tensor that the engine does not know",
        "leave it out of the graft",
        {
            VLLM: "KeyError",
            SGLANG: "a warning, or KeyError for part of a stacked linear",
            TRANSFORMERS: "passes over it",
        },
        "vLLM looks every name of the layer up among its parameters.",
    ),
    "MTP007": Meaning(
        _E,
        "draft and target do not fit together",
        "build the draft from the target's config",
        {VLLM: "KeyError or AssertionError", SGLANG: "RuntimeError"},
        "Layer number, expert counts and sizes come from both configs: vLLM numbers the layer and maps experts by the "
        "target's, and builds modules by the draft's.",
        (f"{GITHUB}/jundot/omlx/issues/3610",),
    ),
    "QNT001": Meaning(
        _E,
        "a module that engines never quantise is stored quantised",
        "keep it in BF16: eh_proj, norms, gate, indexer.wk, indexer.weights_proj",
        {VLLM: "KeyError", SGLANG: "a warning; the weight stays uninitialised"},
        "These modules are built without a quantisation config, whatever the declaration says (`deepseek_mtp.py:87`, "
        "`deepseek_v2.py:679-720`).",
    ),
    "QNT002": Meaning(
        _E,
        "a module is stored in another scheme than the config assigns to it",
        "except it in both quantisation configs (overlay lint CHECKPOINT --fix -o FILE writes that), or convert it",
        {VLLM: "KeyError, AssertionError, or experts that are half filled", SGLANG: "KeyError or a silent draft"},
        "Engines build modules from config.json, not from the headers. vLLM builds the draft layer with the target's "
        "declaration under its name in the checkpoint, model.layers.N.",
        (f"{_VLLM}/issues/35031", f"{_VLLM}/issues/44087", f"{_VLLM}/pull/37667", f"{_VLLM}/pull/49275"),
    ),
    "QNT003": Meaning(
        _E,
        "SGLang builds the draft unquantised under a modelopt_fp4 target",
        "graft the layer in BF16",
        {SGLANG: "NVFP4: KeyError or RuntimeError; FP8 and INT4: silent where the shared expert is fused"},
        "The declaration is thrown away for the draft, whatever the checkpoint holds (`deepseek_nextn.py:75-79`).",
        (f"{_SGL}/issues/36599",),
    ),
    "QNT004": Meaning(
        _E,
        "SGLang asks the declaration about model.decoder, and not about model.layers.N",
        "add an entry for the other prefix too: re:model\\.decoder\\..*",
        {SGLANG: "builds the draft quantised: KeyError, or silent where the shared expert is fused"},
        "Entries for the name in the checkpoint do not match the name that SGLang gives the module.",
        (f"{_SGL}/issues/38574", f"{_SGL}/pull/36786", f"{_SGL}/pull/40002"),
    ),
    "QNT005": Meaning(
        _W,
        "config.json and hf_quant_config.json declare different things",
        "keep both equal; engines read config.json first",
        detail="Algorithm or the list of unquantised modules differ. Which one counts depends on the reader.",
    ),
    "QNT006": Meaning(
        _E,
        "parts of one fused module are stored or declared differently",
        "store gate and up, q_a and kv_a, q and k and v in one scheme",
        {VLLM: "ValueError: Found different quantization schemes"},
        "Engines stack them into one parameter.",
        (f"{_VLLM}/issues/53992",),
    ),
    "QNT007": Meaning(
        _W,
        "gate and up of one expert have different weight_scale_2 or input_scale",
        "quantise them with a common scale",
        {VLLM: "uses one of the two: less accurate, one warning", SGLANG: "uses one of the two"},
        "NVFP4 has one scale a tensor over those of its groups; a stacked parameter has room for one.",
        (f"{_VLLM}/issues/54974",),
    ),
    "QNT008": Meaning(
        _E,
        "a quantised tensor's shape does not follow from the scheme",
        "quantise it with the group size that the config declares",
        {
            VLLM: "experts, since 0.20: fills part of the parameter silently; else AssertionError",
            SGLANG: "RuntimeError",
        },
        "A scale of groups of 128 fills 3 of the 12 columns that groups of 32 need, and nobody says so.",
    ),
    "QNT009": Meaning(
        _E,
        "a tensor has the right shape and another dtype than the scheme's",
        "convert the tensor",
        {VLLM: "copies the numbers without their scale", SGLANG: "copies the numbers without their scale"},
        "Copying casts: FP8 into BF16 loses the scale, BF16 into FP8 is cut at 448, U8 wraps around.",
    ),
    "QNT010": Meaning(
        _E,
        "weight_shape is not the shape of the packed weight",
        "quantise the module again",
        {VLLM: "wrong numbers or a crash", SGLANG: "wrong numbers or a crash"},
        "pack-quantized stores the unpacked shape beside the words; 16 bytes of data are read for this.",
    ),
    "QNT011": Meaning(
        _E,
        "experts with zero points need a newer engine",
        "serve with vLLM >= 0.23 or SGLang >= 0.5.14, or quantise symmetrically",
        {"vLLM 0.22": "AssertionError: Only symmetric quantization is supported for MoE"},
        "Layers of experts learned zero points late in both engines.",
        (f"{_VLLM}/issues/39980", f"{_VLLM}/pull/44025", f"{_SGL}/pull/27690"),
    ),
    "QNT012": Meaning(
        _E,
        "sizes do not divide by groups and tensor-parallel ranks",
        "choose another tensor-parallel size or group size",
        {VLLM: "ValueError or AssertionError when it starts", SGLANG: "an error when it starts"},
        "Inputs divide by the group size on every rank, outputs of zero points by 8, NVFP4's inputs by 16.",
    ),
    "QNT013": Meaning(
        _E,
        "an FP8 indexer.wk lacks its scale",
        "store both halves, or BF16",
        {VLLM: "since 0.20 waits for the other half for ever: the weight stays uninitialised"},
        "vLLM dequantises the pair while it loads (`deepseek_v2.py:857-913`).",
    ),
    "QNT014": Meaning(
        _E,
        "the scale of FP8 blocks has the other library's name",
        "rename it: weight_scale_inv for quant_method fp8, weight_scale for compressed-tensors and ModelOpt",
        {VLLM: "KeyError", SGLANG: "a warning; the scale stays uninitialised"},
        "The bytes are the same, the name is not.",
        (f"{GITHUB}/ROCm/vllm/pull/777",),
    ),
    "QNT015": Meaning(
        _W,
        "an entry of the list of unquantised modules also describes layers of another number",
        "end it with a dot or a wildcard: model.layers.7.*",
        {VLLM: "takes an entry for any part of a name: model.layers.7 also describes 70 to 79"},
        "ModelOpt's lists are matched as text, as a part of the name, and as a pattern (`modelopt.py:191-226`).",
    ),
    "QNT016": Meaning(
        _E,
        "vLLM builds the draft's output layer in NVFP4",
        "except the draft's head too, or all of its layer: overlay lint CHECKPOINT --fix -o FILE writes that",
        {VLLM: "RuntimeError: NVFP4 weight_scale … was never loaded (since 0.30); GLM-4: size of tensor"},
        "The draft's shared head is built under the name model.layers.N.head, which an entry lm_head does not describe.",
    ),
}
