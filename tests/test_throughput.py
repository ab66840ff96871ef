"""Throughput: what is counted, and the operations of a model."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from crosstask.callbacks.throughput import Throughput, batch_counts
from crosstask.datamodules.schema import CausalBatch
from crosstask.lightning_modules.planning.flops import peak_flops, training_flops


def test_padding_is_not_work() -> None:
    batch = CausalBatch(
        input_ids=torch.zeros(1, 8, dtype=torch.long),
        targets=torch.tensor([[-100, 3, 1, -100, 5, 1, -100, -100]]),
        position_ids=torch.zeros(1, 8, dtype=torch.long),
        offsets=torch.tensor([0, 4, 7, 8]),
        step_targets=4,
        n_documents=2,
        n_tokens=7,
    )
    counts = batch_counts(batch)
    assert counts == {"examples": 2, "tokens": 7, "targets": 4, "columns": 8, "squares": 16 + 9 + 1}


def test_the_operations_of_a_model_are_those_of_its_matrices() -> None:
    config = LlamaConfig(
        vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    blocks = 4 * 8 * 8 + 3 * 8 * 16 + 3 * 8  # attention, MLP, three norms
    counts = {"tokens": 10, "targets": 3, "squares": 50}
    expected = 6 * (blocks * 10 + 100 * 8 * 3) + 6 * 1 * 8 * 50
    assert training_flops(LlamaForCausalLM(config), counts) == expected


def test_an_unknown_device_has_no_peak_rather_than_a_guessed_one() -> None:
    assert peak_flops(torch.device("cpu")) is None


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 optimizer step"):
        Throughput(every=0)
