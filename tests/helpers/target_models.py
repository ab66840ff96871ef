"""Tiny models and documents whose losses tests compare, in float64."""

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from crosstask.datamodules.schema import TokenizedExample

PAD, EOS, VOCABULARY = 0, 1, 50


def documents(count: int, *, longest: int = 9, seed: int = 0) -> list[TokenizedExample]:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = int(generator.integers(3, longest + 1))
        ids = np.append(generator.integers(2, VOCABULARY, length - 1), EOS)
        made.append(TokenizedExample(ids, int(generator.integers(1, length - 1))))
    return made


def causal_model(model_type: str = "opt", attention: str = "document", **fields: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=VOCABULARY,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **fields,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).double().eval()


def t5_model(attention: str = "document") -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "t5",
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    return AutoModelForSeq2SeqLM.from_config(config, attn_implementation=attention).double().eval()
