"""Small models whose answers vary, and the answers of transformers to one prompt."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.generation.generate import generate

CAUSAL: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 32,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
T5 |= {"initializer_factor": 6.0}
SWITCH = T5 | {f"num_{stack}layers": 2 for stack in ("decoder_", "sparse_encoder_", "sparse_decoder_")}
SWITCH |= {"num_experts": 2, "expert_capacity": 500}  # tokens above the capacity of a batch would be dropped
PAIRED = {"t5": T5, "switch_transformers": SWITCH}


def build(kind: str, tokenizer: Any, attention: str = "sdpa") -> Any:
    """Build a model whose answers vary; with transformers' scale of weights it would repeat one token."""
    torch.manual_seed(1)
    special = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    if kind in PAIRED:
        config = AutoConfig.for_model(kind, **PAIRED[kind], **special)
        return AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float64).eval()
    config = AutoConfig.for_model(kind, **CAUSAL[kind], **special, max_position_embeddings=128, initializer_range=0.5)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float64)
    return model.eval()


def ending(model: Any, tokenizer: Any, multiple: int = 4) -> Any:
    """Return the model with answers of many lengths: each ends where the most probable token's id is a multiple."""
    end = tokenizer.eos_token_id

    def with_end(_: Any, __: Any, logits: Tensor) -> Tensor:
        best, token = logits.max(dim=-1)
        logits[..., end] = torch.where(token % multiple == 0, best + 5, best - 5)
        return logits

    model.get_output_embeddings().register_forward_hook(with_end)
    return model


def answers(model: Any, tokenizer: Any, sources: Any, decodings: list[Decoding], **options: Any) -> list[Any]:
    options = {"max_new_tokens": 6, "seeds": list(range(len(sources))), **options}
    return [found for _, found in sorted(generate(model, tokenizer, sources, decodings, **options))]


def alone(model: Any, tokenizer: Any, source: list[int], **options: Any) -> list[str]:
    """Return the answers of transformers to a single prompt."""
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": tokenizer.eos_token_id, **options}
    config = GenerationConfig(pad_token_id=0, **options)
    ids = model.generate(torch.tensor([source]), attention_mask=torch.ones(1, len(source)), generation_config=config)
    new = ids if model.config.is_encoder_decoder else ids[:, len(source) :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
