"""The auxiliary loss of mixture-of-experts models, which keeps their experts evenly used while they are trained.

A configuration with ``output_router_logits: true`` asks for it. transformers adds it to the loss that a model computes
from labels; here the loss is computed from target logits, and the auxiliary loss is added to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
"""Names of the auxiliary loss's weight in configurations."""


def balances_experts(config: PreTrainedConfig) -> bool:
    """Return whether a configuration asks for the auxiliary loss."""
    return bool(getattr(config.get_text_config(decoder=True), "output_router_logits", False))


@contextmanager
def balance_losses(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Within the block, collect the weighted auxiliary loss of each call of a model, a scalar.

    It is the load balancing loss of Switch Transformers (arXiv 2101.03961, equations 4 to 6), over all columns of the
    rows but masked ones, times the weight in the configuration. The list stays empty if the configuration does not ask
    for it.

    Raises:
        ValueError: The configuration asks for it, and the model does not return it.
    """
    losses: list[Tensor] = []
    if not balances_experts(model.config):
        yield losses
        return
    hook = model.register_forward_hook(lambda _, inputs, output: losses.append(_weighted(model, output)))
    try:
        yield losses
    finally:
        hook.remove()


def _weighted(model: PreTrainedModel, output: Any) -> Tensor:
    text = model.config.get_text_config(decoder=True)
    weights = [weight for name in COEFFICIENTS if (weight := getattr(text, name, None)) is not None]
    loss = getattr(output, "aux_loss", None)
    if not isinstance(loss, Tensor) or not weights:
        raise ValueError(
            f"{type(model).__name__} returns no auxiliary loss of its experts without labels, and its configuration "
            "asks for one: set output_router_logits to false"
        )
    return weights[0] * loss


def reject_balance(config: PreTrainedConfig, kind: str) -> None:
    """Reject a configuration that asks for the auxiliary loss, where it is not trained.

    Args:
        config: Configuration of the model.
        kind: What trains the model, for the message.

    Raises:
        ValueError: The configuration has ``output_router_logits: true``.
    """
    if balances_experts(config):
        raise ValueError(
            f"{kind} trains no auxiliary loss of experts, and the configuration of {config.model_type} asks for one: "
            "set output_router_logits to false"
        )
