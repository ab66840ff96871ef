"""The name of a model's cache is that of the installed transformers, and a layer of documents gets none under any."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.recurrent_layers import _by_document
from crosstask.lightning_modules.cache_names import CACHE, CACHE_NAMES

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 8}


def test_the_name_is_that_of_arguments_and_outputs() -> None:
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZE)).eval()
    assert CACHE in inspect.signature(LlamaForCausalLM.forward).parameters
    read = model(torch.tensor([[1, 2, 3]]), use_cache=True)[CACHE]
    continued = model(torch.tensor([[4]]), use_cache=True, **{CACHE: read}).logits[:, -1]
    torch.testing.assert_close(continued, model(torch.tensor([[1, 2, 3, 4]])).logits[:, -1])


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_recurrent_layer_reads_documents_without_a_cache(name: str) -> None:
    given = []

    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        given.append(kwargs[name])
        return hidden_states

    _by_document(forward, torch.zeros(1, 3, 2), Documents(torch.tensor([0, 1, 3])), **{name: "states of other text"})
    assert given == [None, None]
