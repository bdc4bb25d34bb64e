"""What stands in the way of publishing is told before anything is changed, all of it at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.core.publish_terms import find_licence_obstacles, name_of_licence
from overlay.formats.front_matter import read_front_matter
from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import BASE, DONOR, REPO, SHARD, build, codes, lock_in, publish, published, seed
from tests.support.checkpoints import INDEX
from tests.support.commands import overlay

TOKEN = b"hf_" + b"Ab1" * 12


def relock(folder: Path, **changes: object) -> None:
    """Change the lock by hand."""
    lock = {**lock_in(folder), **changes}
    (folder / "overlay.lock.json").write_text(json.dumps(lock))


def no_lock(folder: Path) -> None:
    (folder / "overlay.lock.json").unlink()


def stale_lock(folder: Path) -> None:
    path = folder / "overlay.yaml"
    path.write_text(path.read_text().replace("Adds layer 2.", "Adds layer two."))


def lock_without_digest(folder: Path) -> None:
    lock = lock_in(folder)
    lock["grafts"][SHARD]["sha256"] = None
    relock(folder, grafts=lock["grafts"])


def lock_without_commit(folder: Path) -> None:
    relock(folder, base={**lock_in(folder)["base"], "commit": None})


def lock_of_another_base(folder: Path) -> None:
    base = lock_in(folder)["base"]
    base["files"]["model-00001-of-00002.safetensors"]["sha256"] = "0" * 64
    relock(folder, base=base)


def lock_of_a_longer_base(folder: Path) -> None:
    base = lock_in(folder)["base"]
    base["files"]["model-00001-of-00002.safetensors"]["size"] += 1
    relock(folder, base=base)


def damaged_shard(folder: Path) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[-1] ^= 1
    (folder / SHARD).write_bytes(data)


def longer_shard(folder: Path) -> None:
    with (folder / SHARD).open("ab") as stream:
        stream.write(b"x")


def put(name: str, data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    damage.__name__ = name
    return damage


def secret_in_the_card(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"# Mine\n\nexport HF_TOKEN=" + TOKEN + b"\n")


def bad_front_matter(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n# Mine\n")


def fifo(folder: Path) -> None:
    import os

    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (no_lock, {"LCK010"}),
        (stale_lock, {"LCK010"}),
        (lock_without_digest, {"LCK010"}),
        (lock_without_commit, {"LCK010"}),
        (lock_of_another_base, {"LCK001"}),
        (lock_of_a_longer_base, {"LCK004"}),
        (damaged_shard, {"LCK001"}),
        (longer_shard, {"LCK004"}),
        (secret_in_the_card, {"SEC011"}),
        (bad_front_matter, {"CFG001"}),
        (fifo, {"LNK004"}),
        (put(".env", b"HF_TOKEN=" + TOKEN), {"SEC011", "SEC012"}),
        (put("notes/id_rsa", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"), {"SEC011", "SEC012"}),
        (put("keys.txt", b"AKIAIOSFODNN7EXAMPLE\n"), {"SEC011", "SEC012"}),
        (put("extra.bin", b"\x80\x04K\x01."), {"SEC012"}),
        (put("run.sh", b"#!/bin/sh\n"), {"SEC012"}),
        (put("modeling_tiny.py", b"import os\n"), {"SEC012"}),
        (put(".hidden", b""), {"SEC012"}),
        (put("model-00009-of-00009.safetensors", b"\x02\0\0\0\0\0\0\0{}"), {"SEC012"}),
        (put("größe.txt", b"x"), {"SEC012"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_repository_that_is_not_fit_is_refused(
    hub: LoopbackHub, tmp_path: Path, damage: Callable[[Path], None], expected: set[str]
) -> None:
    seed(hub)
    built = build(tmp_path)
    damage(built)
    hub.log.clear()

    ended = publish(built)

    assert (1, expected) == (ended.code, codes(ended))
    assert ("models", REPO) not in hub.state.repositories
    assert {"GET"} == {record.method for record in hub.log}
    assert TOKEN.decode() not in ended.output


def test_everything_is_told_at_once(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path, license="")
    damaged_shard(built)
    put(".env", b"x")(built)
    stale_lock(built)

    assert {"LCK001", "LCK010", "SEC011", "SEC012", "SEC013"} == codes(publish(built))
    text = overlay("publish", built, f"hf://{REPO}").output
    assert "not ok: nothing was changed; 5 findings stand in the way" in text


def test_a_missing_shard_and_missing_files_are_named(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    (tmp_path / "proof.md").write_text("x")
    (tmp_path / "other.jinja").write_text("x")
    built = build(tmp_path, evidence=["proof.md"], files={"chat_template.jinja": {"from": "other.jinja"}})
    (built / SHARD).rename(built / "elsewhere.safetensors")
    (built / "proof.md").unlink()
    (built / "chat_template.jinja").unlink()

    ended = publish(built)

    missing = {f["file"] for f in ended.document["findings"] if f["code"] == "LCK014"}
    assert {SHARD, "proof.md", "chat_template.jinja"} == missing


def test_an_index_that_was_changed_is_composed_again(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    good = (built / INDEX).read_bytes()
    (built / INDEX).write_bytes(good.replace(b"model-00001-of-00002", b"model-00007-of-00009"))

    document = published(publish(built))

    assert good == hub.read(REPO, INDEX)
    assert [f"composed from the base, since the folder has them not, or otherwise: {INDEX}"] == document["plan"][
        "notes"
    ]


@pytest.mark.parametrize("key", ["base", "donors"])
def test_a_base_or_donor_that_is_a_path_is_refused(hub: LoopbackHub, tmp_path: Path, key: str) -> None:
    from tests.support.checkpoints import donor, sharded

    seed(hub)
    sharded().write(tmp_path / "base")
    donor().write(tmp_path / "donor")

    ended = publish(build(tmp_path, **{key: "base" if key == "base" else {"bf16": "donor"}}))

    assert {"LCK011"} == codes(ended)
    (finding,) = ended.document["findings"]
    assert f"overlay.yaml: {key}" in finding["subject"]
    assert str(tmp_path) in finding["message"]


def test_a_path_of_this_machine_in_a_text_is_refused(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)

    ended = publish(build(tmp_path, summary=f"Made of {tmp_path}/weights."))

    assert {"LCK011"} == codes(ended)


def test_a_base_that_moved_on_is_told_and_published(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    old = hub.head(BASE).id
    hub.seed(BASE, {"config.json": b"{}"})

    document = published(publish(built))

    assert ["LCK012"] == [finding["code"] for finding in document["findings"]]
    assert f"`{old}`" in hub.read(REPO, "README.md").decode()


def test_a_base_whose_commit_is_gone_is_refused(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(hub)
    built = build(tmp_path)
    hub.force_push(BASE, {"config.json": b"{}"})
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "cache"))  # where the listing was kept
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))

    ended = publish(built)

    assert ended.refusal is not None
    assert (5, True) == (ended.code, "revision" in ended.refusal.line)


# Licences


def card(licence: str) -> bytes:
    return f"---\nlicense: {licence}\n---\n# Card\n".encode() if licence else b"# Card\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("mit", "mit", []),
        ("mit", "apache-2.0", []),
        ("cc-by-nc-4.0", "bsd-3-clause", []),
        ("gpl-3.0", "gpl-3.0", []),
        ("MIT", "gpl-3.0", ["SEC014"]),
        ("mit", "llama3", ["SEC014"]),
        ("mit", "", ["SEC014"]),
        ("mit", "unknown", ["SEC014"]),
        ("", "mit", ["SEC013"]),
        ("", "", ["SEC013", "SEC014"]),
        ("unknown", "mit", ["SEC013"]),
        ("other\nlicense_name: glm", "other\nlicense_name: GLM", []),
        ("gemma", "other\nlicense_name: glm", ["SEC014"]),
    ],
)
def test_licences_are_compared(ours: str, theirs: str, expected: list[str]) -> None:
    mine, other = (name_of_licence(read_front_matter(card(licence))) for licence in (ours, theirs))

    assert expected == [finding.code for finding in find_licence_obstacles(mine, {"the base": other}, "README.md")]


@pytest.mark.parametrize("whose", [BASE, DONOR])
def test_a_licence_that_base_or_donor_may_not_allow_is_refused(hub: LoopbackHub, tmp_path: Path, whose: str) -> None:
    seed(hub)
    hub.seed(whose, {"README.md": card("gpl-3.0")})
    built = build(tmp_path)

    assert {"SEC014"} == codes(publish(built))
    published(publish(built, f"hf://{REPO}", "--allow", "SEC014"))

    assert "| gpl-3.0 |" in hub.read(REPO, "README.md").decode()


def test_the_card_may_state_the_licence(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path, license="")
    (built / "README.md").write_bytes(card("mit"))

    assert set() == codes(publish(built))


# What may be allowed


def test_unnamed_files_can_be_left_out(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    put("notes.txt", b"mine")(built)

    published(publish(built, f"hf://{REPO}", "--allow", "SEC012"))

    assert "notes.txt" not in hub.files(REPO)


def test_code_that_the_manifest_names_can_be_published(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    (tmp_path / "mine.py").write_text("import os\n")
    built = build(tmp_path, files={"modeling_tiny.py": {"from": "mine.py"}})

    assert {"SEC002"} == codes(publish(built))
    published(publish(built, f"hf://{REPO}", "--allow", "SEC002"))

    assert b"import os\n" == hub.read(REPO, "modeling_tiny.py")


def test_code_that_the_base_has_under_this_name_is_not_new(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    hub.seed(BASE, {"modeling_tiny.py": b"import sys\n"})
    (tmp_path / "mine.py").write_text("import os\n")

    assert set() == codes(publish(build(tmp_path, files={"modeling_tiny.py": {"from": "mine.py"}})))


@pytest.mark.parametrize("code", ["SEC011", "LCK001", "LCK010", "SEC013", "nonsense"])
def test_nothing_else_can_be_allowed(hub: LoopbackHub, tmp_path: Path, code: str) -> None:
    seed(hub)
    built = build(tmp_path)

    ended = publish(built, f"hf://{REPO}", "--allow", code)

    assert (2, True) == (ended.code, ended.refusal is not None)
    assert ("models", REPO) not in hub.state.repositories


def test_what_clients_keep_for_themselves_is_passed_over(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    put(".cache/huggingface/download/x.metadata", b"x")(built)
    put(".git/config", b"x")(built)
    put(".gitattributes", b"x")(built)

    published(publish(built))

    assert not {name for name in hub.files(REPO) if name.startswith((".cache", ".git/"))}


def test_the_hint_for_a_stale_lock_leads_on(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    stale_lock(built)
    assert {"LCK010"} == codes(publish(built))
    hub.log.clear()

    assert 0 == overlay("lock", built, "--level", "content", "--upgrade").code

    published(publish(built))
    assert hub.log.bytes_of("*.safetensors") == 0
