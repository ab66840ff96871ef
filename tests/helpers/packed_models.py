"""Small models of every family, and rows of documents that they read packed or one by one."""

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.testing
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.isolation_checks import first_position

# Rows of 12 columns, the second with a padded tail; documents of 5, 4, 3, 4, 5 tokens and 3 of padding.
OFFSETS = [0, 5, 9, 12, 16, 21, 24]
PADDED = slice(21, 24)
# The same documents in decoder rows of 8 columns: 3, 2, 3, 4, 4 tokens, and a padding document of no column.
DECODER_OFFSETS = [0, 3, 5, 8, 12, 16, 16]

TINY_MODEL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
"""Fields of small configurations of decoder-only models."""

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,  # large enough for documents to hear each other when they can
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
T5_SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, init_std=0.3)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=48)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, intermediate_size=48, num_key_value_heads=2)),
    "bert": lambda: BertModel(BertConfig(**SMALL, **NO_DROPOUT, intermediate_size=48), add_pooling_layer=False),
    "roberta": lambda: RobertaModel(
        RobertaConfig(**SMALL, **NO_DROPOUT, intermediate_size=48), add_pooling_layer=False
    ),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5_SMALL)),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**T5_SMALL)),
}


def build(name: str, implementation: str = "document") -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    model.set_attn_implementation(implementation)
    return model


def inputs_for(model: PreTrainedModel, seed: int = 0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    offsets = torch.tensor(OFFSETS, dtype=torch.int32)
    inputs: dict[str, Any] = {"input_ids": torch.randint(4, 40, (2, 12), generator=draw)}
    if model.config.is_encoder_decoder:
        decoder_offsets = torch.tensor(DECODER_OFFSETS, dtype=torch.int32)
        inputs["decoder_input_ids"] = torch.randint(4, 40, (2, 8), generator=draw)
        return inputs | {"documents": Documents(offsets, decoder_offsets), "use_cache": False}
    positions = torch.cat([torch.arange(length) for length in offsets.diff().tolist()]).view(2, 12)
    inputs |= {"position_ids": positions + first_position(model.config), "documents": Documents(offsets)}
    return inputs if isinstance(model, BertModel | RobertaModel) else inputs | {"use_cache": False}


def read_packed(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """Return the outputs of all documents without padding, concatenated: [21 or 16, width]."""
    flat = model(**(inputs or inputs_for(model)))[0].flatten(0, 1)
    return flat[: 16 if model.config.is_encoder_decoder else PADDED.start]


def read_alone(model: PreTrainedModel) -> Tensor:
    """Return the outputs of ``read_packed`` by one unpadded forward per document, with the library's positions."""
    packed = inputs_for(model)
    outputs = []
    for document in range(5):
        inputs = {"input_ids": packed["input_ids"].flatten()[slice(*OFFSETS[document : document + 2])][None]}
        if "decoder_input_ids" in packed:
            span = slice(*DECODER_OFFSETS[document : document + 2])
            inputs["decoder_input_ids"] = packed["decoder_input_ids"].flatten()[span][None]
        outputs.append(model(**inputs)[0][0])
    return torch.cat(outputs)


def loss_of(outputs: Tensor) -> Tensor:
    """Return a sum over documents that weights every output differently."""
    return (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs).cos()).sum()


def gradients(model: PreTrainedModel, loss: Tensor, **options: Any) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, **options)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(grads, model.parameters(), strict=True)]


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


def block_diagonal_mask(offsets: Tensor, rows: int, columns: int, *, causal: bool) -> Tensor:
    """Return the dense mask equivalent to document attention: bool [B, 1, L, L], true if a query attends to a key.

    Two documents, of 2 and 3 tokens, in one row:

    >>> block_diagonal_mask(torch.tensor([0, 2, 5]), 1, 5, causal=True)[0, 0].int()
    tensor([[1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 1, 1, 0],
            [0, 0, 1, 1, 1]], dtype=torch.int32)
    """
    tokens = torch.arange(rows * columns, device=offsets.device)
    document_BL = torch.searchsorted(offsets.long(), tokens, right=True).view(rows, columns)
    mask_BLL = document_BL.unsqueeze(2) == document_BL.unsqueeze(1)
    return (mask_BLL.tril() if causal else mask_BLL).unsqueeze(1)
