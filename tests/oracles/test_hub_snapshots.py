"""Bases and donors in a Hub cache: links to read-only blobs, directly or through the store that repositories share.

huggingface_hub itself says that the caches built here are caches.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import overlay
from overlay.running.locating import Places
from overlay.storage.linking import LinkMode
from tests.oracles.checkpoints import INDEX, Pair, shards_of, tensors_in, tensors_of
from tests.oracles.conftest import CommandLine
from tests.oracles.hub_cache import LAYOUTS, Entry, Layout, Repository, add_repository, flip_byte, look_at


@dataclass(frozen=True)
class Cached:
    """A base and its donor in a cache, and a manifest that names them by reference."""

    layout: Layout
    pair: Pair
    base: Repository
    donor: Repository
    manifest: Path
    target: Path

    @property
    def cache(self) -> Path:
        return self.base.cache

    @property
    def victim(self) -> str:
        """A shard of the base."""
        return shards_of(self.pair.base)[1]


@pytest.fixture(params=LAYOUTS)
def cached(request: pytest.FixtureRequest, glm4_moe: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    cache, work = tmp_path / "hub", tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    base = add_repository(cache, "org/base", glm4_moe.base, request.param)
    donor = add_repository(cache, "org/donor", glm4_moe.donor, request.param)
    manifest = glm4_moe.write_manifest(work, base=base.reference, donor=donor.reference)
    return Cached(request.param, glm4_moe, base, donor, manifest, work / "serve")


def expected_tensors(cached: Cached) -> dict[str, Any]:
    return tensors_of(cached.pair.base) | cached.pair.draft


def apply(cached: Cached, **options: Any) -> None:
    overlay.apply(overlay.Request(sources=(str(cached.manifest),)), str(cached.target), **options)


class TestCache:
    def test_the_client_scans_it_without_a_warning(self, cached: Cached) -> None:
        info = huggingface_hub.scan_cache_dir(cached.cache)

        found = {(repo.repo_id, rev.commit_hash, *rev.refs) for repo in info.repos for rev in repo.revisions}
        assert info.warnings == []
        assert found == {(repo.name, repo.commit, "main") for repo in (cached.base, cached.donor)}

    def test_the_client_finds_every_file_by_its_branch(self, cached: Cached) -> None:
        names = sorted(os.listdir(cached.pair.base))

        found = {
            name: huggingface_hub.try_to_load_from_cache("org/base", name, cache_dir=cached.cache, revision="main")
            for name in names
        }

        assert found == {name: str(cached.base.snapshot / name) for name in names}

    def test_the_client_counts_a_shared_payload_once(self, cached: Cached) -> None:
        add_repository(cached.cache, "org/twin", cached.pair.base, cached.layout)

        info = huggingface_hub.scan_cache_dir(cached.cache)

        shards = sum((cached.pair.base / shard).stat().st_size for shard in shards_of(cached.pair.base))
        saved = sum(repo.size_on_disk for repo in info.repos) - info.size_on_disk
        assert saved == (shards if cached.layout == "two hops" else 0)

    def test_links_hop_as_often_as_the_layout_says(self, cached: Cached) -> None:
        first = cached.base.folder / "blobs" / cached.base.stated(cached.victim)

        assert first.is_symlink() == (cached.layout == "two hops")
        assert (cached.base.payload(cached.victim).name == first.name) == (cached.layout == "one hop")
        assert cached.base.payload(cached.victim).stat().st_mode & 0o222 == 0


class TestFromACache:
    @pytest.mark.parametrize("named", ["by path", "by reference"])
    def test_the_command_line_locks_applies_and_verifies_and_leaves_the_cache_alone(
        self, cached: Cached, overlay: CommandLine, named: str
    ) -> None:
        if named == "by path":
            base, donor = str(cached.base.snapshot), str(cached.donor.snapshot)
            cached.pair.write_manifest(cached.manifest.parent, base=base, donor=donor)
        before = look_at(cached.cache)

        runs = [
            overlay("lock", cached.manifest, "--level", "headers"),
            overlay("apply", cached.manifest, "-o", cached.target),
            overlay("verify", cached.target, "--level", "content"),
        ]

        assert [(run.code, run.errors) for run in runs] == [(0, "")] * 3
        assert tensors_of(cached.target) == expected_tensors(cached)
        assert look_at(cached.cache) == before

    def test_what_the_cache_states_is_pinned_and_compared_without_hashing_first(
        self, cached: Cached, overlay: CommandLine
    ) -> None:
        shards = shards_of(cached.pair.base)

        overlay("lock", cached.manifest, "--level", "headers")
        overlay("apply", cached.manifest, "-o", cached.target)
        verified = overlay("verify", cached.target, "--level", "content")

        lock = json.loads(cached.manifest.with_suffix(".lock.json").read_bytes())
        assert {n: lock["base"]["files"][n]["sha256"] for n in shards} == {n: cached.base.stated(n) for n in shards}
        assert lock["base"]["commit"] == cached.base.commit
        assert verified.document["proof"] == {"compared": len(shards) + 1, "unproven": []}

    @pytest.mark.parametrize("link", ["auto", "symlink", "hardlink", "copy"])
    def test_every_link_mode_reaches_the_payload_and_changes_nothing_in_the_cache(
        self, cached: Cached, link: LinkMode
    ) -> None:
        before = look_at(cached.cache)

        apply(cached, link=link, level="content")

        assert tensors_of(cached.target) == expected_tensors(cached)
        assert overlay.verify(str(cached.target), level="content").findings == ()
        assert untouched(look_at(cached.cache), link) == untouched(before, link)

    def test_sidecars_and_index_are_private(self, cached: Cached) -> None:
        apply(cached)

        for name in ("config.json", "generation_config.json", INDEX):
            placed = cached.target / name
            assert not placed.is_symlink()
            assert placed.stat().st_nlink == 1
            assert placed.stat().st_mode & 0o777 == 0o644

    def test_a_branch_that_moved_after_the_lock_is_not_followed(self, cached: Cached) -> None:
        overlay.lock(str(cached.manifest), level="headers")
        add_repository(cached.cache, "org/base", cached.pair.donor, cached.layout, commit="f" * 40)

        apply(cached)

        assert tensors_of(cached.target) == expected_tensors(cached)
        # Without the lock the branch is followed, and what it holds now has a layer of that number of its own.
        with pytest.raises(overlay.Conflict):
            overlay.lock(str(cached.manifest), level="headers", upgrade=True)

    def test_base_and_difference_by_reference_give_the_same(self, cached: Cached, tmp_path: Path) -> None:
        apply(cached)
        difference = tmp_path / "difference"
        difference.mkdir()
        for name in (cached.pair.shard, INDEX, "config.json"):
            (difference / name).write_bytes((cached.target / name).read_bytes())
        graft = add_repository(cached.cache, "org/difference", difference, cached.layout)

        request = overlay.Request(graft=graft.reference, places=Places(base=cached.base.reference))
        overlay.apply(request, str(tmp_path / "pair"))

        assert tensors_of(tmp_path / "pair") == expected_tensors(cached)
        assert overlay.verify(str(tmp_path / "pair"), level="content").compared == len(shards_of(tmp_path / "pair"))


def untouched(entries: dict[str, Entry], link: LinkMode) -> dict[str, Entry]:
    """What must not change: all of it, but for a hard link, which counts itself and moves the time of that."""
    if link != "hardlink":
        return entries
    return {name: entry._replace(links=0, ctime_ns=0) for name, entry in entries.items()}


class TestDamage:
    """One bit of a payload is flipped; its size and time of change are as before."""

    def test_verify_of_the_target_finds_it(self, cached: Cached, overlay: CommandLine) -> None:
        overlay("lock", cached.manifest, "--level", "headers")
        overlay("apply", cached.manifest, "-o", cached.target)
        flip_byte(cached.base.payload(cached.victim))

        verified = overlay("verify", cached.target, "--level", "content")

        assert verified.code == 1
        assert found_in(verified.document) == [("LCK001", cached.victim)]
        assert cached.base.stated(cached.victim) in verified.document["findings"][0]["message"]

    def test_verify_of_the_repository_finds_it_by_the_name_of_the_blob(
        self, cached: Cached, overlay: CommandLine
    ) -> None:
        sound = overlay("verify", cached.base.reference, "--level", "content")
        flip_byte(cached.base.payload(cached.victim))

        verified = overlay("verify", cached.base.reference, "--level", "content")

        # The config declares a draft layer that the base lacks; that is a finding of its own, and no damage.
        draft = [entry for entry in found_in(sound.document) if entry[0].startswith("MTP")]
        assert found_in(sound.document) == draft
        assert found_in(verified.document) == [("LCK001", cached.victim), *draft]
        assert sound.document["proof"] == {"compared": len(shards_of(cached.pair.base)), "unproven": []}

    def test_verify_of_the_manifest_finds_it(self, cached: Cached) -> None:
        overlay.lock(str(cached.manifest), level="headers")
        flip_byte(cached.base.payload(cached.victim))

        verdict = overlay.verify(str(cached.manifest), level="content")

        assert [(finding.code, finding.file) for finding in verdict.findings] == [("LCK001", cached.victim)]

    @pytest.mark.parametrize("locked", [True, False])
    def test_apply_at_level_content_refuses_it_and_makes_nothing(self, cached: Cached, locked: bool) -> None:
        if locked:
            overlay.lock(str(cached.manifest), level="headers")
        flip_byte(cached.base.payload(cached.victim))

        with pytest.raises(overlay.Mismatch, match=cached.victim):
            apply(cached, level="content")

        assert not cached.target.exists()

    def test_lock_at_level_content_refuses_it(self, cached: Cached) -> None:
        flip_byte(cached.base.payload(cached.victim))

        with pytest.raises(overlay.Mismatch, match=cached.victim):
            overlay.lock(str(cached.manifest), level="content")

    def test_lock_at_level_content_refuses_a_donor_that_is_not_what_its_blob_says(self, cached: Cached) -> None:
        shard = flip_in_graft(cached)

        with pytest.raises(overlay.Mismatch, match=shard):
            overlay.lock(str(cached.manifest), level="content")

        assert not cached.manifest.with_suffix(".lock.json").exists()

    def test_apply_at_level_content_refuses_a_donor_that_is_not_what_its_blob_says(self, cached: Cached) -> None:
        shard = flip_in_graft(cached)

        with pytest.raises(overlay.Mismatch, match=shard):
            apply(cached, level="content")

        assert not cached.target.exists()

    def test_a_donor_that_changed_after_the_lock_is_refused_by_tensor(self, cached: Cached) -> None:
        overlay.lock(str(cached.manifest), level="content")
        flip_in_graft(cached)

        with pytest.raises(overlay.Mismatch, match=cached.pair.family.draft_prefix):
            apply(cached)

        assert not cached.target.exists()


class TestNamesThatAreNoDigests:
    """The shared store names payloads by another hash than the sha256; no link into it states anything."""

    def test_an_overlay_over_an_overlay_verifies(self, cached: Cached, tmp_path: Path) -> None:
        apply(cached, link="symlink")
        upper = tmp_path / "upper.yaml"
        upper.write_text(f"overlay: 1\nname: upper\nbase: {cached.target}\n")

        overlay.lock(str(upper), level="headers")
        overlay.apply(overlay.Request(sources=(str(upper),)), str(tmp_path / "upper"))

        assert overlay.verify(str(tmp_path / "upper"), level="content").findings == ()
        assert tensors_of(tmp_path / "upper") == expected_tensors(cached)

    def test_a_folder_of_links_to_payloads_verifies(self, cached: Cached, tmp_path: Path) -> None:
        folder = tmp_path / "by-hand"
        folder.mkdir()
        for name in (*shards_of(cached.pair.base), INDEX):
            (folder / name).symlink_to(cached.base.payload(name))

        places = Places(allowed_roots=(str(cached.cache),))
        verdict = overlay.verify(str(folder), level="content", places=places)

        assert verdict.findings == ()


def flip_in_graft(cached: Cached) -> str:
    """Flip the last bit of the donor's last shard, which holds nothing but tensors of the graft; gives its name."""
    shard = shards_of(cached.pair.donor)[-1]
    assert tensors_in(cached.pair.donor / shard).keys() <= cached.pair.draft.keys()
    flip_byte(cached.donor.payload(shard))
    return shard


def found_in(document: Any) -> list[tuple[str, str]]:
    return [(finding["code"], finding["file"]) for finding in document["findings"]]
