"""A language model's head that returns the loss of targets instead of their logits.

transformers' models compute logits inside their forward, after the last block. The head's forward is replaced for one
call of the model. Strategies, hooks and the model's code see an ordinary call, and the head's matrix is whole or
sharded as the strategy prepared it.
"""

# B rows, L columns, N targets, D columns of a hidden state, V tokens of the vocabulary

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate
from transformers import PreTrainedConfig, PreTrainedModel

from .chunked_cross_entropy import CHUNK, LogitRule, VocabularyShard, chunked_cross_entropy

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
_IGNORED = frozenset({"mpt"})
"""Model types whose code reads no ``logit_scale``, although their configurations have one."""
_POWERS = {"hyperclovax": 1, "minicpm3": 0}
"""Powers of ``logits_scaling`` in the logits: MiniCPM3 divides the head's inputs by it; others (Granite) divide the
logits, and have -1."""


def logit_rule(config: PreTrainedConfig) -> LogitRule:
    """Return the scale and the cap of a model's logits, from its configuration.

    >>> from transformers import Gemma2Config, GraniteConfig
    >>> logit_rule(Gemma2Config(final_logit_softcapping=30.0)), logit_rule(GraniteConfig(logits_scaling=4.0))
    (LogitRule(scale=1.0, cap=30.0), LogitRule(scale=0.25, cap=None))
    """
    text = config.get_text_config(decoder=True)
    caps = [cap for name in _CAPS if (cap := getattr(text, name, None)) is not None]
    scale = (getattr(text, "logits_scaling", None) or 1.0) ** _POWERS.get(text.model_type, -1)
    for name in () if text.model_type in _IGNORED else _MULTIPLIERS:
        value = getattr(text, name, None)
        scale *= 1.0 if value is None else value
    return LogitRule(scale, caps[0] if caps else None)


def has_plain_head(model: PreTrainedModel) -> bool:
    """Return whether the head is a linear layer that is neither adapted nor quantized."""
    return type(model.get_output_embeddings()) is nn.Linear


class ChunkedHead:
    """The head of a model, which computes the loss of targets without keeping their logits.

    Args:
        model: A model for which ``has_plain_head`` is true.
        chunk: Largest number of logits in memory.
        compares: Whether the first call checks that the model scales and caps logits as its configuration says. It must
            be False for fake tensors, which have no values.
    """

    def __init__(self, model: PreTrainedModel, chunk: int = CHUNK, *, compares: bool = True) -> None:
        self.model, self.rule, self.chunk = model, logit_rule(model.config), chunk
        self._compares = compares

    @property
    def vocabulary(self) -> int:
        """Number of rows of the head's matrix over all processes."""
        head: Any = self.model.get_output_embeddings()
        rows: int = head.out_features
        return rows

    def loss_sum(self, targets_N: Tensor, select: Callable[[Tensor], Tensor], **inputs: Any) -> Tensor:
        """Return the sum of the cross entropies of targets, from one call of the model.

        The first call also lets the model's code turn numbers from -100 to 100 into logits, and compares them with the
        rule.

        Args:
            targets_N: Token ids, int64 [N].
            select: Returns the hidden states of the targets, [N, D], from the head's inputs, [B, L, D].
            inputs: Keyword arguments of the model's forward.

        Raises:
            ValueError: The model computes other logits.
        """
        head: Any = self.model.get_output_embeddings()
        outputs: list[Tensor] = []
        probe_V = torch.linspace(-100, 100, self.vocabulary, device=targets_N.device)

        def forward(hidden_BLD: Tensor) -> Tensor:
            """[1, 2, V]: numbers to compare, and the loss in every column."""
            loss = self._loss(head, hidden_BLD, targets_N, select)
            rows_12V = torch.stack([probe_V.to(loss.dtype), loss.expand(self.vocabulary)]).unsqueeze(0)
            if not isinstance(head.weight, DTensor):
                return rows_12V
            return DTensor.from_local(rows_12V, head.weight.device_mesh, [Replicate()], run_check=False)

        with _replaced_forward(head, forward, outputs):
            logits_12V = self.model(**inputs, use_cache=False).logits
        if self._compares:
            self._require_rule(probe_V, logits_12V[0, 0].detach())
            self._compares = False
        # Strategies that hook the model's output wait for its gradient, which is 0.
        return torch.stack([outputs[0][0, 1, 0], logits_12V.sum().to(outputs[0].dtype)])[0]

    def _loss(self, head: Any, hidden_BLD: Tensor, targets_N: Tensor, select: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the summed loss from the head's inputs, for a matrix that is whole or under tensor parallelism."""
        weight, bias, shard = head.weight, head.bias if self._buffer is None else self._buffer, None
        if isinstance(weight, DTensor):
            assert isinstance(hidden_BLD, DTensor)
            mesh, rows = weight.device_mesh, -(-weight.shape[0] // weight.device_mesh.size())
            shard = VocabularyShard(mesh.get_local_rank() * rows, mesh.get_group())
            hidden_BLD = hidden_BLD.to_local(grad_placements=[Partial()])
            weight, bias = weight.to_local(), bias.to_local() if isinstance(bias, DTensor) else bias
        return chunked_cross_entropy(
            select(hidden_BLD), weight, bias, targets_N, rule=self.rule, shard=shard, chunk=self.chunk
        )

    @property
    def _buffer(self) -> Tensor | None:
        """[V], a bias that BART's family adds to the products and keeps outside of the head; None for other models."""
        buffer = getattr(self.model, "final_logits_bias", None)
        return None if buffer is None else buffer[0]

    def _require_rule(self, products_V: Tensor, logits_V: Tensor) -> None:
        expected_V = self.rule.logits(products_V if self._buffer is None else products_V + self._buffer)
        if logits_V.shape != expected_V.shape or (logits_V - expected_V).norm() > 0.02 * expected_V.norm():
            raise ValueError(
                f"the logits of {type(self.model).__name__} are not its head's products with {self.rule}: set "
                "network.logits to whole"
            )


@contextmanager
def _replaced_forward(module: Any, forward: Callable[[Tensor], Tensor], outputs: list[Tensor]) -> Iterator[None]:
    """Replace a module's forward inside the block; `outputs` receives what its last hook returns."""
    hook = module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        hook.remove()
