"""IDX: what index, headers and file names say against each other.

What the engines do was measured with their own functions for choosing files, over small checkpoints on disk.
"""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, GLOBBING, SGLANG, TRANSFORMERS, VLLM, Meaning, Severity, everywhere

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_FIX: Final = "overlay verify … --fix PATH writes a correct index"

INDEX: Final[dict[str, Meaning]] = {
    "IDX001": Meaning(
        _E,
        "the index is not valid",
        f"fetch the index again, or: {_FIX}",
        detail="The index is a JSON object with a weight_map, tensor name to shard, and metadata. It must be strict "
        "JSON in UTF-8, and no name may occur twice: of two equal keys most readers keep the last without a word.",
    ),
    "IDX002": Meaning(
        _E,
        "the weight map names something that is not a shard of this directory",
        f"put the shard beside the index under a bare name, then: {_FIX}",
        {VLLM: "FileNotFoundError (before 0.26: drops the file silently)", SGLANG: "drops the file silently"}
        | {TRANSFORMERS: "loads it"},
        "The values of the weight map must be bare file names that end in .safetensors. vLLM and SGLang compare them, "
        "as text, with the names that they find in the directory, so that ./model.safetensors and "
        "sub/model.safetensors equal none of them. A path that climbs out of the directory is hostile.",
    ),
    "IDX003": Meaning(
        _E,
        "the index names a shard that is not there",
        "fetch the missing shard",
        {
            VLLM: "FileNotFoundError (before 0.26: loads, its weights stay uninitialised)",
            SGLANG: "RuntimeError (before 0.5.17: loads, its weights stay uninitialised)",
            TRANSFORMERS: "FileNotFoundError",
        },
        "A download that was not finished, or a repository that holds only a difference: its index also names the "
        "shards of its base, and it cannot be served without them.",
        (
            f"{GITHUB}/vllm-project/vllm/issues/34859",
            f"{GITHUB}/sgl-project/sglang/pull/32279",
            f"{GITHUB}/Neph0s/CoSER/issues/3",
        ),
    ),
    "IDX004": Meaning(
        _E,
        "phantom: a mapped tensor that its shard does not hold",
        f"find the shard that holds it and --adopt it, or leave the tensor out: {_FIX}",
        everywhere("says nothing; the weight stays as it was initialised"),
        "Engines read the weight map for the names of files and never ask for a tensor that they did not find there. "
        "Tools that look tensors up in the index fail on it.",
        (
            f"{GITHUB}/huggingface/huggingface_hub/issues/4725",
            f"{GITHUB}/huggingface/huggingface_hub/pull/4728",
            f"{GITHUB}/Blaizzy/mlx-vlm/pull/1827",
        ),
    ),
    "IDX005": Meaning(
        _E,
        "orphan: a tensor in a listed shard that the index does not map",
        f"take it out of the shard, or map it: {_FIX}",
        everywhere("loads it: every tensor of a listed shard is read") | {"MLX (trusts the index)": "leaves it out"},
        "Engines use the weight map to choose files, not tensors. A tensor that was replaced, and only taken out of "
        "the index, is therefore still loaded, and may overwrite its replacement.",
        (f"{GITHUB}/vllm-project/vllm/pull/54230", f"{GITHUB}/osaurus-ai/vmlx-swift/pull/388"),
    ),
    "IDX006": Meaning(
        _E,
        "a tensor is mapped to one shard and lies in another",
        _FIX,
        {VLLM: "loads it", SGLANG: "loads it", TRANSFORMERS: "loads it; offloading to disk follows the map"},
        "Both shards are listed, so that every tensor is found. What follows the map fails: offloading to disk, range "
        "requests for single tensors, and the search for draft layers.",
        (f"{GITHUB}/huggingface/transformers/issues/13548",),
    ),
    "IDX007": Meaning(
        _E,
        "duplicate: a tensor lies in two listed shards",
        "take one copy out of its shard; where all of a shard is elsewhere: overlay verify … --fix PATH --unlist SHARD",
        {
            VLLM: "loads both, the last file in natural order wins",
            SGLANG: "loads both, the last file in lexicographic order wins, or a race decides",
            TRANSFORMERS: "loads both, the last file wins",
        },
        "Which copy is used does not depend on the index. A stale copy that wins gives a model that loads and is wrong.",
        (
            f"{GITHUB}/vllm-project/vllm/pull/54230",
            f"{GITHUB}/syv-ai/qwen38-27b-rtx3090/pull/123",
            f"{GITHUB}/JustVugg/colibri/issues/1479",
            f"{GITHUB}/sgl-project/sglang/pull/35107",
        ),
    ),
    "IDX008": Meaning(
        _W,
        "total_size differs from the tensors' bytes",
        _FIX,
        everywhere("does not read it"),
        "total_size is the sum of tensor data bytes, headers excluded. Some tools write the sum of file sizes, or keep "
        "the old sum after they changed the shards. Progress bars and download checks trust it.",
        (f"{GITHUB}/Edge0-AI/Edge0/issues/104", f"{GITHUB}/exo-explore/exo/pull/1956"),
    ),
    "IDX009": Meaning(
        _W,
        "the index has no metadata",
        f'add {{"metadata": {{"total_size": …}}}}: {_FIX}',
        {VLLM: "loads it", SGLANG: "loads it", TRANSFORMERS: "KeyError: 'metadata'"},
        'transformers reads index["metadata"] without looking whether it is there; an empty object is enough for it.',
    ),
    "IDX010": Meaning(
        _W,
        "stray: a shard that the index does not name",
        "move it away, or list its tensors: overlay verify … --fix PATH --adopt SHARD",
        everywhere("ignores it") | {GLOBBING: "reads it when it is called model*.safetensors"},
        "If it belongs to the checkpoint, its tensors are not loaded: a draft layer in such a file is inert, except "
        "that SGLang adds mtp.safetensors for the Glm4Moe architectures. If it does not, loaders that glob merge it in.",
        (
            f"{GITHUB}/sgl-project/sglang/pull/17166",
            f"{GITHUB}/jundot/omlx/pull/1962",
            f"{GITHUB}/Blaizzy/mlx-vlm/pull/1464",
        ),
    ),
    "IDX011": Meaning(
        _E,
        "file names differ only in case",
        "rename one; macOS and Windows cannot hold both",
        detail="On a file system that does not tell case apart, one of the two files replaces the other.",
    ),
    "IDX012": Meaning(
        _E,
        "the index maps nothing although there are shards",
        f"move the index away, then: {_FIX}",
        detail="Engines open the shards that the weight map names, and here it names none.",
    ),
    "IDX013": Meaning(
        _E,
        "several shards and no index",
        _FIX,
        {VLLM: "loads all *.safetensors", SGLANG: "loads all *.safetensors"}
        | {TRANSFORMERS: "refuses: it needs an index or model.safetensors"},
        "Without an index nobody can say whether a shard is missing, or one is there that does not belong.",
    ),
    "IDX014": Meaning(
        _W,
        "total_parameters does not fit the tensors",
        _FIX,
        everywhere("does not read it") | {"Hugging Face Hub": "shows it as the size of the model"},
        "transformers writes the number of parameters beside total_size: packed bytes count once, buffers (scales, the "
        "bias of a router) do not count. A number is accepted when it lies between the elements of the weights alone and "
        "those of all tensors, packed values counted singly. Outside, it was kept from another checkpoint.",
        (
            f"{GITHUB}/huggingface/huggingface_hub/issues/4221",
            f"{GITHUB}/huggingface/hub-docs/issues/2704",
        ),
    ),
    "IDX015": Meaning(
        _W,
        "shadowed: model.safetensors beside other shards of an index",
        "move model.safetensors away; if it belongs to the checkpoint, rename it and correct the index",
        {VLLM: "loads what the index names", SGLANG: "loads what the index names"}
        | {TRANSFORMERS: "loads model.safetensors alone, and warns at most of missing weights"},
        "Many loaders look for model.safetensors first, and do not open the index when they find it: a checkpoint of one "
        "file to which a shard was added, or the remains of an older upload.",
    ),
    "IDX016": Meaning(
        _W,
        "shadowed: consolidated*.safetensors beside other shards",
        "move it away",
        {
            VLLM: "--load-format auto loads only consolidated*.safetensors, as Mistral's own format",
            SGLANG: "ignores it without --load-format mistral",
            TRANSFORMERS: "ignores it",
        },
        "vLLM takes any file called consolidated*.safetensors, in sub-folders too, for a sign that the repository is in "
        "Mistral's own format, and leaves the other shards and their index alone.",
        (f"{GITHUB}/vllm-project/vllm/issues/40765", f"{GITHUB}/vllm-project/vllm/issues/4989"),
    ),
    "IDX017": Meaning(
        _N,
        "a listed shard whose name globbing loaders pass over",
        "call it model-….safetensors if such loaders shall read it",
        everywhere("loads it") | {GLOBBING: "passes over it: it looks for model*.safetensors"},
        "llama.cpp's converter and mlx-lm do not open the index; a shard called mtp.safetensors is not there for them.",
        (
            f"{GITHUB}/ggml-org/llama.cpp/issues/16361",
            f"{GITHUB}/jundot/omlx/issues/2062",
            f"{GITHUB}/jundot/omlx/pull/2220",
        ),
    ),
    "IDX018": Meaning(
        _W,
        "shards are missing by the numbers of the others",
        "fetch the missing shards and the index again; if they were left out on purpose, nothing",
        everywhere("does not count: it loads what the index names, and fails or not by the tensors that are missing"),
        "Shards are called NAME-00001-of-00007. When one was lost together with its entries in the index, index and headers "
        "agree about the rest, and only its number is missing. Shards that were added under a higher total continue the "
        "row. Nothing is said of a target or a repository that overlay made, since a manifest may drop whole shards.",
    ),
}
