"""The auxiliary loss of mixture-of-experts models, which keeps their experts evenly used while they are trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
"""Names of the auxiliary loss's weight in configurations."""


@contextmanager
def balance_losses(model: PreTrainedModel, *, collect: bool = True) -> Iterator[list[Tensor]]:
    """Within the block, collect the weighted auxiliary loss of each call of a model, a scalar.

    It is the load balancing loss of Switch Transformers (arXiv 2101.03961, equations 4 to 6), over all columns of the
    rows but masked ones, times the weight in the configuration. transformers computes it where a configuration has
    ``output_router_logits: true``, which is set within the block alone: ``generate`` fails with it (5.23).

    Args:
        model: A language model of transformers.
        collect: If false, the block changes nothing, and the list stays empty.

    Raises:
        ValueError: The model returns no auxiliary loss.
    """
    losses: list[Tensor] = []
    if not collect:
        yield losses
        return
    text = model.config.get_text_config(decoder=True)
    before = getattr(text, "output_router_logits", False)
    hook = model.register_forward_hook(lambda _, inputs, output: losses.append(_weighted(model, output)))
    text.output_router_logits = True
    try:
        yield losses
    finally:
        hook.remove()
        text.output_router_logits = before


def _weighted(model: PreTrainedModel, output: Any) -> Tensor:
    text = model.config.get_text_config(decoder=True)
    weights = [weight for name in COEFFICIENTS if (weight := getattr(text, name, None)) is not None]
    loss = getattr(output, "aux_loss", None)
    if not isinstance(loss, Tensor) or not weights:
        raise ValueError(
            f"{type(model).__name__} returns no auxiliary loss of experts: set network.balance_experts to false"
        )
    return weights[0] * loss
