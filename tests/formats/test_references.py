"""References: what is a path, what is a repository, and what is neither."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from overlay.formats.references import HubReference, PathReference, Reference, parse_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://org/name", HubReference("org/name")),
        ("hf://org/name/", HubReference("org/name")),
        ("hf://models/org/name", HubReference("org/name")),
        ("hf://org/name@main", HubReference("org/name", "main")),
        (f"hf://org/name@{COMMIT}", HubReference("org/name", COMMIT)),
        ("hf://org/name/config.json", HubReference("org/name", "", "config.json")),
        ("hf://org/name@v1.0/sub/a b.json", HubReference("org/name", "v1.0", "sub/a b.json")),
        ("hf://org/name/a@b", HubReference("org/name", "", "a@b")),
        ("hf://org/name@refs/pr/12", HubReference("org/name", "refs/pr/12")),
        ("hf://org/name@refs/pr/12/a.json", HubReference("org/name", "refs/pr/12", "a.json")),
        ("hf://org/name@refs%2Fpr%2F12/a.json", HubReference("org/name", "refs/pr/12", "a.json")),
        ("hf://org/name@refs/convert/parquet", HubReference("org/name", "refs/convert/parquet")),
        ("hf://org/name@feature%2Fx/a.json", HubReference("org/name", "feature/x", "a.json")),
        ("hf://org/name@refs/x", HubReference("org/name", "refs", "x")),
        ("hf://0xSero/GLM-5.2_a.b", HubReference("0xSero/GLM-5.2_a.b")),
        ("hf://_org/_name", HubReference("_org/_name")),
        ("https://huggingface.co/org/name", HubReference("org/name")),
        ("https://huggingface.co/org/name/", HubReference("org/name")),
        ("http://www.huggingface.co/org/name?x=1#files", HubReference("org/name")),
        ("https://hf.co/org/name/tree/main", HubReference("org/name", "main")),
        ("https://huggingface.co/org/name/tree/main/", HubReference("org/name", "main")),
        ("https://huggingface.co/org/name/tree/main?recursive=1", HubReference("org/name", "main")),
        ("https://huggingface.co/org/name/blob/main/a%20b.json", HubReference("org/name", "main", "a b.json")),
        (
            "https://huggingface.co/org/name/resolve/v1/x/y.json?download=true",
            HubReference("org/name", "v1", "x/y.json"),
        ),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F3", HubReference("org/name", "refs/pr/3")),
        ("https://huggingface.co/org/name/blob/refs/pr/3/a.json", HubReference("org/name", "refs/pr/3", "a.json")),
        ("model", PathReference("model")),
        ("org/name", PathReference("org/name")),
        ("./a", PathReference("./a")),
        ("../up", PathReference("../up")),
        ("/abs/path with blanks", PathReference("/abs/path with blanks")),
        ("~/x", PathReference("~/x")),
        ("C:\\models", PathReference("C:\\models")),
        ("hf:/org/name", PathReference("hf:/org/name")),
        (" ", PathReference(" ")),
    ],
)
def test_a_reference_is_a_path_or_a_repository(text: str, expected: Reference) -> None:
    actual = parse_reference(text)

    assert expected == actual
    assert expected == parse_reference(str(actual))


@pytest.mark.parametrize(
    "text",
    [
        *("", "a\0b", "hf://", "hf://org", "hf://org/", "hf:///name", "hf://gpt2", "hf://org/name@", "hf://org/name@@"),
        *("hf://org/na me", "hf://.org/name", "hf://org/-name", "hf://org/n\0", "hf://órg/name", "hf://org/name@a b"),
        *("hf://datasets/org/name", "hf://spaces/org/name", "hf://buckets/org/name", "hf://models/org"),
        *("hf://org/name/..", "hf://org/name/../x", "hf://org/name/a/../b", "hf://org/name/./x", "hf://org/name/a//b"),
        *("hf://org/name@main/..", "hf://org/name/a\0b", "hf://org/name/a\nb", "hf://org/name\n", "hf://org/name@a\n"),
        *("hf://org/name@..", "hf://org/name@a..b", "hf://org/name@%2e%2e", "hf://org/name@..%2Fx", "hf://org/name@-x"),
        *(
            "hf://org/name@%2Fx",
            "hf://org/name@x%2F",
            "hf://org/name@a%2F%2Fb",
            "hf://org/name@a%00",
            "hf://org/name@.",
        ),
        *("HF://org/name", "ftp://bucket/x", "file:///x", "gguf+x://y", "http://example.com/org/name"),
        *("https://huggingface.co", "https://huggingface.co/org", "https://huggingface.co/datasets/org/name"),
        *("https://huggingface.co/org/name/discussions/1", "http://huggingface.co.evil.com/org/name"),
        *("https://huggingface.co/org/name/blob/main/../x", "https://huggingface.co/org/name/blob/main/%2e%2e/x"),
        *("https://huggingface.co/org/name/blob/main/a%00", "https://huggingface.co/org/name/tree/%2e%2e"),
        *("https://huggingface.co/datasets/org", "https://huggingface.co/org/name/blob/main/a%0Ab"),
    ],
)
def test_any_other_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^expected a (path or hf://|file inside|branch, tag or commit)"):
        parse_reference(text)


SEGMENTS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,6}", fullmatch=True)
REPOS = st.tuples(
    SEGMENTS.filter(lambda org: org not in ("models", "datasets", "spaces", "buckets", "kernels")), SEGMENTS
)
REVISIONS = st.one_of(
    st.just(""),
    st.sampled_from(
        ["main", COMMIT, "refs/pr/1", "refs/pr/1x", "refs/convert/parquet", "refs/heads/a", "a@b", "50%", "%2F"]
    ),
    st.from_regex(r"[a-z#%@+é][a-z#%@+é]{0,3}(/[a-z#%@+é]{1,4}){0,2}", fullmatch=True),
)
FILES = st.one_of(
    st.just(""),
    st.lists(
        st.text(st.sampled_from("ab.@%#? é~"), min_size=1, max_size=4).filter(lambda part: part not in (".", "..")),
        min_size=1,
        max_size=3,
    ).map("/".join),
)


@settings(max_examples=400)
@given(st.builds(lambda repo, revision, file: HubReference("/".join(repo), revision, file), REPOS, REVISIONS, FILES))
@example(HubReference("org/name", "refs/pr/1", "2/a"))
@example(HubReference("org/name", "refs/convert/a-b", "c"))
def test_a_written_repository_reference_reads_back(reference: HubReference) -> None:
    actual = parse_reference(str(reference))

    assert reference == actual


PIECES = [
    *("hf://", "https://huggingface.co/", "models/", "org", "name", "/", "@", "tree/", "main", "refs/pr/1"),
    *("%2F", "%41", ".", "..", "é", " ", "?", "#", "\n", ":"),
]


@settings(max_examples=800)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
@example("hf://org/name@%25")
def test_whatever_is_accepted_prints_as_something_that_means_the_same(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ValueError:
        assume(False)

    assert reference == parse_reference(str(reference))


@settings(max_examples=300)
@given(st.text(max_size=20))
def test_arbitrary_text_gives_a_reference_or_a_value_error(text: str) -> None:
    try:
        actual = str(parse_reference(text))
    except ValueError as error:
        actual = str(error)[:9]

    assert actual in (text, "expected ")


@pytest.mark.parametrize(
    "text", ["https://user:pass@host/x", "https://host/x?sig=pass", "s3://key:pass@bucket/x?y", "ftp://u:pass@h/x"]
)
def test_a_key_in_an_address_is_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="expected a path") as refusal:
        parse_reference(text)
    assert "pass" not in str(refusal.value)
