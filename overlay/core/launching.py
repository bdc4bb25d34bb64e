"""Launching: the words of the command that serves a checkpoint.  Pure: nothing here looks at a disk or runs anything.

Whether to speculate is decided by the checkpoint's own config, which is what the engines go by too.  The options of a
manifest (``engines.NAME.launch``) come next, then what the user asked for; the user's own words come last.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from overlay.errors import InvalidInput, UsageError
from overlay.formats import strict_json
from overlay.formats.model_config import ModelConfig

EngineName = Literal["sglang", "vllm", "transformers"]
ENGINES: Final[tuple[EngineName, ...]] = ("sglang", "vllm", "transformers")

PORTS: Final[Mapping[EngineName, int]] = {"sglang": 30000, "vllm": 8000, "transformers": 8000}
"""Where each engine listens unless it is told otherwise: SGLang 0.5.23, vLLM 0.33.0, transformers 5.23 cli/serve.py."""

_OPTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ALIASES: Final[Mapping[EngineName, Mapping[str, str]]] = {
    # SGLang 0.5.23 srt/arg_groups/fields/parallel.py:45 and fields/spec.py:36
    "sglang": {
        **dict.fromkeys(("tp", "tp-size"), "tensor-parallel-size"),
        "speculative-algo": "speculative-algorithm",
        "speculative-draft-model": "speculative-draft-model-path",
        "model": "model-path",
    },
    # vLLM 0.33.0 engine/arg_utils.py:1866
    "vllm": {"tp": "tensor-parallel-size", "sc": "speculative-config"},
    "transformers": {},
}
_MODEL: Final = {"model-path": "sglang", "model": "vllm", "force-model": "transformers"}
_RENAMING_PATHS: Final = ("eagle-", "eagle3", "dflash", "dspark")
"""Parts of a draft's path by which vLLM overrides the method (0.33.0 config/speculative.py:1433-1468)."""


class Mount(NamedTuple):
    """A folder that a container needs, read-only."""

    source: str
    """Its real path on this machine."""
    target: str
    """Where links expect it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What shall be served, and how."""

    engine: EngineName
    directory: str
    """Absolute."""
    config: ModelConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the manifest: option without dashes to its JSON value."""
    draft: str | None = None
    """A separate draft checkpoint; absolute."""
    draft_config: ModelConfig | None = None
    missing: str = ""
    """What of the draft is declared and not there, or ""."""
    port: int | None = None
    tensor_parallel: int | None = None
    checksum: str | None = None
    """SGLang's file of checksums; absolute."""
    extra: tuple[str, ...] = ()
    """Further words, as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, and what a person should know about it."""

    words: tuple[str, ...]
    speculates: bool
    """Whether it asks the engine to use a draft."""
    port: int
    """Where the server will listen."""
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The words as a shell reads them, on one line."""
        return " ".join(map(quote, self.words))


def quote(word: str) -> str:
    """`word` as bash, zsh and ksh read it; what would move a cursor or hide is spelled in ``$'…'``, which keeps it exact."""
    if word.isprintable():
        return shlex.quote(word)
    spelled = "".join(char if char.isprintable() and char not in "\\'" else _spell(char) for char in word)
    return f"$'{spelled}'"


def _spell(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def compose_command(serving: Serving) -> Command:
    """The command that serves a checkpoint.

    Raises:
        InvalidInput: an option of the manifest is none, or stands there twice.
        UsageError: the engine has nothing of what was asked for.
    """
    engine = serving.engine
    _require_known(serving)
    given = _normalised(engine, serving.options)
    speculation, notes = _speculation(serving, given)
    kept = {name: value for name, value in given.items() if name not in speculation.left_out}
    own = {**speculation.options, **kept, **_asked(serving)}
    words = [*_start(engine, serving.directory)]
    for name, value in own.items():
        words += _option_words(engine, name, value)
    if own.get("trust-remote-code") is True:
        notes.append("trust-remote-code is on: Python code that lies in the checkpoint will run")
    own_port = own.get("port")
    return Command(
        words=(*words, *serving.extra),
        speculates=any(name.startswith(("speculative-", "spec-")) for name in own),
        port=own_port if type(own_port) is int else PORTS[engine],
        notes=tuple(notes),
    )


def in_docker(command: Command, engine: EngineName, image: str, mounts: Sequence[Mount]) -> Command:
    """The same command in a container, whose image says nothing about how it starts.

    The server is published on the loopback address only.  Inside, SGLang and transformers listen on the container's own
    loopback unless they are told otherwise; vLLM listens everywhere.

    Raises:
        UsageError: a path has a colon in it, which ``docker -v`` takes for a separator, or the image is an option.
    """
    if not image or image.startswith("-"):
        raise UsageError(f"expected the name of an image, found {image!r}", hint="--docker lmsysorg/sglang:v0.5.23")
    split = [path for mount in mounts for path in mount if ":" in path]
    if split:
        problem = "expected paths without a colon, which docker -v takes for a separator"
        raise UsageError(problem, subject=split[0], hint="reach the folder by another path, through a link for example")
    first, *rest = command.words
    if engine != "vllm" and "--host" not in rest and not any(word.startswith("--host=") for word in rest):
        rest += ["--host", "0.0.0.0"]  # noqa: S104  # inside the container
    volumes = [word for mount in mounts for word in ("-v", f"{mount.source}:{mount.target}:ro")]
    published = ["-p", f"127.0.0.1:{command.port}:{command.port}"]
    head = ["docker", "run", "--rm", "--gpus", "all", "--ipc=host", *published, *volumes, "--entrypoint", first, image]
    return Command(words=(*head, *rest), speculates=command.speculates, port=command.port, notes=command.notes)


def render_checksums(files: Mapping[str, tuple[str, int]]) -> bytes:
    """SGLang's ``--model-checksum`` file, from file name to sha256 and bytes.

    Source: SGLang 0.5.23 srt/utils/model_file_verifier.py:27-52.  It checks the files that are listed and no others.
    """
    listed: dict[str, Any] = {name: {"sha256": sha256, "size": size} for name, (sha256, size) in sorted(files.items())}
    return strict_json.encode({"files": listed})


class _Speculation(NamedTuple):
    options: dict[str, Any]
    left_out: frozenset[str] = frozenset()


def _require_known(serving: Serving) -> None:
    if serving.engine != "transformers":
        return
    asked = {"--draft": serving.draft, "--tensor-parallel": serving.tensor_parallel}
    wrong = [name for name, value in asked.items() if value is not None]
    if wrong:
        problem = f"expected an engine that knows {wrong[0]}, found transformers, whose server has no such option"
        raise UsageError(problem, hint="--engine sglang or --engine vllm")


def _start(engine: EngineName, directory: str) -> tuple[str, ...]:
    if engine == "sglang":
        return ("python3", "-m", "sglang.launch_server", "--model-path", directory)
    return (engine, "serve", directory)


def _asked(serving: Serving) -> dict[str, Any]:
    """What the user asked for by name, which comes before what the manifest says."""
    asked = {
        "tensor-parallel-size": serving.tensor_parallel,
        "port": serving.port,
        "model-checksum": serving.checksum,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _speculation(serving: Serving, given: Mapping[str, Any]) -> tuple[_Speculation, list[str]]:
    """Options that turn the draft on, where there is one, and why there are none."""
    engine, config = serving.engine, serving.config
    if engine == "transformers":
        note = "transformers serve does not use a draft layer; model.generate(use_mtp=True) does"
        return _Speculation({}), [note] if config.draft_layers else []
    own = _draft_options(engine, given)
    declared = serving.draft_config if serving.draft_config is not None else config
    if not declared.draft_layers or serving.missing:
        whose = "config.json of the draft" if serving.draft is not None else "config.json"
        silent = "declares no draft layer (num_nextn_predict_layers is not there or 0)"
        left = f"; left out: {', '.join(sorted(own))}" if own else ""
        return _Speculation({}, frozenset(own)), [f"no speculative options: {whose}: {serving.missing or silent}{left}"]
    notes = list(_speculation_notes(serving, declared))
    if any(name not in own for name in given if _is_speculative(name)):
        return _Speculation({}), [*notes, "the manifest's own way to speculate stands"]
    if engine == "sglang":
        options: dict[str, Any] = {"speculative-algorithm": "NEXTN"}
        if serving.draft is not None:
            options["speculative-draft-model-path"] = serving.draft
        return _Speculation(options, _overruled(serving, {"speculative-draft-model-path"} & set(given))), notes
    method: dict[str, Any] = {"method": "mtp", "num_speculative_tokens": 1}
    if serving.draft is not None:
        method = {"method": "mtp", "model": serving.draft, "num_speculative_tokens": 1}
    said = given.get("speculative-config")
    if isinstance(said, dict):  # the manifest may know better how many tokens pay
        method = {**method, **said, **({"model": serving.draft} if serving.draft is not None else {})}
    return _Speculation({"speculative-config": method}, frozenset({"speculative-config"})), notes


def _overruled(serving: Serving, names: Iterable[str]) -> frozenset[str]:
    """Options of the manifest whose place a draft takes that the user names."""
    return frozenset(names) if serving.draft is not None else frozenset()


def _is_speculative(name: str) -> bool:
    return name in ("speculative-algorithm", "speculative-config", "spec-method", "spec-model")


def _draft_options(engine: EngineName, given: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's options that need a draft layer in the checkpoint; an n-gram or another model needs none."""
    if engine == "sglang":
        algorithm = str(given.get("speculative-algorithm", "NEXTN")).upper()
        if algorithm not in ("NEXTN", "EAGLE") or "speculative-draft-model-path" in given:
            return {}
        return {name: value for name, value in given.items() if name.startswith("speculative-")}
    said = given.get("speculative-config")
    if isinstance(said, dict) and said.get("method") in (None, "mtp") and "model" not in said:
        return {"speculative-config": said}
    return {}


def _speculation_notes(serving: Serving, declared: ModelConfig) -> Iterator[str]:
    if serving.engine == "sglang" and declared.draft_layers != 1:
        # SGLang 0.5.23 srt/models/deepseek_common/deepseek_weight_loader.py:552-584
        yield f"SGLang takes exactly 1 draft layer, and {declared.draft_layers} are declared ({declared.draft_key})"
    if serving.draft is not None and not serving.config.draft_layers:
        yield "config.json of the target declares no draft layer, and engines count layers from there: lint says more"
    path = (serving.draft or serving.directory).lower()
    part = next((part for part in _RENAMING_PATHS if part in path), "")
    if serving.engine == "vllm" and part:
        yield f"vLLM takes a draft whose path holds {part!r} for another kind, whatever the method says: rename the folder"


def _normalised(engine: EngineName, options: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's options under one name each.

    Raises:
        InvalidInput: a name that is no option, one that names another model, or the same option twice.
    """
    found: dict[str, Any] = {}
    where = f"engines.{engine}.launch"
    for name, value in options.items():
        hint = "write the option as it is on the command line, without dashes in front"
        if not _OPTION.fullmatch(name):
            raise InvalidInput(f"expected the name of an option, found {name!r}", subject=where, hint=hint)
        plain = name.replace("_", "-")
        plain = _ALIASES[engine].get(plain, plain)
        if _MODEL.get(plain) == engine:
            raise InvalidInput(f"expected options beside the model, found {name}", subject=where, hint="leave it out")
        if plain in found:
            raise InvalidInput(f"expected each option once, found {name} again", subject=where, hint="leave one out")
        _require_plain(value, f"{where}.{name}")
        found[plain] = value
    return found


def _require_plain(value: Any, where: str) -> None:
    flat = value if isinstance(value, list) else [value]
    if isinstance(value, list) and any(isinstance(item, (list, dict)) or item is None for item in value):
        problem = "expected a list of texts and numbers, found something nested"
        raise InvalidInput(problem, subject=where, hint="write JSON as a mapping, or as a text")
    if any(isinstance(item, str) and "\0" in item for item in flat):
        raise InvalidInput("expected a text, found a NUL in it", subject=where, hint="leave it out")


def _option_words(engine: EngineName, name: str, value: Any) -> list[str]:
    """An option as words: a flag for true, nothing for null; vLLM turns flags off with ``--no-``."""
    flag = f"--{name}"
    if value is None or value == []:
        return []
    if isinstance(value, bool):
        off = [f"--no-{name}"] if engine == "vllm" else []
        return [flag] if value else off
    words = [_word(item) for item in (value if isinstance(value, list) else [value])]
    if len(words) == 1 and words[0].startswith("-"):
        return [f"{flag}={words[0]}"]
    return [flag, *words]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
