"""Errors about what methods, hypergradients and instructions of a user's project take and return."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bilevel_runs import Make, trainer
from quadratics import POSITIVE, quadratic

from crosstask.datamodules.bilevel.exemplars import InstructionInputs
from crosstask.lightning_modules.hypergradients import Direction, Hypergradient, hypergradient
from crosstask.lightning_modules.hypergradients.implicit import Diagnostics, require_hypergradient
from crosstask.lightning_modules.instructions.instructed_loss import require_instruction
from crosstask.lightning_modules.instructions.learnable_instructions import (
    Instruction,
    InstructionShape,
    LearnableInstruction,
    ModelFunctions,
    fully_attended,
)

HERE = __name__


class TooLong(LearnableInstruction):
    """Returns three columns more than rows keep free."""

    def __init__(self, shape: InstructionShape, more: int = 3) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(shape.tasks, shape.length + more, shape.width))

    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
        return fully_attended(self.table[inputs.tasks])


def scaled_v(v: Any, hessian_product: Any, *, scale: float) -> Direction:
    return Direction([scale * tensor for tensor in v])


def no_reduce(inner_losses: Any, outer_losses: Any, theta: Any, phi: Any) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": f"{HERE}.scaled_v"}, r"cannot be called as scaled_v\(v, hessian_product\): missing .*'scale'"),
        ({"gradient": f"{HERE}.no_reduce"}, r"no_reduce\(inner_losses, .*, reduce=...\): got an unexpected .*'reduce'"),
    ],
)
def test_functions_that_take_other_arguments_are_rejected_at_once(
    make_bilevel: Make, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make_bilevel(**arguments)


def test_an_instruction_that_is_longer_than_its_columns_is_rejected(make_bilevel: Make) -> None:
    with pytest.raises(ValueError, match="TooLong returns 7 columns, and rows keep 4 free for them"):
        trainer(3).fit(*make_bilevel(instruction=f"{HERE}.TooLong"))
    with pytest.raises(ValueError, match=r"scaled_v\(shape\): missing a required argument: 'hessian_product'"):
        trainer(3).fit(*make_bilevel(instruction=f"{HERE}.scaled_v"))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (torch.zeros(2, 4, 8), r"must return an Instruction\(embeddings, mask\), got Tensor"),
        (fully_attended(torch.zeros(2, 4, 9)), r"with B = 2 and D = 8, and a mask \[B, I\], got \(2, 4, 9\)"),
        (Instruction(torch.zeros(2, 4, 8), torch.ones(4)), r"got \(2, 4, 8\) and \(4,\)"),
    ],
)
def test_what_is_no_instruction_is_rejected(returned: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        require_instruction(returned, "own.Kind", rows=2, longest=4, width=8)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (lambda v, h: v, r"must return a Direction\(p, ...\), got list"),
        (lambda v, h: Direction(v[:1]), "each of theta's 2 parameters, got 1 tensors"),
        (lambda v, h: Direction([v[0].T[:1], v[1]]), r"at 0 the shape is \(1, 2\), and theta's \(2, 2\)"),
    ],
)
def test_what_is_no_direction_is_rejected(method: Callable, said: str) -> None:
    q = quadratic(POSITIVE)
    with pytest.raises(ValueError, match=said):
        hypergradient(method, q.inner, q.outer, q.theta, q.phi)


def test_what_is_no_hypergradient_is_rejected() -> None:
    q = quadratic(POSITIVE)
    check = partial(require_hypergradient, phi=q.phi, name="own.gradient")
    with pytest.raises(ValueError, match=r"own.gradient must return a Hypergradient\(gradients, .*, got list"):
        check([torch.zeros(3)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gradients of phi's shapes, \[\(3,\)\], got \[\(2,\)\]"):
        check(Hypergradient([torch.zeros(2)], Diagnostics(0.0, 1.0, 1.0)))
