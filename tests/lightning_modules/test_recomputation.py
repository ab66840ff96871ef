"""What the backward pass recomputes, counted; and that no gradient depends on it."""

from collections import Counter
from typing import Any

import pytest
from packed_models import assert_same, build, gradients, loss_of, read_packed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crosstask.lightning_modules.models import Network, prepare_network
from crosstask.lightning_modules.recomputation import Recomputation, recompute_blocks

BLOCKS, PRODUCTS = 2, 5
"""Of the OPT in packed_models.py. A block has four projections and two feed-forward layers, and the backward pass does
not need the result of the last one."""


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def backward_of(choice: Recomputation) -> tuple[list[Tensor], Counter[str]]:
    model = build("opt").train()
    recompute_blocks(model, choice)
    loss = loss_of(read_packed(model))
    with Operations() as operations:
        grads = gradients(model, loss)
    return grads, operations.counts


@pytest.mark.parametrize(("choice", "again"), [(True, 2), (2, 1), ("selective", 0)])
def test_as_many_blocks_are_recomputed_as_chosen(choice: Recomputation, again: int) -> None:
    plain, none = backward_of(False)
    grads, some = backward_of(choice)
    assert_same(grads, plain)
    assert some["addmm"] - none["addmm"] == again * PRODUCTS
    # Norms are recomputed under selective, too, in every block.
    assert some["native_layer_norm"] - none["native_layer_norm"] == 2 * (BLOCKS if choice == "selective" else again)


def test_a_choice_that_does_not_exist_is_rejected() -> None:
    for wrong in ("some", -1, 0.5):
        with pytest.raises(ValueError, match=r"true \(every block\), false, selective or a number n"):
            Network(gradient_checkpointing=wrong)  # type: ignore[arg-type]


def test_a_network_applies_its_choice() -> None:
    model = build("llama").train()
    prepare_network(model, Network(gradient_checkpointing=2))
    assert [layer.gradient_checkpointing for layer in model.model.layers] == [True, False]
