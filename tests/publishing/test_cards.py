"""The model card: our part is replaced as a whole, and what a person wrote stays, wherever it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.carding import choose, front_of, merge, take_apart
from overlay.core.claims import find_claims
from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import BASE, DONOR, REPO, build, done, publish, published, seed
from tests.support.commands import overlay

FRONT = {"license": "mit", "base_model": "org/base", "tags": ["overlay"]}
PART = "## Ours\n\nText."


def test_a_text_gets_our_part_at_its_end() -> None:
    card = merge(b"# Mine\n\nWords.\n", PART, FRONT).decode()

    assert card.startswith(
        "---\nlicense: mit\nbase_model: org/base\ntags:\n- overlay\n---\n\n# Mine\n\nWords.\n\n<!-- ov"
    )
    assert card.endswith("\n\n## Ours\n\nText.\n\n<!-- overlay:end -->\n")


def test_only_our_part_is_replaced() -> None:
    first = merge(b"# Mine\n", PART, FRONT).replace(b"<!-- overlay:end -->\n", b"<!-- overlay:end -->\n\nAfter.\n")

    second = merge(first, "## New", FRONT).decode()

    assert ("# Mine", "After.") == (
        take_apart(second.encode()).before.strip(),
        take_apart(second.encode()).after.strip(),
    )
    assert ("## New" in second, "## Ours" in second) == (True, False)


def test_keys_of_a_person_stay_with_their_comments_and_order() -> None:
    mine = b"---\n# which\nlanguage:\n  - en\ntags: [mine]\nbase_model_relation: finetune # yes\n---\n# Mine\n"

    card = merge(mine, PART, FRONT).decode()

    assert card.startswith(
        "---\n# which\nlanguage:\n  - en\ntags: [mine]\nbase_model_relation: finetune # yes\nlicense: mit\n"
        "base_model: org/base\n---\n"
    )


def test_a_value_of_ours_follows_and_one_that_a_person_changed_does_not() -> None:
    first = merge(b"# Mine\n", PART, FRONT).replace(b"license: mit", b"license: apache-2.0")

    second = front_of(merge(first, PART, {**FRONT, "license": "gpl-3.0", "base_model": "org/new"}))

    assert {"license": "apache-2.0", "base_model": "org/new", "tags": ["overlay"]} == second


@pytest.mark.parametrize(
    "front",
    [
        "{language: en}",
        "'license' : mit",
        '"a b": 1',
        "text: |\n  license: no\n  tags: no",
        "x: 1\r\n",
        "- a",
        "a: [1",
        "",
    ],
)
def test_front_matter_of_any_layout_is_merged_or_refused(front: str) -> None:
    data = f"---\n{front}\n---\n# Mine\n".encode()
    try:
        before = yaml.safe_load(f"{front}\n") or {}
        assert isinstance(before, dict)
    except (yaml.YAMLError, AssertionError):
        with pytest.raises(ValueError, match=r"expected|flow|while"):
            merge(data, PART, FRONT)
        return

    assert {**FRONT, **before} == front_of(merge(data, PART, FRONT))


_TEXTS = st.text(st.sampled_from("ab -#\n<!>é\u2028|`"), max_size=60)
_FRONTS = st.dictionaries(
    st.sampled_from(["license", "tags", "x y", "language"]), st.sampled_from(["a", "--", "no", "-->", "é"])
)


@given(_TEXTS, _FRONTS, _FRONTS, _TEXTS)
def test_merging_again_changes_nothing(text: str, person: dict[str, str], ours: dict[str, str], part: str) -> None:
    head = f"---\n{yaml.safe_dump(person)}---\n" if person else ""
    once = merge((head + text).encode(), f"## P {part.replace('<!--', '')}", ours)

    assert once == merge(once, f"## P {part.replace('<!--', '')}", ours)
    assert person.items() <= front_of(once).items()
    assert take_apart(once).edited is False
    assert take_apart(once).own == take_apart((head + text).encode()).own


def test_of_two_cards_the_one_that_was_edited_is_taken() -> None:
    local = b"# Mine\n"
    remote = merge(local, PART, FRONT)
    edited = remote.replace(b"# Mine", b"# Edited there")
    other = b"# Edited here\n"

    assert (remote, "") == choose(local, remote)
    assert (edited, "") == choose(local, edited)
    assert (other, "") == choose(other, remote)
    assert (edited, True) == (choose(other, edited)[0], bool(choose(other, edited)[1]))
    assert (b"# Theirs\n", True) == (choose(local, b"# Theirs\n")[0], bool(choose(local, b"# Theirs\n")[1]))
    assert (local, "") == choose(local, b"")
    assert (b"# Theirs\n", "") == choose(b"", b"# Theirs\n")


def test_a_card_that_is_not_text_does_not_break() -> None:
    assert b"## Ours" in merge(b"\xff\xfe\x00---\n", PART, FRONT)


# On the Hub


def test_an_edit_on_the_hub_is_kept(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    published(publish(built))
    edited = (
        hub.read(REPO, "README.md").replace(b"# tiny-mtp", b"# My title\n\nMy words.").replace(b"- overlay", b"- mine")
    )
    hub.seed(REPO, {"README.md": edited})

    for expected in (["README.md"], [], []):  # the new state is noted once
        assert expected == done(publish(built), "upload")
        kept = hub.read(REPO, "README.md")
        assert (take_apart(edited).own, front_of(edited)) == (take_apart(kept).own, front_of(kept))


def test_a_card_that_was_there_before_is_kept(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    hub.seed(REPO, {"README.md": b"---\nlicense: mit\nlanguage: de\n---\n# Seit langem\n\nText.\n"})

    document = published(publish(build(tmp_path)))

    card = hub.read(REPO, "README.md").decode()
    assert card.startswith("---\nlicense: mit\nlanguage: de\nbase_model: org/base\n")
    assert "# Seit langem\n\nText.\n\n<!-- overlay:begin" in card
    assert ["README.md: the repository's own text is kept; what the folder's says otherwise is not taken"] == document[
        "plan"
    ]["notes"]


def test_the_card_says_what_the_repository_is(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    published(publish(build(tmp_path)))

    card = hub.read(REPO, "README.md").decode()

    assert {"license": "mit", "base_model": BASE, "library_name": "overlay", "tags": ["overlay"]} == front_of(
        card.encode()
    )
    assert "**It is not a checkpoint that can be loaded.** The index names 2 shards of the base" in card
    for repo, licence in ((BASE, "mit"), (DONOR, "apache-2.0")):
        commit = hub.head(repo).id
        assert f"| [{repo}](https://huggingface.co/{repo}/tree/{commit}) | `{commit}` | {licence} |" in card
    assert "3 tensors, by dtype 1 BF16, 1 F32, 1 U8, in 1 new shard" in card
    for name, file in hub.files(REPO).items():
        if name.endswith(".safetensors"):
            assert f"| `{name}` | {file.size} | `{file.sha256}` |" in card


def test_an_audit_finds_that_every_claim_of_the_card_holds(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    published(publish(build(tmp_path)))
    stated = {claim.text for claim in find_claims(hub.read(REPO, "README.md").decode(), "README.md")}

    claims = [word for text in sorted(stated) for word in ("--claim", text)]
    ended = overlay("audit", f"hf://{REPO}", "--against", f"hf://{BASE}", "--json", *claims)

    assert {"3 tensors", "7 tensors", "1 BF16, 1 F32, 1 U8"} <= stated
    judged = {claim["text"]: claim["standing"] for claim in ended.document["claims"]}
    assert dict.fromkeys(stated, "holds") == {text: judged[text] for text in stated}


def test_words_of_a_manifest_cannot_break_out_of_the_card(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(
        tmp_path, summary="A <!-- overlay:end --> | B\n\n# C", engines={"vllm": {"launch": {"x": "`|\n<!--"}}}
    )

    published(publish(built))
    again = publish(built)

    assert [] == done(again, "upload")
