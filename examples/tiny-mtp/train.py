"""Train the example: a small byte-level model, and the draft layer that goes with it.

    python examples/tiny-mtp/train.py OUT [--steps 1000] [--draft-steps 600] [--threads 1]

It writes two checkpoints:

- ``OUT/base``: `Glm4MoeForCausalLM` in nine shards.  Its config declares one draft layer (``num_nextn_predict_layers``), and
  it holds none.
- ``OUT/donor``: that layer alone, ``model.layers.46.*``, in one shard.

The model has 46 layers because transformers knows the draft layer of this architecture by the number 46
(`Glm4MoePreTrainedModel._keys_to_ignore_on_load_unexpected`); what is small is their width.  A token is a byte, so that
there is no tokenizer.  The draft layer is what `transformers.modeling_layers.MtpModel` computes: the embedding of the next
token and the hidden state of this one are normalised, joined, projected, and go through one decoder layer with experts; its
output meets the base's own head.  It learns to name the token after the next, and the base is not changed any more by then.

The text is that of the GPL and LGPL, as Debian ships them.  Everything is seeded; other versions, processors and numbers of
threads round otherwise, and end in another model of about the same quality.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import MtpModel

CORPUS: Final = Path("/usr/share/common-licenses")
LAYERS: Final = 46
WIDTH: Final = 64
LENGTH: Final = 96
BATCH: Final = 12
RATE: Final = 3e-3

SHAPE: Final = {
    "vocab_size": 256,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "first_k_dense_replace": LAYERS,  # experts in the draft layer only
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": WIDTH // 2,
    "n_group": 1,
    "topk_group": 1,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

DECLARED: Final = {"num_nextn_predict_layers": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}
"""What the family's own configs say and transformers does not write; vLLM reads the last two."""


def corpus() -> torch.Tensor:
    """The texts of the GPL and LGPL, one after the other, as bytes: int64 of shape [length]."""
    texts = [path.read_bytes() for path in sorted(CORPUS.glob("*GPL-*")) if not path.is_symlink()]
    text = b"".join(texts)
    print(f"{len(texts)} texts, {len(text)} bytes, sha256 {hashlib.sha256(text).hexdigest()}", flush=True)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def new_model() -> PreTrainedModel:
    """An untrained base.  What each layer adds is damped, or a narrow model of 46 layers does not start to learn."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("glm4_moe", **SHAPE), dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.15)
            layer.mlp.down_proj.weight.mul_(0.15)
    return model


def fit(
    parameters: Iterable[torch.nn.Parameter],
    steps: int,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    text: torch.Tensor,
) -> None:
    """Minimise `loss_of` over windows of `text`, of shape [BATCH, LENGTH + 2], with AdamW and a cosine schedule."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    begin = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        at = torch.randint(0, len(text) - LENGTH - 2, (BATCH,))
        loss = loss_of(torch.stack([text[i : i + LENGTH + 2] for i in at.tolist()]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"  step {step:5d}  loss {loss.item():.3f}  {time.monotonic() - begin:5.0f} s", flush=True)


def train_base(text: torch.Tensor, steps: int, folder: Path) -> None:
    """Train the base to name the next byte, and write it in BF16."""
    model = new_model().train()

    def loss_of(window: torch.Tensor) -> torch.Tensor:
        logits = model(window[:, :-2]).logits
        return functional.cross_entropy(logits.flatten(0, 1), window[:, 1:-1].flatten())

    fit(model.parameters(), steps, loss_of, text)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="400KB")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **DECLARED}, indent=2) + "\n")


def train_draft(text: torch.Tensor, steps: int, base: Path, folder: Path) -> None:
    """Train a draft layer over the base as it was written, and write it as a donor."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval().requires_grad_(False)
    draft = MtpModel(model, 1).float().train()
    layer = draft.layers[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.03)
        layer.eh_proj.weight[:, WIDTH:] += torch.eye(WIDTH)  # it begins by passing the hidden state on

    def loss_of(window: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden = model(window[:, :-2], output_hidden_states=True).hidden_states[-1]
        following = draft.embed_tokens(window[:, 1:-1])
        places = torch.arange(LENGTH)[None]
        mask = create_causal_mask(
            config=model.config, inputs_embeds=following, attention_mask=None, past_key_values=None, position_ids=places
        )
        output = layer(following, hidden, draft.rotary_emb(following, places), mask, places, None)
        return functional.cross_entropy(draft.shared_head(output).flatten(0, 1), window[:, 2:].flatten())

    fit(layer.parameters(), steps, loss_of, text)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(as_published(layer.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})


def as_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layer's tensors as checkpoints are published: experts one by one, in BF16, the gate's bias in F32."""
    tensors: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        name = f"model.layers.{LAYERS}." + name.removeprefix("mtp_block.").replace("post_norm.", "shared_head.norm.", 1)
        value = value.detach().to(torch.float32 if name.endswith("correction_bias") else torch.bfloat16)
        stem, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for number, expert in enumerate(value):
                gate, up = expert.chunk(2)
                tensors[f"{stem}.{number}.gate_proj.weight"] = gate.clone()
                tensors[f"{stem}.{number}.up_proj.weight"] = up.clone()
        elif last == "down_proj":
            tensors |= {f"{stem}.{number}.down_proj.weight": expert.clone() for number, expert in enumerate(value)}
        else:
            tensors[name] = value.contiguous()
    return tensors


def main() -> None:
    """Parse the command line, and train."""
    parser = argparse.ArgumentParser(description="Train the base and the draft layer of this example.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000, help="of the base")
    parser.add_argument("--draft-steps", type=int, default=600, help="of the draft layer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only-draft", action="store_true", help="keep the base in OUT, and train its draft layer anew"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(46)
    text = corpus()
    if not arguments.only_draft:
        print("base", flush=True)
        train_base(text, arguments.steps, arguments.out / "base")
    print("draft layer", flush=True)
    train_draft(text, arguments.draft_steps, arguments.out / "base", arguments.out / "donor")


if __name__ == "__main__":
    main()
