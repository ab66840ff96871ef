"""Seconds of communication of a step, by what rings send."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from crosstask.lightning_modules.planning.communication import Exchange, Links, step_exchange
from crosstask.lightning_modules.planning.memory import Layout, StepShape

LINKS = Links(node=300e9, network=25e9)


def exchange(layout: Layout, **changes: Any) -> Exchange:
    """Communication of OPT-175B's step of 8 batches of one row of 2,048 columns, in bfloat16 with float32 gradients."""
    fields = {"num_hidden_layers": 96, "hidden_size": 12288, "ffn_dim": 49152, "num_attention_heads": 96}
    sizes = {"weight_bytes": 2 * 175 * 10**9, "trained_bytes": 4 * 175 * 10**9, "batches": 8, "recomputed": 1.0}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **fields))
    return step_exchange(model, layout, StepShape(1, 2048, 300), LINKS, **(sizes | changes))


def test_communication_is_what_rings_send() -> None:
    """16 replicas of 8: for each batch 2 gathers of 2 * 175e9 / 8 bytes and a reduction of twice that, 15/16 each."""
    layout = Layout("sharded", 128, tensor_parallel=8, compute_dtype=torch.bfloat16)
    each, once = exchange(layout), exchange(layout._replace(reduce_once=True))
    sent = 175e9 / 8 * 15 / 16
    assert each.weights == once.weights == pytest.approx(8 * 2 * 2 * sent / 25e9)
    assert each.gradients == pytest.approx(8 * once.gradients) == pytest.approx(8 * 4 * sent / 25e9)
    # All-reduces of a block within the node: 2 sums forward, 1 recomputed, and 4 matrices backward.
    assert each.activations == pytest.approx(8 * 96 * 7 * 2048 * 12288 * 2 * 2 * 7 / 8 / 300e9)
    assert exchange(layout, recomputed=0.0).activations == pytest.approx(each.activations * 6 / 7)
    divided = exchange(layout._replace(sequence_parallel=True))
    assert divided.activations == pytest.approx(each.activations * 5.5 / 7)

    copies = exchange(layout._replace(copies=16))
    assert copies.weights == 0
    assert copies.gradients == pytest.approx(2 * 4 * sent / 25e9)
    assert exchange(Layout("single")).total == 0
    assert exchange(Layout("ddp", 8)).gradients == pytest.approx(2 * 4 * 175e9 * 7 / 8 / 300e9)
    assert exchange(Layout("zero_3", 128)).weights == pytest.approx(8 * exchange(Layout("zero_2", 128)).weights * 2)
