"""SHD: what can be wrong with a shard by itself."""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, Meaning, Severity

_SAFETENSORS: Final = "safetensors 0.8 (the library below the engines)"

SHARDS: Final[dict[str, Meaning]] = {
    "SHD001": Meaning(
        Severity.ERROR,
        "a shard's header breaks the safetensors format",
        "fetch this shard again from its source",
        {_SAFETENSORS: "SafetensorError for most; a repeated name is accepted silently, and the last one wins"},
        "A shard begins with the length of its header and the header itself, a JSON object of tensors. Every range of "
        "bytes must be as long as dtype and shape say, and all of them together must cover the data without a hole or "
        "an overlap. A header that breaks this was damaged on its way, or written by a tool that is wrong.",
        (f"{GITHUB}/huggingface/safetensors#format", f"{GITHUB}/EricTan7/VeritasPP/issues/2"),
    ),
    "SHD002": Meaning(
        Severity.ERROR,
        "a shard is cut, padded, or not a shard at all",
        "fetch this shard again from its source",
        {_SAFETENSORS: "SafetensorError when the file is opened"},
        "The size of the file contradicts its header: half a download, bytes that were appended, or another file under "
        "the name of a shard, such as a Git LFS pointer, a saved error page or a pickle. The message says which.",
        (f"{GITHUB}/huggingface/safetensors#format",),
    ),
    "SHD003": Meaning(
        Severity.NOTE,
        "a shard is valid but unusual",
        "loaders accept it; rewrite the shard if you own it",
        {_SAFETENSORS: "accepts it silently"},
        "The format frowns on it and the library lets it pass: tensors that are not aligned, unknown fields, a "
        "__metadata__ that is null, or names that are empty, very long or hold control characters. Other readers of "
        "the format may be stricter.",
        (f"{GITHUB}/huggingface/safetensors#format",),
    ),
}
