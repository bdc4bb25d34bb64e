"""CFG and MTP: what the small files say, and whether the tensors keep it."""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, SGLANG, TRANSFORMERS, VLLM, Meaning, Severity

SIDECARS: Final[dict[str, Meaning]] = {
    "CFG001": Meaning(
        Severity.ERROR,
        "a JSON sidecar is not valid JSON",
        "correct the file, or fetch it again",
        detail="Every file that ends in .json must parse. A download that was cut and a merge that was done by hand are "
        "the usual reasons.",
    ),
    "MTP001": Meaning(
        Severity.WARNING,
        "the config declares a draft layer that the checkpoint does not hold",
        "graft it, or speculation never fires",
        {
            VLLM: "ValueError that names the layer (before 0.17: drafts from uninitialised memory)",
            SGLANG: "loads silently; every draft is rejected (accept length 1.000)",
            TRANSFORMERS: "loads the model; generate(use_mtp=True) is refused",
        },
        "Tools that quantise or merge a checkpoint through transformers never load the draft layer, so that it is not in "
        "what they write; config.json still declares it. A draft without weights costs time and gains nothing.",
        (
            f"{GITHUB}/vllm-project/vllm/pull/35548",
            f"{GITHUB}/sgl-project/sglang/issues/35797",
            f"{GITHUB}/jundot/omlx/issues/2678",
        ),
    ),
    "CFG002": Meaning(
        Severity.WARNING,
        "a value of a config is not the base's",
        "compare it with the base's, and take it only if the change is meant",
        detail="config.json, params.json and the processors' configs decide what is computed from the weights: a "
        "rope_theta, a scaling factor or a layer type that does not fit them gives wrong output without an error. A "
        "standalone draft has a config of its own, and differs in many places.",
    ),
    "CFG003": Meaning(
        Severity.NOTE,
        "a value of a config that only tells where it comes from is not the base's",
        "nothing, unless the origin matters",
        detail="transformers_version, _name_or_path and their like record how a file was made. No loader acts on them.",
    ),
    "CFG004": Meaning(
        Severity.WARNING,
        "the config declares layers of which the checkpoint holds no tensor",
        "fetch the shards and the index again, or correct num_hidden_layers",
        {
            VLLM: "ValueError for its norms if nothing is quantised; else loads, the layer stays as it was initialised",
            SGLANG: "loads silently; the layer stays as it was initialised",
            TRANSFORMERS: "warns, and fills the layer with random values",
        },
        "num_hidden_layers counts the layers of the trunk, from 0. Other layers of the same stack are there, and these have "
        "no tensor at all: a shard was lost together with its entries in the index, or layers were cut out and the config "
        "kept the old number. Draft layers, standalone drafts, adapters and towers for images are not counted.",
    ),
}
