"""`overlay audit`: what was added, which claims hold, and what can do harm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.core.claims import Claim, ClaimProblem, find_claims, parse_claims
from tests.support import small
from tests.support.checkpoints import INDEX, Checkpoint, Tensor, tensor
from tests.support.commands import Ended, overlay

ADDED = [tensor("model.layers.3.eh_proj.weight", "BF16", (4, 8)), tensor("model.layers.3.bias", "F32", (4,))]
"""Two tensors, 80 bytes."""
CARD = b"---\nlicense: mit\n---\nAdds 2 tensors (1 BF16 + 1 F32, 80 bytes), unmodified tensors of org/donor.\n"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A base, a donor, and a target that holds the base's shards and two tensors of the donor."""
    base = small.base()
    base.write(tmp_path / "base")
    Checkpoint(shards={"all.safetensors": [*ADDED, tensor("other")]}).write(tmp_path / "donor")
    _target(base).write(tmp_path / "target")
    return tmp_path


def _target(base: Checkpoint, added: list[Tensor] = ADDED, **sidecars: bytes) -> Checkpoint:
    named = {name.replace("_DOT_", "."): data for name, data in sidecars.items()}
    return replace(
        base, shards={**base.shards, small.NEW: added}, sidecars={**base.sidecars, "README.md": CARD, **named}
    )


def _audit(world: Path, *more: str | Path) -> Ended:
    return overlay("audit", world / "target", "--against", world / "base", "--json", *more)


def _claims(ended: Ended) -> Mapping[str, str]:
    return {claim["text"]: claim["standing"] for claim in ended.document["claims"]}


def _codes(ended: Ended) -> set[tuple[str, str]]:
    return {(finding["code"], finding["file"]) for finding in ended.document["findings"]}


def test_what_was_added_is_counted_by_layer_and_dtype(world: Path) -> None:
    document = _audit(world).document
    assert document["totals"]["added"] == {"tensors": 2, "parameters": 36, "bytes": 80}
    assert [row for row in document["layers"] if "added" in row] == [
        {"where": "model.layers.3", "added": {"tensors": 2, "parameters": 36, "bytes": 80}}
    ]
    added = {row["dtype"]: row["tensors"] for row in document["dtypes"] if row["change"] == "added"}
    assert added == {"BF16": 1, "F32": 1}


class TestClaims:
    """A claim holds, fails, or stays open; never is it left out."""

    def test_claims_of_the_card_are_found_and_judged(self, world: Path) -> None:
        ended = _audit(world)
        assert _claims(ended) == {
            f"every tensor of {world / 'base'} is there unchanged": "open",
            "2 tensors": "holds",
            "1 BF16 + 1 F32": "holds",
            "80 bytes": "holds",
            "unmodified tensors of org/donor": "open",
        }
        assert ended.code == 0

    def test_bytes_decide_what_headers_leave_open(self, world: Path) -> None:
        claims = _claims(_audit(world, "--content", "--donor", f"org/donor={world / 'donor'}"))
        assert set(claims.values()) == {"holds"}

    def test_a_donor_that_holds_other_bytes_makes_it_fail(self, world: Path) -> None:
        other = ADDED[0]._replace(data=bytes(64))
        Checkpoint(shards={"all.safetensors": [other, ADDED[1]]}).write(world / "wrong")
        ended = _audit(world, "--content", "--donor", f"org/donor={world / 'wrong'}")
        assert _claims(ended)["unmodified tensors of org/donor"] == "fails"
        (reason,) = (c["reason"] for c in ended.document["claims"] if "org/donor" in c["text"])
        assert ADDED[0].name in reason
        assert ended.code == 1

    def test_a_donor_without_the_tensor_makes_it_fail_unread(self, world: Path) -> None:
        Checkpoint(shards={"all.safetensors": [tensor("other")]}).write(world / "wrong")
        ended = _audit(world, "--donor", f"org/donor={world / 'wrong'}")
        assert _claims(ended)["unmodified tensors of org/donor"] == "fails"

    @pytest.mark.parametrize(
        ("claim", "standing", "code"),
        [
            ("2 tensors", "holds", 0),
            ("3 tensors", "fails", 1),
            ("80 bytes", "holds", 0),
            ("81 bytes", "fails", 1),
            ("1 BF16 + 1 F32", "holds", 0),
            ("2 BF16 + 0 F32", "fails", 1),
            ("1 BF16", "fails", 1),
            ("2 new tensors", "holds", 0),
            ("2 tensors added", "holds", 0),
            ("8 new tensors", "fails", 1),
            ("8 tensors", "holds", 0),
            ("2 replaced tensors", "fails", 1),
            ("0 tensors replaced", "holds", 0),
            ("6 unchanged tensors", "holds", 0),
            ("80 bytes added", "holds", 0),
            ("80 bytes rewritten", "fails", 1),
            ("1 MB", "fails", 1),
            ("1 TB added", "fails", 1),
        ],
    )
    def test_what_the_user_states_is_meant(self, world: Path, claim: str, standing: str, code: int) -> None:
        (world / "target" / "README.md").write_bytes(b"nothing")
        ended = _audit(world, "--claim", claim)
        assert _claims(ended)[claim] == standing
        assert ended.code == code

    @pytest.mark.parametrize(
        "claim",
        [
            "it is good",
            "2 tensors, all FP8",
            "2 FP8 tensors",
            "1 million tensors",
            "2 tensors and better than org/other",
            "",
        ],
    )
    def test_a_claim_that_is_not_understood_to_the_end_is_refused(self, world: Path, claim: str) -> None:
        assert overlay("audit", world / "target", "--against", world / "base", "--claim", claim).code == 2
        with pytest.raises(ClaimProblem):
            parse_claims(claim, "x")

    def test_a_flipped_byte_of_the_base_is_told(self, world: Path) -> None:
        shard = world / "target" / small.FIRST
        raw = bytearray(shard.read_bytes())
        raw[-1] ^= 1
        shard.write_bytes(raw)
        claims = _claims(_audit(world, "--content"))
        assert claims[f"every tensor of {world / 'base'} is there unchanged"] == "fails"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("the 791 MTP tensors", [("tensors", 791)]),
            ("19,905,841,664 bytes", [("bytes", 19_905_841_664)]),
            ("about 19.9 GB", [("bytes", 19_900_000_000)]),
            ("version 1.2.3 of 4 files", []),
            ("1 million tensors", []),
            ("a single 1 tensor", [("tensors", 1)]),
            ("layer 78", []),
        ],
    )
    def test_figures_are_read(self, text: str, expected: list[tuple[str, int]]) -> None:
        assert [(claim.kind, claim.number) for claim in find_claims(text, "x")] == expected

    @pytest.mark.parametrize(
        "text",
        [
            "unmodified tensors of zai-org/GLM-5.2.",
            "tensors copied verbatim from [zai-org/GLM-5.2](https://example.org)",
            "Layer 78 was extracted from `zai-org/GLM-5.2`",
            "The weights are byte-identical to zai-org/GLM-5.2, as published",
        ],
    )
    def test_donors_are_read(self, text: str) -> None:
        assert [claim.donor for claim in find_claims(text, "x")] == ["zai-org/GLM-5.2"]

    @pytest.mark.parametrize(
        "text",
        [
            "The tokenizer was copied from org/tok.",
            "These weights were not taken from zai-org/GLM-5.2.",
            "No tensor was copied from org/other.",
        ],
    )
    def test_a_sentence_about_something_else_or_a_denial_is_no_claim(self, text: str) -> None:
        assert find_claims(text, "x") == []

    def test_a_word_that_is_not_understood_leaves_a_card_open(self, world: Path) -> None:
        (world / "target" / "README.md").write_bytes(b"It has 2 shiny tensors.")
        assert _claims(_audit(world))["2 shiny tensors"] == "open"

    def test_a_long_text_takes_no_time_to_speak_of(self) -> None:
        """Ten seconds would be quadratic; a card of 200,000 hostile characters is read in well under one."""
        for text in ("1" * 200_000, "1,111" * 40_000, "copied " * 28_000, "1 BF16 + " * 22_000):
            assert all(isinstance(claim, Claim) for claim in find_claims(text, "x"))


class TestDiffOnly:
    """A repository that holds the difference alone is seen with its base's shards in place."""

    @pytest.fixture
    def diff_only(self, world: Path) -> Path:
        folder = world / "target"
        for shard in (small.FIRST, small.SECOND, small.THIRD):
            (folder / shard).unlink()
        return world

    def test_it_adds_what_it_holds(self, diff_only: Path) -> None:
        ended = _audit(diff_only)
        totals = ended.document["totals"]
        assert (totals["added"]["tensors"], totals["identical"]["tensors"], totals["removed"]["tensors"]) == (2, 6, 0)
        assert ended.document["unread"] == 0

    def test_sidecars_that_it_lacks_are_the_bases(self, diff_only: Path) -> None:
        (diff_only / "target" / "config.json").unlink()
        assert [change["name"] for change in _audit(diff_only).document["sidecars"]] == ["README.md"]

    def test_a_checkpoint_that_lost_a_shard_is_not_taken_for_one(self, world: Path) -> None:
        (world / "target" / small.SECOND).unlink()
        ended = _audit(world)
        assert ended.code == 3
        assert ended.refusal is not None
        assert small.SECOND in ended.refusal.line

    def test_a_locked_difference_is_verified_as_what_it_is(self, world: Path) -> None:
        """Its own index names its own shards; the lock pins the index of the result."""
        overlay("init", "--base", world / "base", "--derived", world / "target", "-o", world / "repo")
        assert overlay("lock", world / "repo").code == 0
        assert overlay("verify", world / "repo").code == 0

    def test_a_target_of_ours_knows_its_base(self, world: Path) -> None:
        overlay("init", "--base", world / "base", "--derived", world / "target", "-o", world / "repo")
        overlay("apply", world / "repo", "-o", world / "serve")
        totals = overlay("audit", world / "serve", "--json").document["totals"]
        assert (totals["added"]["tensors"], totals["identical"]["tensors"]) == (2, 6)

    def test_a_manifest_is_audited_before_it_is_applied(self, world: Path) -> None:
        made = overlay("init", "--base", world / "base", "--derived", world / "target", "-o", world / "repo")
        assert made.code == 0
        ended = overlay("audit", world / "repo" / "overlay.yaml", "--json")
        assert ended.document["totals"]["added"]["tensors"] == 2
        assert overlay("audit", world / "repo", "--json").document["totals"] == ended.document["totals"]


class TestHarm:
    """What can run code, or change what people see, is named with its file and key."""

    def _found(self, world: Path, **sidecars: bytes) -> set[str]:
        shutil.rmtree(world / "target")
        _target(small.base(), **sidecars).write(world / "target")
        return {f"{f['subject']} {f['message']}" for f in _audit(world).document["findings"]}

    def test_nothing_new_is_nothing_found(self, world: Path) -> None:
        assert not {line for line in self._found(world) if "README" not in line}

    def test_code_is_named(self, world: Path) -> None:
        assert any("modeling_x.py" in line for line in self._found(world, modeling_x_DOT_py=b"import os\n"))

    def test_an_auto_map_is_named(self, world: Path) -> None:
        config = json.dumps({**small.CONFIG, "auto_map": {"AutoModel": "x.M"}}).encode()
        assert any("auto_map" in line and "config.json" in line for line in self._found(world, config_DOT_json=config))

    def test_a_pickle_is_named(self, world: Path) -> None:
        (world / "target" / "extra.bin").write_bytes(b"\x80\x04\x95\x00")
        ended = _audit(world)
        assert any("extra.bin" in finding["subject"] for finding in ended.document["findings"])
        assert ended.code == 1

    def test_a_template_is_named(self, world: Path) -> None:
        found = self._found(world, chat_template_DOT_jinja=b"{{ evil }}")
        assert any("chat_template.jinja" in line for line in found)


def test_without_a_base_it_speaks_of_the_checkpoint_alone(world: Path) -> None:
    (world / "target" / "hook.py").write_text("import os")
    ended = overlay("audit", world / "target", "--json")
    assert ended.document["old"] is None
    assert any(finding["file"] == "hook.py" for finding in ended.document["findings"])
    assert "--against" in overlay("audit", world / "target").output


def test_what_is_wrong_with_the_index_is_told(world: Path) -> None:
    index = world / "target" / INDEX
    document = json.loads(index.read_bytes())
    document["weight_map"].pop(ADDED[0].name)
    index.write_text(json.dumps(document))
    ended = _audit(world)
    assert ("IDX005", small.NEW) in _codes(ended)
    assert ended.code == 1
