"""Training of weights in half precision: the optimizer steps on float32 copies, the master weights.

A step of AdamW changes a weight by about the learning rate, but bfloat16 keeps 8 bits: 1 + 0.001 rounds to 1. Master
weights accumulate such steps (Micikevicius et al., arXiv 1710.03740, section 3.1) and are rounded into the model after
each. A parameter takes 2 bytes, its gradient 2, its master 4 and Adam's moments 8.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

MASTER = "master"
"""Key of a master weight among the saved states of its parameter."""
CHUNK = 2**26
"""Elements whose gradients are in float32 at a time."""

Groups = list[dict[str, Any]]


class MasterWeights(Optimizer):
    """An optimizer whose steps are computed on float32 copies of the parameters.

    Its groups and states are those of the inner optimizer, but keyed by the model's parameters. A saved state also
    holds the master weight.

    Args:
        groups: Parameter groups of the model. Parameters in float32 or float64 need no copy.
        build: Builds the inner optimizer from parameter groups. Its steps must treat each parameter alone.
        chunk: Number of elements whose gradients are in float32 at a time.
    """

    def __init__(self, groups: Groups, build: Callable[[Groups], Optimizer], *, chunk: int = CHUNK) -> None:
        weights = [weight for group in groups for weight in group["params"]]
        self._masters = {weight: Parameter(_widened(weight)) for weight in weights}
        self._inner = build([{**group, "params": [self._masters[w] for w in group["params"]]} for group in groups])
        self._chunks = list(chunked(weights, chunk))
        self.found_inf: Tensor | None = None
        """Set before a fused step: 1 where it is skipped."""
        inside = self._inner.param_groups
        super().__init__(
            [{**own, "params": group["params"]} for own, group in zip(inside, groups, strict=True)],
            self._inner.defaults,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step on the master weights and round them into the model."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._pass_in()
        self._inner.found_inf = self.found_inf  # type: ignore[attr-defined]  # torch's fused optimizers read it
        for weights in self._chunks:
            for weight in weights:
                if weight.grad is not None:
                    self._masters[weight].grad = weight.grad.to(self._masters[weight].dtype)
            self._inner.step()
            for weight in weights:
                self._masters[weight].grad = None
                weight.copy_(self._masters[weight])
        self._take_out()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states by parameter index, each with its master weight."""
        self._pass_in()
        states = self._inner.state_dict()
        weights = [weight for group in self.param_groups for weight in group["params"]]
        masters = {place: self._masters[weight] for place, weight in enumerate(weights) if is_low(weight)}
        held = {place: {MASTER: master.detach()} for place, master in masters.items()}
        both = {
            place: {**states["state"].get(place, {}), **held.get(place, {})} for place in {**states["state"], **held}
        }
        return {**states, "state": both}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the inner optimizer's states and the float32 master weights from a ``state_dict`` of this class.

        Raises:
            ValueError: A parameter in half precision has no master weight there.
        """
        self._inner.load_state_dict(state_dict)
        for weight, master in self._masters.items():
            saved = self._inner.state.get(master, {}).pop(MASTER, None)
            if saved is not None:
                master.data.copy_(saved)
            elif is_low(weight):
                raise ValueError(
                    "the optimizer's states hold no float32 master weights: the run that saved them trained with "
                    "optimizer.master_weights false; set it so, or start a new run from the weights"
                )
            if master in self._inner.state and not self._inner.state[master]:
                del self._inner.state[master]  # it has had no gradient yet
        for group, inside in zip(self.param_groups, self._inner.param_groups, strict=True):
            group.update(_settings(inside))
        self._take_out()

    def register_load_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register a hook as torch's optimizers do; it is called with this optimizer and the state to load."""
        return self._inner.register_load_state_dict_pre_hook(lambda _, states: hook(self, states), prepend)

    def _pass_in(self) -> None:
        """Give the inner optimizer this one's settings and states, which schedules and strategies replace."""
        for group, inside in zip(self.param_groups, self._inner.param_groups, strict=True):
            inside.update(_settings(group))
        for weight, state in self.state.items():
            self._inner.state[self._masters[weight]] = state

    def _take_out(self) -> None:
        for weight, master in self._masters.items():
            if master in self._inner.state:
                self.state[weight] = self._inner.state[master]


def chunked(weights: Iterable[Parameter], size: int) -> Iterator[list[Parameter]]:
    """Yield the weights in order, in lists of at most `size` elements; a larger weight is a list of its own.

    >>> parts = chunked([Parameter(torch.zeros(n)) for n in (3, 1, 2, 9)], 4)
    >>> [[len(weight) for weight in part] for part in parts]
    [[3, 1], [2], [9]]
    """
    part: list[Parameter] = []
    for weight in weights:
        if part and sum(other.numel() for other in part) + weight.numel() > size:
            yield part
            part = []
        part.append(weight)
    if part:
        yield part


def is_low(weight: Tensor) -> bool:
    """Return whether a weight is in half precision."""
    return weight.dtype in (torch.bfloat16, torch.float16)


def _widened(weight: Parameter) -> Tensor:
    """Return a float32 copy of a weight in half precision, or the weight itself."""
    return weight.detach().float() if is_low(weight) else weight.detach()


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
