"""The unmodified client publishes to the loopback Hub over plain HTTP."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import CommitOperationCopy as Copy
from huggingface_hub import CommitOperationDelete as Delete
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.faults import Answer, Where, dropped, dropped_after, server_error, when
from tests.loopback_hub.messages import Request, Response

pytestmark = pytest.mark.slow  # of the Hub that tests talk to, not of what is tested

REPO = "org/name"
SHARD = "model.safetensors"
DATA = bytes(range(256)) * 2000
SMALL = {"config.json": b"{}\n", "old/a.json": b"a", "old/b.json": b"b"}


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


def _bytes(hub: LoopbackHub, revision: str = "main", repo: str = REPO) -> dict[str, bytes]:
    return {path: hub.read(repo, path, revision) for path in hub.files(repo, revision)}


def test_a_repository_is_made_once(hub: LoopbackHub, api: HfApi) -> None:
    url = api.create_repo("tester/new", private=True)

    assert api.create_repo("tester/new", exist_ok=True) == url
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("tester/new")
    assert hub.repository("tester/new").private
    assert list(hub.files("tester/new")) == [".gitattributes"]


def test_a_repository_is_deleted(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)

    api.delete_repo(REPO)

    assert not api.repo_exists(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)


def test_one_commit_adds_changes_and_deletes(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    parent = hub.seed(REPO, SMALL)
    path = tmp_path / "shard"
    path.write_bytes(DATA)

    info = api.create_commit(
        REPO,
        [
            Add("config.json", b"{1}"),
            Add(SHARD, path),
            Delete("old/", is_folder=True),
            Copy("config.json", "copy.json"),
        ],
        commit_message="title",
        commit_description="more",
        parent_commit=parent,
    )

    assert _bytes(hub) == {"config.json": b"{1}", "copy.json": SMALL["config.json"], SHARD: DATA}
    assert hub.files(REPO)[SHARD].sha256 == sha256(DATA).hexdigest()
    head = hub.head(REPO)
    assert (head.id, head.parent, head.title, head.description) == (info.oid, parent, "title", "more")
    assert len(hub.log.about(stage="commit")) == 1


def test_a_commit_that_changes_nothing_is_not_made(hub: LoopbackHub, api: HfApi) -> None:
    head = hub.seed(REPO, {**SMALL, SHARD: DATA})

    info = api.create_commit(REPO, [Add("config.json", SMALL["config.json"]), Add(SHARD, DATA)], commit_message="none")

    assert info.oid == head == hub.head(REPO).id
    assert hub.log.about(stage="commit") == [] and hub.log.about(method="PUT") == []


def test_a_stale_parent_is_refused_and_nothing_changes(hub: LoopbackHub, api: HfApi) -> None:
    stale = hub.seed(REPO, SMALL)
    head = hub.seed(REPO, {"config.json": b"[]"})

    with pytest.raises(HfHubHTTPError) as refusal:
        api.create_commit(REPO, [Add("x.json", b"x")], commit_message="x", parent_commit=stale)

    assert refusal.value.response.status_code == 412
    assert hub.head(REPO).id == head


def test_deleting_what_is_not_there_is_refused(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)

    with pytest.raises(HfHubHTTPError):
        api.create_commit(REPO, [Delete("none.json"), Add("x.json", b"x")], commit_message="x")

    assert _bytes(hub) == SMALL


def test_a_pull_request_leaves_main_alone_and_needs_no_right_to_write(hub: LoopbackHub) -> None:
    head = hub.seed(REPO, SMALL)
    hub.enrol("hf_other", "other")
    other = HfApi(endpoint=hub.url, token="hf_other")

    info = other.create_commit(
        REPO, [Add("x.json", b"x"), Add(SHARD, DATA)], commit_message="please", create_pr=True, parent_commit=head
    )

    assert (info.pr_revision, info.pr_num) == ("refs/pr/1", 1)
    assert hub.head(REPO).id == head
    assert _bytes(hub, "refs/pr/1") == {**SMALL, "x.json": b"x", SHARD: DATA}
    refs = other.list_repo_refs(REPO, include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests or []] == [("refs/pr/1", info.oid)]
    assert other.get_discussion_details(REPO, 1).title == "please"
    with pytest.raises(HfHubHTTPError, match="403"):
        other.create_commit(REPO, [Add("x.json", b"x")], commit_message="x")


def test_a_commit_can_follow_on_a_pull_request(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)
    opened = api.create_pull_request(REPO, title="empty")

    api.create_commit(REPO, [Add("x.json", b"x")], commit_message="x", revision=f"refs/pr/{opened.num}")

    assert hub.read(REPO, "x.json", "refs/pr/1") == b"x"
    assert "x.json" not in hub.files(REPO)


def test_without_a_token_nothing_can_be_written(hub: LoopbackHub) -> None:
    hub.seed(REPO, SMALL)
    anonymous = HfApi(endpoint=hub.url, token=False)

    with pytest.raises(HfHubHTTPError) as refusal:
        anonymous.create_commit(REPO, [Add("x.json", b"x")], commit_message="x")
    with pytest.raises(HfHubHTTPError):
        anonymous.create_repo("tester/new")

    assert refusal.value.response.status_code == 401
    assert _bytes(hub) == SMALL


def test_who_may_write_is_told_before_the_upload(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)
    hub.enrol("hf_other", "other", "friends")
    other = HfApi(endpoint=hub.url, token="hf_other")

    assert (api.whoami()["name"], other.whoami()["name"]) == ("tester", "other")
    api.auth_check(REPO, write=True)
    other.auth_check(REPO)
    with pytest.raises(HfHubHTTPError, match="403"):
        other.auth_check(REPO, write=True)
    assert other.create_repo("friends/new").repo_id == "friends/new"


def test_a_large_file_is_sent_once_and_never_with_a_token(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)

    for title in ("a.safetensors", "b.safetensors"):
        api.create_commit(REPO, [Add(title, DATA)], commit_message=title)

    (put,) = hub.log.about(method="PUT")
    assert (put.origin, put.authorization, put.stage) == ("cdn", None, "upload")
    assert hub.read(REPO, "b.safetensors") == DATA


def test_a_file_larger_than_a_part_is_sent_in_parts(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.settings.multipart = 100_000
    hub.seed(REPO, SMALL)
    path = tmp_path / "shard"
    path.write_bytes(DATA)

    api.create_commit(REPO, [Add(SHARD, path)], commit_message="x")

    assert hub.read(REPO, SHARD) == DATA
    assert [record.path.rsplit("/", 1)[1] for record in hub.log.about(method="PUT")] == [*"123456"]


def test_an_upload_that_breaks_before_the_commit_leaves_the_repository_alone(hub: LoopbackHub, api: HfApi) -> None:
    head = hub.seed(REPO, SMALL)

    def commit() -> None:
        api.create_commit(REPO, [Add(SHARD, DATA), Add("x.json", b"x")], commit_message="x")

    with hub.failing(when(Where(stage="commit"), dropped())), pytest.raises(Exception, match="disconnected"):
        commit()
    assert hub.head(REPO).id == head
    commit()

    assert hub.read(REPO, SHARD) == DATA
    assert len(hub.log.about(method="PUT")) == 1, "the second run sends the shard no more"


def test_a_commit_whose_answer_is_lost_is_made(hub: LoopbackHub, api: HfApi) -> None:
    parent = hub.seed(REPO, SMALL)

    with hub.failing(when(Where(stage="commit"), dropped_after())), pytest.raises(Exception, match="disconnected"):
        api.create_commit(REPO, [Add("x.json", b"x")], commit_message="x", parent_commit=parent)

    assert hub.head(REPO).parent == parent
    assert hub.read(REPO, "x.json") == b"x"


def test_bytes_of_another_digest_are_refused(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)
    operation = Add(SHARD, DATA)
    operation.upload_info.sha256 = bytes(32)

    with pytest.raises(Exception, match="uploading"):
        api.create_commit(REPO, [operation], commit_message="x")

    assert _bytes(hub) == SMALL


def test_an_upload_passes_over_a_server_error(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)

    with hub.failing(when(Where(method="PUT"), server_error(500), times=1)):
        api.create_commit(REPO, [Add(SHARD, DATA)], commit_message="x")

    assert hub.read(REPO, SHARD) == DATA


def test_branches_and_tags_are_made_and_deleted(hub: LoopbackHub, api: HfApi) -> None:
    head = hub.seed(REPO, SMALL)

    api.create_branch(REPO, branch="side/one")
    api.create_tag(REPO, tag="v1", revision="side/one")

    assert hub.repository(REPO).refs == {"refs/heads/main": head, "refs/heads/side/one": head, "refs/tags/v1": head}
    api.create_branch(REPO, branch="side/one", exist_ok=True)
    api.create_tag(REPO, tag="v1", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(REPO, branch="side/one")
    api.delete_branch(REPO, branch="side/one")
    api.delete_tag(REPO, tag="v1")
    assert hub.repository(REPO).refs == {"refs/heads/main": head}


def test_a_card_is_checked_before_it_is_committed(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, SMALL)

    api.create_commit(REPO, [Add("README.md", b"---\nlicense: mit\n---\n# Hello\n")], commit_message="card")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.create_commit(REPO, [Add("README.md", b"---\n- a\n---\n")], commit_message="card")

    assert len(hub.log.about(path="/api/validate-yaml")) == 2
    assert hub.read(REPO, "README.md") == b"---\nlicense: mit\n---\n# Hello\n"


def test_a_killed_upload_can_be_begun_again(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    head = hub.seed(REPO, SMALL)
    path = tmp_path / "shard"
    path.write_bytes(DATA)
    code = (
        "import sys; from huggingface_hub import CommitOperationAdd, HfApi;"
        f"HfApi().create_commit({REPO!r}, [CommitOperationAdd({SHARD!r}, sys.argv[1])], commit_message='x')"
    )
    running = [sys.executable, "-c", code, str(path)]
    begun: list[subprocess.Popen[bytes]] = []

    def kill(request: Request, answer: Answer) -> Response:
        begun[0].kill()
        raise ConnectionResetError

    with hub.failing(when(Where(stage="commit"), kill)):
        begun.append(subprocess.Popen(running))
        assert begun[0].wait() == -9
    assert hub.head(REPO).id == head
    subprocess.run(running, check=True)

    assert hub.read(REPO, SHARD) == DATA
