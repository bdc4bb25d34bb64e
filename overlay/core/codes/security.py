"""SEC: what in a checkpoint can run code, or change the prompt, the tokenizer, the quantisation or the licence."""

from __future__ import annotations

from typing import Final

from overlay.core.codes.meaning import GITHUB, SGLANG, TRANSFORMERS, VLLM, Meaning, Severity

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_PIN: Final = "compare it with the base's, and take it only if the change is meant"

SECURITY: Final[dict[str, Meaning]] = {
    "SEC001": Meaning(
        _E,
        "a config names code for loaders to import",
        "read the code and pin its commit, or take the key out: {op: remove} in the manifest's patch",
        {
            VLLM: "imports it with --trust-remote-code (0.10.1 to 0.13 also without)",
            TRANSFORMERS: "imports it with trust_remote_code=True",
        },
        "auto_map, in any JSON file that transformers reads and at any depth, names a Python module of this or of another "
        "repository; custom_pipelines, mlx-lm's model_file and Hydra's _target_ do the same, and an attention "
        "implementation that is called org/name is a compiled kernel from the Hub. The switch that should keep such "
        "code out was passed over more than once.",
        (
            f"{GITHUB}/advisories/GHSA-8fr4-5q9j-m8gm",
            f"{GITHUB}/advisories/GHSA-2pc9-4j83-qjmr",
            f"{GITHUB}/vllm-project/vllm/pull/38319",
            f"{GITHUB}/ml-explore/mlx-lm/pull/1385",
        ),
    ),
    "SEC002": Meaning(
        _E,
        "a file of code",
        "read it, or leave it out: a checkpoint of a known architecture needs none",
        detail="Python files, libraries, scripts and notebooks, by suffix or by their first bytes, and everything in "
        "custom_generate. Loaders import them when auto_map or custom_generate leads there; people run them by hand.",
        references=("https://huggingface.co/docs/transformers/custom_models",),
    ),
    "SEC003": Meaning(
        _E,
        "a pickle, or a file of a kind that can hold one",
        "leave it out; publish weights as safetensors",
        {
            VLLM: "reads *.bin and *.pt where there is no *.safetensors",
            SGLANG: "reads *.bin and *.pt where there is no *.safetensors",
            TRANSFORMERS: "reads pytorch_model.bin where there is no model.safetensors and no index",
        },
        "Loading a pickle runs what its author put in, and scanners were passed over repeatedly. A file is one by its "
        "suffix, or by its first bytes whatever it is called; overlay never loads any.",
        (
            "https://osv.dev/vulnerability/CVE-2025-1716",
            "https://osv.dev/vulnerability/CVE-2025-1889",
            "https://docs.python.org/3/library/pickle.html",
        ),
    ),
    "SEC004": Meaning(
        _W,
        "the chat template is not the base's",
        _PIN,
        detail="A template writes what the model reads around every message: it can add instructions, hide messages or "
        "answer for the user. It stands in chat_template.jinja, chat_template.json, additional_chat_templates, and under "
        "chat_template in tokenizer_config.json or processor_config.json.",
        references=("https://huggingface.co/docs/transformers/chat_templating",),
    ),
    "SEC005": Meaning(
        _W,
        "the tokenizer is not the base's",
        _PIN,
        detail="The vocabulary, the merges, added and special tokens, and the ids of the tokens that begin, end and pad a "
        "text. Weights fit one tokenizer only: with another the model reads other words, or never stops.",
    ),
    "SEC006": Meaning(
        _W,
        "the generation defaults are not the base's",
        _PIN,
        detail="What a request does not set (temperature, top_p, where to stop) comes from generation_config.json: "
        "transformers takes every value from it, and vLLM its sampling defaults unless --generation-config says otherwise.",
    ),
    "SEC007": Meaning(
        _W,
        "the quantisation is not the base's",
        _PIN,
        detail="The scheme, and which modules are quantised (targets) or left alone (ignore, exclude_modules, "
        "modules_to_not_convert). A module on the wrong side is loaded as noise or not at all; a graft in another dtype "
        "has to be excluded here.",
    ),
    "SEC008": Meaning(
        _W,
        "the licence is not the base's",
        "ask whether the base's licence allows it; name both licences in the card",
        detail="The files LICENSE, NOTICE and USAGE_POLICY by their text, and license, license_name and license_link of "
        "the card's front matter. What is derived from a checkpoint stays bound to the licence of the checkpoint.",
        references=("https://huggingface.co/docs/hub/repositories-licenses",),
    ),
    "SEC009": Meaning(
        _N,
        "no licence is stated",
        "write license: … into the front matter of README.md, and add the text as LICENSE",
        detail="Neither a licence file nor the card's front matter says on which terms the checkpoint may be used. Without "
        "a licence nobody but its author may.",
        references=("https://huggingface.co/docs/hub/repositories-licenses",),
    ),
    "SEC010": Meaning(
        _W,
        "a file whose name makes loaders read something else",
        "move it away, unless it is meant",
        detail="Loaders choose what they read by name: a single model.safetensors before an index, consolidated files "
        "before shards, an adapter on top, a second quantisation config instead of the first. Nobody has to change a "
        "listed shard to have other weights loaded.",
        references=(f"{GITHUB}/vllm-project/vllm/issues/40765", f"{GITHUB}/sgl-project/sglang/pull/17166"),
    ),
    "SEC011": Meaning(
        _E,
        "what looks like a secret stands in a file that would be published",
        "take it out, and revoke it where it was ever shared",
        detail="Tokens of the Hub, of GitHub and of other services, keys of Amazon and private keys are known by their "
        "form. What was published once stays in the repository's history.",
        references=("https://huggingface.co/docs/hub/security-secrets",),
    ),
    "SEC012": Meaning(
        _E,
        "a file that the manifest does not name",
        "move it away, name it under files or evidence, or leave it out with --allow SEC012",
        detail="publish uploads what the manifest describes, and nothing that only happens to lie beside it: dot files, "
        "notes, other people's weights.",
    ),
    "SEC013": Meaning(
        _E,
        "published without a licence",
        "write license: … into the manifest, or into the front matter of README.md",
        detail="Without a licence nobody but its author may use what is published, and nobody can tell whether base and "
        "donors allow it.",
        references=("https://huggingface.co/docs/hub/repositories-licenses",),
    ),
    "SEC014": Meaning(
        _E,
        "a licence that the base or a donor may not allow",
        "publish under the same licence; --allow SEC014 where you have looked and may publish",
        detail="A permissive licence (MIT, Apache 2.0, BSD, …) lets what is derived have another one, every other licence "
        "is taken to ask for the same again, and a repository without one allows nothing. The comparison is of the names in "
        "the cards' front matter: it reads no licence text, and is no legal advice.",
        references=("https://huggingface.co/docs/hub/repositories-licenses",),
    ),
}
