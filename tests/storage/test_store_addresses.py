"""Which addresses name a folder of a store, and that a message never shows a key."""

from __future__ import annotations

import subprocess
import sys

import pytest

from overlay.errors import EnvironmentFault, InvalidInput
from overlay.storage.object_stores import open_store
from overlay.storage.object_stores.addresses import as_reason, is_inside, parse_folder, without_secrets
from overlay.storage.object_stores.answers import not_installed


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a b/c/", "s3://bucket/a b/c"),
        ("gs://bucket/m", "gs://bucket/m"),
        ("az://container/m", "az://container/m"),
        ("https://host:8443/m%20n", "https://host:8443/m%20n"),
        ("http://localhost:8000/m", "http://localhost:8000/m"),
        ("http://127.0.0.1/m", "http://127.0.0.1/m"),
        ("http://[::1]:80/m", "http://[::1]:80/m"),
    ],
)
def test_an_address_of_a_folder(address: str, plain: str) -> None:
    assert parse_folder(address).address == plain


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://host/m?sig=SECRET", "expected an address without a query"),
        ("s3://bucket/m?versionId=SECRET", "expected an address without a query"),
        ("https://host/m#SECRET", "expected an address without a query"),
        ("https://user:SECRET@host/m", "expected a host or bucket without a name or password"),
        ("https://SECRET@host/m", "expected a host or bucket without a name or password"),
        ("s3://AKIA:SECRET@bucket/m", "expected a host or bucket without a name or password"),
        ("https://user:SECRET@host/m?sig=SECRET", "expected an address without a query"),
        ("https://user:SE/CRET@host/m", "expected a host or bucket without a name or password"),
        ("http://host/m", "expected https, found http to another machine"),
        ("http://127.0.0.1.example.org/m", "found http to another machine"),
        ("http://localhost.example.org/m", "found http to another machine"),
        ("ftp://host/m", "expected s3://bucket/folder"),
        ("file:///etc", "expected s3://bucket/folder"),
        ("s3:/bucket", "expected s3://bucket/folder"),
        ("s3://", "expected s3://bucket/folder"),
        ("s3:///m", "expected s3://bucket/folder"),
        ("s3://bucket/a/../b", "found '..'"),
        ("s3://bucket/a//b", "found '..'"),
        ("s3://bucket/a\nb", "expected s3://bucket/folder"),
        ("", "expected s3://bucket/folder"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_a_key(address: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        open_store(address)
    assert "SECRET" not in caught.value.line
    assert "\n" not in caught.value.line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://host/m/x?X-Amz-Signature=SECRET failed", "GET https://host/m/x failed"),
        ("URL('https://u:SECRET@host/m?sig=SECRET')", "URL('https://host/m')"),
        ('"http://h/a?b=SECRET" and s3://k:SECRET@b/c', '"http://h/a" and s3://b/c'),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_words_of_a_library_are_shown_without_keys(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_reason_is_one_short_line() -> None:
    assert as_reason(ValueError("a\n  b")) == "ValueError: a b"
    assert as_reason(ValueError()) == "ValueError"
    assert len(as_reason(ValueError("x" * 10_000))) < 300


@pytest.mark.parametrize("name", ["a", "a/b", "ü ?#", ".hidden", "a..b"])
def test_a_name_inside(name: str) -> None:
    assert is_inside(name)


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a\\b", "a\nb", "a\x00", "\ud800"]
)
def test_a_name_that_leads_out(name: str) -> None:
    assert not is_inside(name)


_WITHOUT = """
import sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None
from overlay.errors import OverlayError
from overlay.storage.object_stores import open_store
try:
    open_store(sys.argv[1])
except OverlayError as error:
    print(type(error).__name__, error.line, "|", error.hint)
"""


@pytest.mark.parametrize(
    ("address", "missing", "hint"),
    [
        ("s3://bucket/m", "fsspec", "pip install 'checkpoint-overlay[remote]'"),
        ("s3://bucket/m", "s3fs", "pip install 'checkpoint-overlay[remote]'"),
        ("https://localhost/m", "aiohttp", "pip install 'checkpoint-overlay[remote]'"),
        ("gs://bucket/m", "gcsfs", "pip install 'checkpoint-overlay[remote]' gcsfs"),
        ("az://bucket/m", "adlfs", "pip install 'checkpoint-overlay[remote]' adlfs"),
    ],
)
def test_missing_packages_are_named_with_the_way_to_get_them(address: str, missing: str, hint: str) -> None:
    command = [sys.executable, "-c", _WITHOUT, address, missing]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    scheme = address.partition(":")[0]
    assert done.stdout.strip() == f"EnvironmentFault {not_installed(scheme, address).line} | {hint}"


def test_nothing_is_imported_before_a_store_is_opened() -> None:
    check = "import sys, overlay.storage.object_stores; print({'fsspec', 's3fs', 'aiohttp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_the_fault_names_packages() -> None:
    assert isinstance(not_installed("s3", "s3://b"), EnvironmentFault)
    assert "fsspec and s3fs" in not_installed("s3", "s3://b").line
