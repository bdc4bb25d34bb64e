"""What a sidecar is for, told from its name alone."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What loaders and people use a file for."""

    CONFIG = "config"
    QUANTIZATION = "quantization"
    TOKENIZER = "tokenizer"
    TEMPLATE = "template"
    GENERATION = "generation"
    PROCESSOR = "processor"
    LICENCE = "licence"
    CARD = "card"
    CODE = "code"
    PICKLE = "pickle"
    """A format that can run code when it is loaded: pickles, and archives and containers of them."""
    ADAPTER = "adapter"
    INDEX = "index"
    OTHER = "other"


CODE_SUFFIXES: Final = frozenset(
    {
        *(".py", ".pyw", ".pyi", ".pyc", ".pyo", ".pyd", ".pyx", ".ipynb", ".whl", ".egg", ".so", ".dll", ".dylib"),
        *(".exe", ".bat", ".cmd", ".ps1", ".sh", ".bash", ".zsh", ".fish", ".command", ".js", ".mjs", ".cjs", ".jar"),
        *(".class", ".wasm", ".rb", ".pl", ".lua", ".cu", ".ptx", ".cubin", ".desktop"),
    }
)
PICKLE_SUFFIXES: Final = frozenset(
    {
        *(".bin", ".pt", ".pth", ".pt2", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pdparams"),
        *(".h5", ".hdf5", ".keras", ".nemo", ".mar"),
    }
)
CODE_FOLDER: Final = "custom_generate"
"""transformers imports ``generate.py`` from this folder."""
TEMPLATE_FOLDER: Final = "additional_chat_templates"

_SHARED_OBJECT = re.compile(r"\.so(\.\d+)+")
_LICENCE = re.compile(r"(.*[-_. ])?(licen[cs]es?|copying|notice|patents|usage_policy|use_policy)([-_. ].*)?")
_NAMED: Final[dict[str, Role]] = {
    "readme.md": Role.CARD,
    "config.json": Role.CONFIG,
    "params.json": Role.CONFIG,
    "generation_config.json": Role.GENERATION,
    "adapter_config.json": Role.ADAPTER,
    **dict.fromkeys(
        ("quantize_config.json", "quant_config.json", "quantization_config.json", "recipe.yaml"), Role.QUANTIZATION
    ),
    **dict.fromkeys(
        (
            *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
            *("vocab.txt", "merges.txt", "tekken.json", "tokenizer.model"),
        ),
        Role.TOKENIZER,
    ),
}
_ENDINGS: Final[tuple[tuple[tuple[str, ...], Role], ...]] = (
    ((".index.json",), Role.INDEX),
    (("hf_quant_config.json",), Role.QUANTIZATION),
    ((".jinja", ".jinja2", "chat_template.json"), Role.TEMPLATE),
    ((".model", ".tiktoken"), Role.TOKENIZER),
    (("processor_config.json", "feature_extractor_config.json"), Role.PROCESSOR),
)


def role_of(name: str) -> Role:
    """The role of the file `name`, with ``/`` between folders; letter case does not count.

    What can run code comes first: ``tokenizer.py`` is code, and ``adapter_model.bin`` a pickle.
    """
    path = name.lower()
    folder, _, base = path.rpartition("/")
    dot = base.rfind(".")
    suffix = base[dot:] if dot >= 0 else ""
    if CODE_FOLDER in path.split("/") or suffix in CODE_SUFFIXES or _SHARED_OBJECT.search(base):
        return Role.CODE
    if suffix in PICKLE_SUFFIXES:
        return Role.PICKLE
    if base in _NAMED:
        return _NAMED[base]
    if folder == TEMPLATE_FOLDER:
        return Role.TEMPLATE
    for endings, role in _ENDINGS:
        if base.endswith(endings):
            return role
    if base.startswith("adapter_model."):
        return Role.ADAPTER
    return Role.LICENCE if _LICENCE.fullmatch(base) else Role.OTHER
