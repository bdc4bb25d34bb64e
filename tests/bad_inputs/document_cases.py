"""Broken documents: the manifest, the lock beside it, the receipt in a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.bad_inputs.case import (
    Case,
    all_of,
    append,
    cut,
    double,
    edit,
    fifo,
    flip,
    folder,
    link,
    nothing,
    remove,
    replace,
    write,
)
from tests.bad_inputs.world import CANARY, EH, INDEX, NEW, S1, S2, Damage, write_shard

FILE, LOCK, RECEIPT = "recipe/mtp.yaml", "recipe/mtp.lock.json", "serve/.overlay/receipt.json"
APPLY = f"apply {FILE} -o serve"
HEAD = "overlay: 1\nname: x\nbase: ../base\n"


def _yaml(text: str) -> Damage:
    return write(FILE, text)


def _with(line: str) -> Damage:
    return append(FILE, line + "\n")


def _shard(name: str) -> Damage:
    return replace(FILE, NEW, name)


MANIFESTS: list[tuple[str, Damage, tuple[str, ...]]] = [
    ("empty", _yaml(""), (FILE, "overlay: 1", "an empty file")),
    ("only a comment", _yaml("# nothing\n"), (FILE, "an empty file")),
    ("cut in half", cut(FILE, 0.5), (FILE,)),
    ("random bytes", write(FILE, b"\x00\x9f\xff\xfe\x80" * 50), (FILE, "UTF-8")),
    ("control characters", _yaml(HEAD + "summary: \x07\x1b[2J\n"), (FILE,)),
    ("written twice", double(FILE), (FILE, "each key once", "'overlay'")),
    ("a directory", folder(FILE), (FILE,)),
    ("a FIFO", fifo(FILE), (FILE, "a FIFO")),
    ("a dangling link", link(FILE, "gone"), (FILE, "dangling")),
    ("a link to itself", link(FILE, "mtp.yaml"), (FILE, "loop")),
    ("10 MB of comment", _yaml("# x\n" * 2_500_000), (FILE, "1048576")),
    ("a list", _yaml("- overlay: 1\n"), (FILE, "mapping")),
    ("a newer format", replace(FILE, "overlay: 1", "overlay: 2"), (FILE, "1:1", "overlay", "format 1", "newer")),
    ("a format that is text", replace(FILE, "overlay: 1", 'overlay: "1"'), (FILE, "1:", "overlay")),
    ("a format that is true", replace(FILE, "overlay: 1", "overlay: true"), (FILE, "overlay")),
    ("an unknown key", _with("graft: []"), (FILE, "graft", "known key")),
    ("an unknown key in a graft", replace(FILE, "from: bf16", "from: bf16\n    form: x"), (FILE, "grafts[0].form")),
    ("a missing key", replace(FILE, "name: small-mtp\n", ""), (FILE, "name", "found none")),
    ("grafts that are a mapping", _yaml(HEAD + "grafts: {a: b}\n"), (FILE, "4:", "grafts", "a list")),
    ("a graft that is text", _yaml(HEAD + "grafts: [x]\n"), (FILE, "grafts[0]", "a mapping")),
    ("a count that is text", replace(FILE, "tensors: 3", 'tensors: "3"'), (FILE, "expect.tensors", "a whole number")),
    ("a negative count", replace(FILE, "tensors: 3", "tensors: -3"), (FILE, "expect.tensors", "-3")),
    ("a dtype that does not exist", replace(FILE, "BF16: 2", "BF17: 2"), (FILE, "dtypes", "BF17")),
    (
        "a mode that does not exist",
        replace(FILE, "from: bf16", "from: bf16\n    mode: merge"),
        (FILE, "grafts[0].mode"),
    ),
    ("a donor that is not named", replace(FILE, "from: bf16", "from: bf17"), (FILE, "grafts[0].from", "bf17")),
    ("no tensors chosen", replace(FILE, '["model.layers.2.**"]', "[]"), (FILE, "grafts[0].tensors")),
    ("an anchor", replace(FILE, "base: ../base", "base: &b ../base"), (FILE, "5:", "anchor")),
    ("an alias", replace(FILE, "base: ../base", "base: *b"), (FILE, "5:", "alias")),
    ("a tag", replace(FILE, "base: ../base", "base: !!python/object:os.system ../base"), (FILE, "5:", "tag")),
    ("`on` as text", replace(FILE, "license: mit", "license: on"), (FILE, "4:", "license", "quotes")),
    ("0012 as a number", replace(FILE, "tensors: 3", "tensors: 0012"), (FILE, "0012", "quotes")),
    ("1_000 as a number", replace(FILE, "bytes: 112", "bytes: 1_12"), (FILE, "1_12", "quotes")),
    ("a date as text", replace(FILE, "license: mit", "license: 2026-11-21"), (FILE, "2026-11-21", "quotes")),
    ("a number past all doubles", _with("engines: {v: {launch: {a: 1e999}}}"), (FILE, "1e999", "double")),
    ("a key given twice", _with("license: mit"), (FILE, "'license'", "line 4")),
    ("a key that is a number", _with("1: 2"), (FILE, "string as key")),
    ("a merge key", _with("<<: {license: mit}"), (FILE, "<<")),
    ("two documents", _with("---\noverlay: 1"), (FILE, "one document")),
    ("tabs as indentation", replace(FILE, "  bf16", "\tbf16"), (FILE, "expected YAML")),
    ("nested too deep", _with("x: " + "[" * 5_000), (FILE, "nested levels")),
    (
        "a billion laughs",
        _yaml(HEAD + "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n"),
        (FILE, "anchor &a"),
    ),
    ("10,000 unknown keys", _yaml(HEAD + "".join(f"x{n}: 1\n" for n in range(10_000))), ("and ", " more")),
    ("a shard name that climbs out", _shard("../outside/evil.safetensors"), (FILE, "grafts[0].shard", "../outside")),
    ("an absolute shard name", _shard("/tmp/evil.safetensors"), (FILE, "grafts[0].shard", "/tmp/evil")),
    ("a shard name in a folder", _shard("sub/evil.safetensors"), (FILE, "grafts[0].shard", "sub/evil")),
    ("a shard name in the state folder", _shard(".overlay/x.safetensors"), (FILE, "grafts[0].shard", ".overlay")),
    ("a shard name with ~", _shard("~root.safetensors"), (FILE, "grafts[0].shard", "~root")),
    ("a shard name with bidi marks", _shard('"a\\u202eb.safetensors"'), (FILE, "grafts[0].shard")),
    ("a shard that is a pickle", _shard("model.bin"), (FILE, "grafts[0].shard", "model.bin")),
    (
        "a file name that climbs out",
        _with('files: {"../evil.json": {from: ../donor/config.json}}'),
        (FILE, "files", "../evil.json"),
    ),
    ("a file that is the index", _with(f"files: {{{INDEX}: {{from: ../donor/{INDEX}}}}}"), (FILE, "files", INDEX)),
    ("a file that is the receipt", _with('files: {".overlay/receipt.json": {from: x}}'), (FILE, "files", ".overlay")),
    ("a file from nowhere", _with("files: {x.txt: {from: gone.txt}}"), ("gone.txt", "nothing there")),
    (
        "a file that is a link out",
        all_of(_with("files: {x.txt: {from: x.txt}}"), link("recipe/x.txt", "../outside/secret.txt")),
        ("recipe/x.txt", "outside"),
    ),
    (
        "a built shard that is a link out",
        link(f"recipe/{NEW}", f"../outside/{NEW}"),
        (f"recipe/{NEW}", "outside"),
    ),
    ("a file that is a FIFO", all_of(_with("files: {x.txt: {from: x}}"), fifo("recipe/x")), ("recipe/x", "a FIFO")),
    ("a base of another scheme", replace(FILE, "base: ../base", "base: ftp://x/y"), (FILE, "5:", "base", "ftp://x/y")),
    ("a base with a control character", replace(FILE, "base: ../base", 'base: "a\\0b"'), (FILE, "5:", "base")),
    ("a Hub base without a name", replace(FILE, "base: ../base", "base: hf://org"), (FILE, "5:", "base", "hf://org")),
    ("a Hub base that climbs out", replace(FILE, "base: ../base", "base: hf://../.."), (FILE, "5:", "base", "hf://..")),
    ("a base that is not there", replace(FILE, "base: ../base", "base: ../gone"), ("../gone", "a directory")),
    (
        "a base that is a file",
        replace(FILE, "base: ../base", "base: ../base/config.json"),
        ("config.json", "a directory"),
    ),
    ("a pattern that describes nothing", replace(FILE, "layers.2.**", "layers.9.**"), (NEW, "model.layers.9.**")),
    (
        "a step that does not exist",
        replace(FILE, "from: bf16", "from: bf16\n    steps: [{run: rm}]"),
        (FILE, "steps[0]"),
    ),
]

Change = Callable[[dict[str, Any]], object]


def _lock(change: Change) -> Damage:
    return edit(LOCK, change)


LOCKS: list[tuple[str, Damage, tuple[str, ...], int]] = [
    ("empty", write(LOCK, ""), (LOCK, "expected JSON"), 3),
    ("cut in half", cut(LOCK, 0.5), (LOCK, "expected JSON"), 3),
    ("random bytes", write(LOCK, b"\x00\x9f\xff\xfe" * 50), (LOCK, "expected JSON"), 3),
    ("written twice", double(LOCK), (LOCK, "expected JSON"), 3),
    ("an array", write(LOCK, "[]"), (LOCK, "a mapping"), 3),
    ("null", write(LOCK, "null"), (LOCK, "a mapping"), 3),
    ("a directory", folder(LOCK), (LOCK, "a directory"), 3),
    ("a FIFO", fifo(LOCK), (LOCK, "a FIFO"), 3),
    ("a dangling link", link(LOCK, "gone"), (LOCK, "dangling"), 3),
    ("a key given twice", replace(LOCK, '"level": "content"', '"level": "x", "level": "content"'), (LOCK, "twice"), 3),
    ("10,000 nested arrays", write(LOCK, "[" * 10_000), (LOCK,), 3),
    ("a newer format", _lock(lambda lock: lock.update(overlay_lock=2)), (LOCK, "format 1", "newer"), 3),
    ("an unknown key", _lock(lambda lock: lock.update(extra=1)), (LOCK, "extra"), 3),
    ("a missing key", _lock(lambda lock: lock.pop("result")), (LOCK, "result"), 3),
    ("a size that is text", _lock(lambda lock: lock["base"]["files"][S1].update(size="9")), (LOCK, "size"), 3),
    ("a digest that is no digest", _lock(lambda lock: lock["grafts"][NEW].update(sha256="x")), (LOCK, "sha256"), 3),
    (
        "a graft whose name climbs out",
        _lock(lambda lock: lock["grafts"].update({"../x.safetensors": lock["grafts"][NEW]})),
        (LOCK, "../x.safetensors"),
        3,
    ),
    (
        "another digest of the base's shard",
        _lock(lambda lock: lock["base"]["files"][S1].update(header_sha256="0" * 64)),
        (S1, "header sha256", "0" * 64),
        1,
    ),
    ("another size", _lock(lambda lock: lock["base"]["files"][S2].update(size=1)), (S2, "expected 1 bytes"), 1),
    ("a file more", _lock(lambda lock: lock["base"]["files"].update(x={"size": 1})), ("x:", "found none"), 1),
    ("another result", _lock(lambda lock: lock["result"].update(total_size=1)), ("result", "total_size 1"), 1),
    (
        "another digest of a grafted tensor",
        _lock(lambda lock: lock["grafts"][NEW]["tensors"][EH].update(xxh3_128="0" * 32)),
        (NEW, EH, "0" * 32),
        1,
    ),
    ("of another manifest", replace(FILE, "tensors: 3, ", ""), (FILE, "changed since"), 4),
]


def _receipt(change: Change) -> Damage:
    return edit(RECEIPT, change)


def _says_shard(change: dict[str, Any]) -> Damage:
    return _receipt(lambda receipt: receipt["files"][S1].update(change))


RECEIPTS: list[tuple[str, Damage, tuple[str, ...]]] = [
    ("empty", write(RECEIPT, ""), ("LCK006", "receipt.json", "expected JSON")),
    ("cut in half", cut(RECEIPT, 0.5), ("LCK006", "receipt.json", "expected JSON")),
    ("random bytes", write(RECEIPT, b"\x9f\xff" * 50), ("LCK006", "receipt.json", "expected JSON")),
    ("written twice", double(RECEIPT), ("LCK006", "receipt.json", "expected JSON")),
    ("an array", write(RECEIPT, "[]"), ("LCK006", "receipt.json", "a mapping")),
    ("a directory", folder(RECEIPT), ("LCK006", "receipt.json", "a directory")),
    ("a FIFO", fifo(RECEIPT), ("LCK006", "receipt.json", "a FIFO")),
    ("a link", link(RECEIPT, "../../outside/secret.txt"), ("LCK006", "receipt.json")),
    ("a newer format", _receipt(lambda receipt: receipt.update(overlay_receipt=2)), ("LCK006", "overlay_receipt")),
    ("an unknown key", _receipt(lambda receipt: receipt.update(extra=1)), ("LCK006", "extra")),
    ("a missing key", _receipt(lambda receipt: receipt.pop("state")), ("LCK006", "state")),
    (
        "a name that climbs out",
        _receipt(lambda receipt: receipt["files"].update({"../outside/secret.txt": receipt["files"]["config.json"]})),
        ("LCK006", "../outside/secret.txt"),
    ),
    ("a size that is wrong", _says_shard({"how": "copy", "size": 7}), (S1,)),
    (
        "another digest",
        _receipt(lambda r: r["files"]["config.json"].update(sha256="0" * 64)),
        ("config.json", "0" * 64),
    ),
    ("another link", _says_shard({"source": "/etc/passwd"}), (S1, "/etc/passwd")),
    ("a file less", _receipt(lambda receipt: receipt["files"].pop("config.json")), ("LCK003", "config.json")),
    (
        "a sidecar that it calls a link",
        all_of(
            link("serve/chat_template.jinja", "{root}/outside/secret.txt"),
            lambda world: _receipt(
                lambda receipt: receipt["files"]["chat_template.jinja"].update(
                    how="symlink", source=str(world / "outside/secret.txt"), sha256=None
                )
            )(world),
        ),
        ("LNK001", "chat_template.jinja", "outside"),
    ),
]


def cases() -> Iterator[Case]:
    for number, (what, damage, words) in enumerate(MANIFESTS):
        # A directory is taken for a diff-only repository, which is a matter of usage.
        code = 2 if what == "a directory" else 3
        words = ("recipe/mtp.yaml", "--base and --graft") if what == "a directory" else words
        process = number % 12 == 5
        yield Case(group="manifest", what=what, damage=damage, run=APPLY, exit=code, says=words, process=process)
    yield Case(
        group="manifest",
        what="other tensors than it expects",
        damage=replace(FILE, "tensors: 3", "tensors: 4"),
        run=APPLY,
        exit=1,
        says=(NEW, "expect", "expected 4 tensors, found 3"),
    )
    for what, damage, words, code in LOCKS:
        yield Case(group="lock", what=what, damage=damage, run=APPLY, exit=code, says=words, before=(f"lock {FILE}",))
    yield Case(
        group="lock",
        what="cut in half",
        damage=cut(LOCK, 0.5),
        run=f"lock {FILE} --upgrade",
        exit=0,
        says=("wrote", LOCK),
        before=(f"lock {FILE}",),
        writes=True,
    )
    for number, (what, damage, words) in enumerate(RECEIPTS):
        yield Case(
            group="receipt",
            what=what,
            damage=damage,
            run="verify serve",
            exit=1,
            says=words,
            before=(APPLY,),
            process=number % 8 == 6,
        )
    yield Case(
        group="receipt",
        what="cut in half",
        damage=cut(RECEIPT, 0.5),
        run=APPLY,
        exit=0,
        says=("serve: 9 tensors",),
        before=(APPLY,),
        writes=True,
    )
    yield Case(
        group="receipt",
        what="cut in half, beside a file of the user's",
        damage=all_of(cut(RECEIPT, 0.5), write("serve/thesis.tex", "precious")),
        run=APPLY,
        exit=4,
        says=("serve", "thesis.tex"),
        before=(APPLY,),
    )
    yield from _overlays()
    yield from _locked()


def _overlays() -> Iterator[Case]:
    """Grafts that contradict their base, and targets that are somebody else's."""
    pair = "apply --base base --graft graft -o serve"
    twin = {"model.layers.1.mlp.weight": ("BF16", [4, 4]), EH: ("BF16", [4, 8])}
    overlays: list[tuple[str, Damage, str, int, tuple[str, ...]]] = [
        (
            "a pattern that takes a base tensor again",
            all_of(replace(FILE, '"model.layers.2.**"', '"**"'), replace(FILE, "    expect", "    # ")),
            APPLY,
            4,
            ("model.norm.weight", S2, NEW),
        ),
        (
            "a graft shard with a base tensor",
            all_of(
                lambda world: write_shard(world / "graft" / NEW, {k: (d, list(s)) for k, (d, s) in twin.items()}),
                edit(f"graft/{INDEX}", lambda index: index["weight_map"].update({"model.layers.1.mlp.weight": NEW})),
                edit(f"graft/{INDEX}", lambda index: index["weight_map"].pop("model.layers.2.mlp.weight")),
                edit(f"graft/{INDEX}", lambda index: index["weight_map"].pop("model.layers.2.mlp.gate.bias")),
            ),
            pair,
            4,
            ("model.layers.1.mlp.weight", S2, NEW),
        ),
        (
            "other bytes under a base shard's name",
            lambda world: write_shard(world / "graft" / S2, {EH: ("BF16", [4, 8])}),
            pair,
            3,
            (S2,),
        ),
        (
            "an index that drops a base tensor",
            edit(f"graft/{INDEX}", lambda index: index["weight_map"].pop("model.norm.weight")),
            pair,
            4,
            (INDEX, "model.norm.weight", S2),
        ),
        (
            "an index that names a shard of nobody",
            edit(f"graft/{INDEX}", lambda index: index["weight_map"].update(x="model-00008-of-00009.safetensors")),
            pair,
            4,
            (INDEX, "model-00008-of-00009.safetensors"),
        ),
        (
            "a tensor that its shard does not hold",
            edit(f"graft/{INDEX}", lambda index: index["weight_map"].update(ghost=NEW)),
            pair,
            3,
            (NEW, "ghost"),
        ),
        ("a graft that is a FIFO", fifo(f"graft/{NEW}"), pair, 3, (NEW, "a FIFO")),
        ("a graft that climbs out", link(f"graft/{NEW}", f"../outside/{NEW}"), pair, 3, (NEW, "outside")),
        ("a shard under the base's name", replace(FILE, NEW, S2), APPLY, 4, (S2, "the base")),
        ("a shard that hides the index", replace(FILE, NEW, "model.safetensors"), APPLY, 4, ("model.safetensors",)),
        ("a shard that differs in case", replace(FILE, NEW, S2.capitalize()), APPLY, 4, (S2, "case")),
        ("a target that is a file", write("serve", "precious"), APPLY, 4, ("serve", "something else")),
        ("a target that is somebody's folder", write("serve/thesis.tex", "precious"), APPLY, 4, ("serve",)),
        ("a target that is a link to the base", link("serve", "base"), APPLY, 4, ("serve",)),
        ("a target that is a dangling link", link("serve", "gone"), APPLY, 4, ("serve",)),
        ("a target in the base", nothing, f"apply {FILE} -o base/serve", 4, ("base/serve", "apart")),
        ("a target around the base", nothing, f"apply {FILE} -o .", 4, ("apart",)),
        ("a target without a parent", nothing, f"apply {FILE} -o no/serve", 2, ("no/serve", "parent")),
        ("a lock file that is a link out", link(".serve.overlay.lock", "outside/secret.txt"), APPLY, 5, (".serve",)),
        ("a manifest without a folder", nothing, "init --base base --graft graft -o no/x.yaml", 2, ("no/x.yaml",)),
        ("a source without a manifest", nothing, "apply donor -o serve", 2, ("donor", "--graft")),
        ("a donor that is not NAME=PATH", nothing, f"{APPLY} --donor x", 2, ("--donor", "found x")),
    ]
    for number, (what, damage, run, code, words) in enumerate(overlays):
        process = number % 7 == 6
        yield Case(group="overlay", what=what, damage=damage, run=run, exit=code, says=words, process=process)


OUT = link("serve/config.json", "../outside/secret.txt")


def _locked() -> Iterator[Case]:
    """Bytes that change after they were locked or applied."""
    locked, applied = (f"lock {FILE}",), (f"lock {FILE}", APPLY)
    donor = "donor/model-00002-of-00003.safetensors"
    for what, before, damage, run, code, words in (
        ("a bit of the base flips, size and mtime stay", locked, flip(f"base/{S1}", -3), APPLY, 1, (S1, "sha256")),
        ("a bit of the donor flips", locked, flip(donor, -60), APPLY, 1, (NEW,)),
        ("the donor is cut", locked, cut(donor, 0.5), APPLY, 3, (donor.rpartition("/")[2],)),
        ("a sidecar of the base changes", locked, replace("base/config.json", "glm", "xxx"), APPLY, 1, ("config.json",)),
        ("a sidecar of the base goes", locked, remove("base/tokenizer.json"), APPLY, 1, ("tokenizer.json",)),
        ("a file joins the base", locked, write("base/evil.py", "import os\n"), APPLY, 1, ("evil.py",)),
        ("the manifest changes", locked, replace(FILE, "license: mit", "license: x"), APPLY, 4, (FILE, "locked")),
        ("a shard of the target goes", applied, remove(f"serve/{S2}"), "verify serve", 1, ("LCK002", S2)),
        ("a shard of the target is cut", applied, cut(f"serve/{NEW}", -1), "verify serve", 1, (NEW,)),
        ("a sidecar of the target changes", applied, append("serve/config.json", " "), "verify serve", 1, ("config.json",)),
        ("a file joins the target", applied, write("serve/x.safetensors", "x"), "verify serve", 1, ("x.safetensors",)),
        ("a file joins the target", applied, write("serve/notes.txt", CANARY[:6]), APPLY, 4, ("notes.txt",)),
        ("a link of the target turns", applied, link(f"serve/{S1}", "/dev/zero"), "verify serve", 1, (S1, "/dev/zero")),
        ("a sidecar of the target becomes a link", applied, OUT, "verify serve", 1, ("config.json", "outside")),
        ("the index of the target changes", applied, replace(f"serve/{INDEX}", "316", "317"), "verify serve", 1, (INDEX,)),
        ("the base goes", applied, remove(f"base/{S1}"), "verify serve", 1, (S1, "dangling")),
        ("a bit of the base flips", applied, flip(f"base/{S1}", -3), "verify serve --level content", 1, (S1, "sha256")),
        ("a bit of the graft flips", applied, flip(f"serve/{NEW}", -3), "verify serve --level content", 1, (NEW, "sha256")),
    ):  # fmt: skip
        yield Case(group="locked", what=what, damage=damage, run=run, exit=code, says=words, before=before)
