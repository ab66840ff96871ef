"""Small transformers with a learnable prefix, as problems of two levels."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel, RobertaConfig, RobertaForMaskedLM, T5Config, T5ForConditionalGeneration

from crosstask.lightning_modules.hypergradients import hypergradient, neumann

VOCABULARY, WIDTH = 40, 16
TWO_TERMS = partial(neumann, gamma=0.05, hessian_products=1)


class Problem(NamedTuple):
    """Model with a learnable prefix before the text of the inner batch, and none before that of the outer batch."""

    model: PreTrainedModel
    phi: list[Parameter]
    inner: Callable[[], Tensor]
    outer: Callable[[], Tensor]

    @property
    def theta(self) -> list[Parameter]:
        return list(self.model.parameters())


def t5() -> PreTrainedModel:
    # Gated GELU as in T5 1.1 and its LM-adapted checkpoints; finite differences want smooth activations.
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.1,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
        )
    )


def roberta() -> PreTrainedModel:
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=40,
        )
    )


def problem(build: Callable[[], PreTrainedModel], dtype: torch.dtype = torch.float32) -> Problem:
    torch.manual_seed(0)
    model = build().to(dtype).train()
    prefix = Parameter(torch.randn(2, 3, WIDTH, dtype=dtype))
    encoder_decoder = model.config.is_encoder_decoder
    length = 4 if encoder_decoder else 8
    source, target = torch.randint(3, VOCABULARY, (2, 5)), torch.randint(3, VOCABULARY, (2, length))
    outer_source, outer_target = torch.randint(3, VOCABULARY, (3, 2, 8))[0], torch.randint(3, VOCABULARY, (2, length))

    def inner() -> Tensor:
        embedded = torch.cat([prefix, model.get_input_embeddings()(source)], dim=1)
        return model(inputs_embeds=embedded, labels=target).loss

    def outer() -> Tensor:
        return model(input_ids=outer_source, labels=outer_target).loss

    return Problem(model, [prefix], inner, outer)


def run(this: Problem, method: Callable = TWO_TERMS, **options: object) -> Tensor:
    found = hypergradient(method, this.inner, this.outer, this.theta, this.phi, **options)  # type: ignore[arg-type]
    return found.gradients[0]
