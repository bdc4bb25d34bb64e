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
}
