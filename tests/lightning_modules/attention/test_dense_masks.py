"""Models with an attention of their own: packed rows train as their documents would alone."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.schema import TokenizedExample
from crosstask.lightning_modules.attention.dense_masks import MASKED, mask_of
from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.isolation_checks import require_document_attention
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.target_loss import target_loss

SMALL: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "rotary_dim": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 3,
        "max_position_embeddings": 32,
    },
    "gpt_neox_japanese": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "rotary_dim": 8},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 32},
}


def small(model_type: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = model_config({"model_type": model_type, **SMALL[model_type]}, vocabulary=60, dropout=None)
    model = build_model(config, weights=None, vocabulary=0, attention="document", dtype=dtype)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def test_every_type_of_the_list_is_tested() -> None:
    assert set(SMALL) == MASKED


@pytest.mark.parametrize("model_type", SMALL)
def test_packed_rows_have_the_loss_of_their_documents_alone(model_type: str) -> None:
    model, numbers = small(model_type, torch.float64), np.random.default_rng(0)
    require_document_attention(model)
    documents = [TokenizedExample(numbers.integers(5, 60, size), size // 2) for size in (9, 7, 12, 11)]
    kind = CausalRows(30, pad_token_id=1)
    packed = target_loss(model, kind.collate([documents[:3], documents[3:]], step_targets=1)).sum
    alone = sum(target_loss(model, kind.collate([[document]], step_targets=1)).sum for document in documents)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)  # some of these attend in float32

    other = [TokenizedExample(numbers.integers(5, 60, 9), 4), *documents[1:]]
    changed = target_loss(model, kind.collate([other[:3], other[3:]], step_targets=1)).sum
    assert (changed - packed).abs() > 1e-3  # the first document counts, so that the sum above means something


@pytest.mark.parametrize(("model_type", "fields"), [("bloom", {}), ("falcon", {"alibi": True})])
def test_alibi_restarts_with_every_document(model_type: str, fields: dict[str, Any]) -> None:
    """A column's own number would round to another bias, since 300 and 301 are one number in bfloat16."""
    config = model_config({"model_type": model_type, **SMALL[model_type], **fields}, vocabulary=60, dropout=None)
    model = build_model(config, weights=None, vocabulary=0, attention="document", dtype=torch.float64).eval()
    require_document_attention(model)
    ids, documents = torch.arange(5, 55).repeat(1, 8), Documents(torch.tensor([0, 300, 400]))
    packed = model.base_model(input_ids=ids, documents=documents).last_hidden_state[0, 300:]
    alone = model.base_model(input_ids=ids[:, 300:]).last_hidden_state[0]
    # Bloom's softmax is in float32.
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12 if model_type == "falcon" else 1e-6)

    modeling: Any = import_module(type(model).__module__)
    mask = mask_of(documents, 1, 400, torch.bfloat16)
    bias = modeling.build_alibi_tensor(mask, 4, torch.bfloat16).view(4, 400)
    assert torch.equal(bias[:, 300:], bias[:, :100])
    padding = torch.tensor([[0, 1, 1]])
    slopes = modeling.build_alibi_tensor(padding, 4, torch.float32)[:, 0, 2]
    torch.testing.assert_close(slopes, torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]))  # arXiv 2108.12409


def test_what_a_mask_cannot_say_is_rejected() -> None:
    model, ids, offsets = small("gptj"), torch.arange(6)[None], torch.tensor([0, 6])
    with pytest.raises(ValueError, match="documents and an attention mask"):
        model(ids, documents=Documents(offsets), attention_mask=torch.ones(1, 6))
    with pytest.raises(ValueError, match="continuations of a shared prefix"):
        mask_of(Documents(offsets, continuation_offsets=torch.tensor([0, 3, 6])), 1, 6, torch.float32)
