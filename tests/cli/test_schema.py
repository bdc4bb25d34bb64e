"""``overlay schema``: a validator that knows nothing of us accepts what we accept, and refuses what is plainly broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest
import yaml

from tests.bad_inputs.running import run_here
from tests.bad_inputs.world import MANIFEST

EXAMPLES = sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(run_here(["schema"]).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_manifest_is_valid(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    errors = list(validator.iter_errors(yaml.safe_load(path.read_text())))

    assert [] == errors


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize(
    "break_it",
    [
        lambda manifest: manifest.pop("name"),
        lambda manifest: manifest.pop("base"),
        lambda manifest: manifest.update(overlay=2),
        lambda manifest: manifest.update(overlay=True),
        lambda manifest: manifest.update(name="../x"),
        lambda manifest: manifest.update(graft=[]),
        lambda manifest: manifest.update(grafts={}),
        lambda manifest: manifest["grafts"][0].pop("from"),
        lambda manifest: manifest["grafts"][0].update(mode="merge"),
        lambda manifest: manifest["grafts"][0].update(tensors=[]),
        lambda manifest: manifest["grafts"][0]["expect"].update(tensors=-1),
        lambda manifest: manifest["grafts"][0]["expect"].update(tensors="3"),
        lambda manifest: manifest.update(files={"x.json": {"patch": [{"op": "execute", "path": "/"}]}}),
    ],
)
def test_a_broken_manifest_is_not(
    break_it: Callable[[dict[str, Any]], object], validator: jsonschema.Draft202012Validator
) -> None:
    manifest = yaml.safe_load(MANIFEST)
    assert validator.is_valid(manifest)

    break_it(manifest)

    assert not validator.is_valid(manifest)


def test_the_document_of_json_holds_the_schema_that_is_printed_without() -> None:
    printed = json.loads(run_here(["schema"]).out)

    document = json.loads(run_here(["schema", "--json"]).out)

    assert {"kind": "schema", "format": 1, "schema": printed} == document
