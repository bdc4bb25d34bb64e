"""LCK: what a lock or a receipt says, and what is there.  No engine reads either."""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, Meaning, Severity

_E, _W = Severity.ERROR, Severity.WARNING

LOCKS: Final[dict[str, Meaning]] = {
    "LCK001": Meaning(
        _E,
        "bytes differ from the lock or receipt",
        "fetch the file again, or lock anew if the change is wanted",
        detail="The digest of a file, a header or a tensor is not the one that was pinned. Either it was damaged, or its "
        "source published other bytes under the same name: repositories are quantised anew and force-pushed.",
        references=(f"{GITHUB}/noonghunna/club-3090/issues/319", f"{GITHUB}/T0mSIlver/localvoxtral/pull/140"),
    ),
    "LCK002": Meaning(
        _E,
        "a file of the receipt is missing",
        "apply again",
        detail="overlay placed it, and it was removed since.",
    ),
    "LCK003": Meaning(
        _E,
        "a file that overlay did not place",
        "move it away",
        detail="A target holds what its manifest describes and nothing else: a shard that was copied in may shadow or "
        "join the others, and code that was copied in may be run. overlay never removes a file that is not its own.",
    ),
    "LCK004": Meaning(
        _E,
        "size differs from the lock or receipt",
        "fetch the file again, or lock anew if the change is wanted",
        detail="The cheapest sign that a file is not what was pinned; its bytes need not be read for it.",
    ),
    "LCK005": Meaning(
        _E,
        "unreadable",
        "check the disk and the permissions",
        detail="The operating system refused to read a file that is there.",
    ),
    "LCK006": Meaning(
        _E,
        "the receipt is not valid",
        "apply again",
        detail="The receipt in .overlay/ says how each file of the target was placed. Without it nothing in the target "
        "can be told from what others put there; apply writes the target anew.",
    ),
    "LCK007": Meaning(
        _E,
        "the real file under a link changed since it was placed",
        "apply again, or fetch what was pinned again",
        detail="The target links to a file of the base or a donor, and that file was written to, or another one was put in "
        "its place.",
        references=(f"{GITHUB}/youssofal/MTPLX/issues/176",),
    ),
    "LCK008": Meaning(
        _W,
        "a file changed since the target's own copy was made of it",
        "apply again to follow it; the target still holds what was placed",
        detail="The base or a donor moved on. The target has a copy of its own and is not affected.",
    ),
    "LCK009": Meaning(
        _E,
        "the target is gone and its generations are kept",
        "overlay undo brings the newest of them back",
        detail="The folder was removed by hand; the trees that it was before lie beside it.",
    ),
    "LCK010": Meaning(
        _E,
        "what would be published is not pinned",
        "overlay lock DIR --level content (with --upgrade after a change of the manifest), then publish again",
        detail="There is no lock, it is the lock of another manifest, or it states no commit of the base or no digest of a "
        "shard. Readers of the repository could not tell whether they have what was meant.",
    ),
    "LCK011": Meaning(
        _E,
        "a place that only this machine knows",
        "name it as hf://org/name in the manifest, then overlay lock DIR --upgrade",
        detail="A path of this machine in a published manifest or lock leads nowhere for its readers, and tells them how "
        "folders are called here. A base or donor has to be somewhere that they can reach.",
    ),
    "LCK012": Meaning(
        _W,
        "the base moved on since the lock",
        "nothing has to be done: the lock pins the commit; overlay lock --upgrade takes the new one",
        detail="The branch that the manifest names has a newer commit. It may hold what the overlay adds, or mend what it "
        "works around.",
    ),
    "LCK013": Meaning(
        _E,
        "a shard of the base that the Hub cannot copy on its side",
        "publish the difference, without --full; or apply it, and upload the folder: hf upload ORG/NAME DIR",
        detail="The Hub copies files that it keeps in chunks (Xet). A file without a chunk hash, or one that overlay has to "
        "write anew because tensors are left out of it, would have to be uploaded.",
        references=("https://huggingface.co/docs/huggingface_hub/guides/upload",),
    ),
    "LCK014": Meaning(
        _E,
        "a file that the manifest or the lock names is missing or unreadable",
        "put it there, or build the repository again: overlay build MANIFEST -o DIR",
        detail="Shards of grafts, sidecars that are taken from beside the manifest, keep lists, and what stands under "
        "evidence are published with it.",
    ),
}
