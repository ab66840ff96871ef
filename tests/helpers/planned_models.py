"""A small OPT whose memory plans are compared with known answers."""

from functools import partial

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from crosstask.lightning_modules.models import build_model
from crosstask.lightning_modules.planning.memory import Build, Finish, Layout, StepShape, step_phases
from crosstask.lightning_modules.planning.phases import Memory, most

WIDTH, BLOCKS, VOCABULARY = 64, 3, 500
SHAPE = StepShape(rows=2, columns=32, targets=4)
PARAMETERS = (
    (VOCABULARY + 66 + 2) * WIDTH  # tokens (tied), 64 positions behind two that OPT skips, and the last norm
    + BLOCKS * (12 * WIDTH**2 + 13 * WIDTH)  # four projections and two layers of 4 * WIDTH with biases, two norms
)


def opt(blocks: int = BLOCKS, width: int = WIDTH) -> PreTrainedConfig:
    return AutoConfig.for_model(
        "opt",
        vocab_size=VOCABULARY,
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=4 * width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        max_position_embeddings=64,
    )


def build(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    return build_model(config, weights=None, vocabulary=0, attention="sdpa", dtype=dtype or torch.float32)


def recompute(model: PreTrainedModel) -> None:
    model.activation_checkpointing_enable()


def step_memory(build: Build, finish: Finish, layout: Layout, shape: StepShape) -> Memory:
    """Memory of one device at the moment of a step at which it is largest."""
    return most(step_phases(build, finish, layout, shape))


memory = partial(step_memory, partial(build, opt()), lambda model: None)
"""Memory of a step of the model under a layout."""
