"""What a file is by its first bytes, and which names make a loader read something else than the index says."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from overlay.core.sidecar_roles import Role, role_of
from overlay.formats.header import MAX_HEADER_BYTES
from overlay.formats.names import INDEX_NAME, SHARD_SUFFIX


class Kind(NamedTuple):
    """What the first bytes of a file say that it is."""

    what: str
    role: Role
    """`Role.PICKLE` or `Role.CODE`."""


class Redirect(NamedTuple):
    """A file name that loaders look for."""

    pattern: re.Pattern[str]
    effect: str
    """What a loader does when it finds such a file."""
    usual: bool = False
    """Many checkpoints have such a file for a good reason: only one that was added is worth a word."""


# A pickle of protocol 0 or 1 begins with a text opcode; only well-known modules tell it from prose that begins with a c.
_TEXT_PICKLE = re.compile(
    rb"\(?c(?:os|posix|nt|pty|sys|subprocess|builtins|__builtin__|runpy|importlib|socket|webbrowser|copy_?reg|codecs|"
    rb"functools|operator|collections|torch[\w.]{0,40}|numpy[\w.]{0,40})\r?\n[A-Za-z_][\w.]{0,60}\r?\n"
)
_PICKLE = Kind("a pickle", Role.PICKLE)
_MAGIC: Final[tuple[tuple[bytes, Kind, tuple[str, ...]], ...]] = (
    *((bytes([0x80, protocol]), _PICKLE, ()) for protocol in range(2, 6)),
    (b"PK\x03\x04", Kind("a ZIP archive, as torch.save writes them", Role.PICKLE), (".zip", ".npz", ".docx", ".xlsx")),
    (b"\x1f\x8b", Kind("gzip data, which can hold a pickle", Role.PICKLE), (".gz", ".tgz")),
    (b"BZh", Kind("bzip2 data, which can hold a pickle", Role.PICKLE), (".bz2", ".tbz2")),
    (b"\xfd7zXZ\x00", Kind("xz data, which can hold a pickle", Role.PICKLE), (".xz", ".txz")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive, which can hold a pickle", Role.PICKLE), (".7z",)),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file, which Keras can run code from", Role.PICKLE), ()),
    (b"\x93NUMPY", Kind("a NumPy file, which can hold a pickle", Role.PICKLE), (".npy",)),
    (b"\x7fELF", Kind("a program or library", Role.CODE), ()),
    *(
        (magic, Kind("a program or library", Role.CODE), ())
        for magic in (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"MZ\x90\x00")
    ),
    (b"#!", Kind("a script", Role.CODE), ()),
)
"""First bytes, what they mean, and the suffixes of files that are honestly that and that no loader opens."""

_REDIRECTS: Final = (
    Redirect(re.compile(r"model\.safetensors"), "transformers loads it alone, and not the shards that the index names"),
    Redirect(
        re.compile(r"consolidated.*\.safetensors(\.index\.json)?"),
        "vLLM loads consolidated*.safetensors, and not the shards that the index names",
    ),
    Redirect(re.compile(r"params\.json"), "loaders of Mistral's own format read the model's parameters from it"),
    Redirect(
        re.compile(r"adapter_config\.json|adapter_model\..*"), "transformers loads an adapter on top of the weights"
    ),
    Redirect(re.compile(r".*\.index\.json"), "it is another index, and leads loaders to other files of weights"),
    Redirect(re.compile(r"mtp\.safetensors"), "SGLang loads it for some architectures although no index names it"),
    Redirect(re.compile(r".+hf_quant_config\.json"), "vLLM and SGLang refuse to choose between *hf_quant_config.json"),
    Redirect(
        re.compile(r".*\.(gguf|ggml|onnx|msgpack|tflite|mlmodel|npz|npy)"),
        "it is weights in another format, which loaders choose by suffix",
    ),
    Redirect(
        re.compile(r"(hf_quant_config|quantize_config|quant_config|quantization_config)\.json"),
        "engines read the quantisation from it where config.json has none",
        usual=True,
    ),
    Redirect(
        re.compile(r"(pre|image_|video_|video_pre)?processor_config\.json"),
        "loaders build a processor for images, video or sound from it",
        usual=True,
    ),
    Redirect(
        re.compile(r"modules\.json|config_sentence_transformers\.json|model_index\.json"),
        "loaders take the checkpoint for one of several parts, and import the classes that it names",
        usual=True,
    ),
)


def kind_of(name: str, beginning: bytes) -> Kind | None:
    """What the file `name` is by its first bytes, if that can run code; None for anything else.

    Needs the first 64 bytes or more.
    """
    if name.lower().endswith(SHARD_SUFFIX) and _is_shard(beginning):
        return None  # a header of 1152 bytes begins like a pickle
    for magic, kind, honest in _MAGIC:
        if beginning.startswith(magic):
            return None if name.lower().endswith(honest) else kind
    return _PICKLE if _TEXT_PICKLE.match(beginning) else None


def redirect_of(name: str, *, added: bool) -> str:
    """What the name of a file that no index lists makes a loader do; "" when nothing in particular.

    Args:
        name: its name in the checkpoint.
        added: whether the checkpoint has a base, which lacks it.
    """
    base = name.rpartition("/")[2].lower()
    if base == INDEX_NAME or role_of(name) in (Role.PICKLE, Role.CODE):
        return ""
    matching = (redirect for redirect in _REDIRECTS if redirect.pattern.fullmatch(base))
    return next((redirect.effect for redirect in matching if added or not redirect.usual), "")


def _is_shard(beginning: bytes) -> bool:
    """Whether a length that the format allows comes first, and then an object."""
    return int.from_bytes(beginning[:8], "little") <= MAX_HEADER_BYTES and beginning[8:9] == b"{"
