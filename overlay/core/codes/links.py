"""LNK: where links lead."""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, SGLANG, TRANSFORMERS, VLLM, Meaning, Severity, everywhere

_E = Severity.ERROR

LINKS: Final[dict[str, Meaning]] = {
    "LNK001": Meaning(
        _E,
        "a link leaves the checkpoint",
        "copy the file in, or allow its folder with --allow-root",
        everywhere("follows it"),
        "A link may lead into the checkpoint's own folder, or into the blobs of the Hub cache that it lies in. Anywhere "
        "else it can mean a file that the author of the checkpoint has no business with, or one that is gone as soon as "
        "the folder is mounted elsewhere.",
        (f"{GITHUB}/MiaAI-Lab/DeepSeek-v4-Flash-DSpark-2x-DGX-Spark/pull/60",),
    ),
    "LNK002": Meaning(
        _E,
        "a link points to nothing",
        "fetch the file again; the cache it lay in was pruned",
        {VLLM: "FileNotFoundError when it opens the file", SGLANG: "RuntimeError before it loads anything"}
        | {TRANSFORMERS: "FileNotFoundError"},
        "Files of the Hub cache are links to blobs; removing a repository from the cache removes the blobs, and whatever "
        "is linked to them dangles.",
    ),
    "LNK003": Meaning(
        _E,
        "links form a loop",
        "replace the link by the file",
        detail="A link leads back to itself, by way of others or at once; nothing can be read through it.",
    ),
    "LNK004": Meaning(
        _E,
        "not a regular file",
        "replace it by the file",
        detail="A folder, FIFO, socket or device bears the name of a file. Opening a FIFO would wait for ever.",
    ),
    "LNK005": Meaning(
        _E,
        "a link points elsewhere than the receipt says",
        "apply again",
        detail="Somebody replaced a link of the target. What it leads to now was never checked against the manifest.",
    ),
}
