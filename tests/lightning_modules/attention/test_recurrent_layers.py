"""Recurrent layers read each document of a packed row alone: linear attention, state spaces, short convolutions."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from packed_models import OFFSETS, TINY_MODEL, gradients, inputs_for, loss_of, read_packed
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.isolation_checks import require_document_attention
from crosstask.lightning_modules.generation.prompt_cache import can_share_cache
from crosstask.lightning_modules.models import build_model

LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_next": LINEAR,
    "qwen3_5_text": LINEAR,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_chunk_size": 4,
        "shared_intermediate_size": 16,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
}


def build(name: str) -> PreTrainedModel:
    config = AutoConfig.for_model(name, **{**TINY_MODEL, **MODELS[name]})
    config._experts_implementation = "eager"  # grouped kernels have no float64
    model = build_model(config, weights=None, vocabulary=40, attention="document", dtype=torch.float64).eval()
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def read(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits of one document, without the documents of a packed row."""
    return model(ids[None], attention_mask=torch.ones(1, len(ids), dtype=torch.long), use_cache=False)[0][0]


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_document_is_read_from_an_empty_state(name: str) -> None:
    model = build(name)
    require_document_attention(model)
    packed = read_packed(model)
    ids = inputs_for(model)["input_ids"].flatten()
    alone = torch.cat([read(model, ids[start:end]) for start, end in pairwise(OFFSETS[:6])])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-6)  # states and gates are float32 in every dtype
    pairs = zip(gradients(model, loss_of(packed)), gradients(model, loss_of(alone)), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(1 + expected.abs().max()))
    torch.testing.assert_close(read_packed(copy.deepcopy(model)), packed)
    assert not can_share_cache(model)  # a state has no columns that prompts could share

    leaky = read(model, ids[:12])
    assert not torch.allclose(leaky[5:], packed[5:12], atol=1e-2)  # so the comparison above means something


@pytest.mark.parametrize("name", ["qwen3_next", "lfm2"])
def test_each_continuation_is_read_from_the_state_behind_its_prefix(name: str) -> None:
    """A prefix of 3 tokens with continuations of 1 and 3, and a second document of 5 without any."""
    model = build(name)
    ids = torch.randint(4, 40, (1, 12), generator=torch.Generator().manual_seed(1))
    documents = Documents(torch.tensor([0, 7, 12]), continuation_offsets=torch.tensor([0, 3, 4, 7, 12]))
    positions = torch.tensor([[0, 1, 2, 3, 3, 4, 5, 0, 1, 2, 3, 4]])
    shared = model(ids, position_ids=positions, documents=documents, use_cache=False)[0][0]
    first, second = read(model, ids[0, [0, 1, 2, 3]]), read(model, ids[0, [0, 1, 2, 4, 5, 6]])
    torch.testing.assert_close(shared[:7], torch.cat([first, second[3:]]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shared[7:], read(model, ids[0, 7:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("jamba", {"num_experts": 2, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1}),
        ("mamba2", {"n_groups": 1, "state_size": 4, "chunk_size": 4, "expand": 2, "num_heads": 8, "head_dim": 8}),
    ],
)
def test_a_model_that_passes_no_documents_to_its_recurrent_layers_is_rejected(
    name: str, fields: dict[str, int]
) -> None:
    config = AutoConfig.for_model(name, **{**TINY_MODEL, **fields})
    model = build_model(config, weights=None, vocabulary=40, attention="document", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"cannot read packed rows: .* carries a recurrent state"):
        require_document_attention(model)
