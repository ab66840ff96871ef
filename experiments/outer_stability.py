"""Compare regularizations of the outer level: L2 on phi, early stopping, perturbation, a warm start, and none.

The paper (arXiv 2306.10098) leaves this open. The problem is the smallest of its kind: a network reads an input and an
instruction of four numbers, and each task is a function of its true instruction. Inner tasks are trained with learned
instructions. Outer tasks, and those of meta-validation and meta-test, which are never trained, have the true ones::

    python experiments/outer_stability.py [--seeds 8] [--outer_steps 120]

Prints for each arm the final meta-test loss with a 95% t-interval over seeds, its variance, and the number of runs that
diverged (ended above the loss before training, or not finite). Two further arms learn no instructions: random ones
("phi fixed") and the true ones.
"""

import argparse
import copy
import math
import statistics
from functools import partial
from typing import NamedTuple

import torch
from shared_runs import t_interval
from torch import Tensor, nn
from torch.nn import Parameter

from crosstask.lightning_modules.hypergradients import adam_preconditioned, adam_step_sizes, hypergradient

WIDTH, INPUTS, INNER_TASKS, OTHER_TASKS, INNER_STEPS, ROWS = 4, 6, 24, 16, 5, 64
ARMS = ("nothing", "L2", "early stopping", "perturbation", "warm start", "phi fixed", "true instructions")


class Tasks(NamedTuple):
    """True instructions of tasks [t, WIDTH], and the matrix that turns an instruction into the task's function."""

    instructions: Tensor
    mixing: Tensor

    def draw(self, count: int, read: Tensor) -> tuple[Tensor, Tensor]:
        """Draw rows (an input, and the task's instruction in `read`) and their answers."""
        tasks = torch.randint(0, len(self.instructions), (count,))
        x = torch.randn(count, INPUTS)
        answers = torch.tanh((x @ self.mixing * self.instructions[tasks]).sum(1))
        return torch.cat([x, read[tasks]], dim=1), answers


class Problem:
    """Tasks (inner, outer, meta-validation, meta-test), network and instructions of a seed."""

    def __init__(self, seed: int, arm: str) -> None:
        torch.manual_seed(seed)
        mixing = torch.randn(INPUTS, WIDTH) / math.sqrt(INPUTS)
        self.inner = Tasks(torch.randn(INNER_TASKS, WIDTH), mixing)
        self.outer, self.validation, self.test = (Tasks(torch.randn(OTHER_TASKS, WIDTH), mixing) for _ in range(3))
        self.model = nn.Sequential(
            nn.Linear(INPUTS + WIDTH, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )
        start = torch.randn(INNER_TASKS, WIDTH)
        if arm == "warm start":  # as human-written instructions: the true ones with noise
            start = self.inner.instructions + 0.5 * start
        self.phi = Parameter(self.inner.instructions.clone() if arm == "true instructions" else start)
        self.noise = 0.3 if arm == "perturbation" else 0.0

    def inner_loss(self) -> Tensor:
        return self.loss(self.inner, self.phi + self.noise * torch.randn_like(self.phi))

    def loss(self, tasks: Tasks, read: Tensor, rows: int = ROWS) -> Tensor:
        inputs, answers = tasks.draw(rows, read)
        return (self.model(inputs).squeeze(1) - answers).square().mean()

    @torch.no_grad()
    def evaluate(self, tasks: Tasks) -> float:
        """Return the loss with true instructions, on the same rows at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.loss(tasks, tasks.instructions, 4096).item()


def final_loss(seed: int, arm: str, outer_steps: int) -> tuple[float, float]:
    """Return the meta-test losses (before, after) training."""
    problem = Problem(seed, arm)
    first = problem.evaluate(problem.test)
    theta = list(problem.model.parameters())
    optimizer = torch.optim.Adam(theta, lr=3e-3)
    decay = 1.0 if arm == "L2" else 0.0
    outer_optimizer = torch.optim.AdamW([problem.phi], lr=0.05, weight_decay=decay)
    best, kept = problem.evaluate(problem.validation), copy.deepcopy(problem.model.state_dict())
    for _ in range(outer_steps):
        for _ in range(INNER_STEPS):
            optimizer.zero_grad()
            problem.inner_loss().backward()
            optimizer.step()
        if arm not in ("phi fixed", "true instructions"):
            result = hypergradient(
                partial(adam_preconditioned, step_sizes=adam_step_sizes(optimizer, theta)),
                problem.inner_loss,
                lambda: problem.loss(problem.outer, problem.outer.instructions),
                theta,
                [problem.phi],
            )
            problem.phi.grad = result.gradients[0]
            outer_optimizer.step()
        loss = problem.evaluate(problem.validation) if arm == "early stopping" else math.inf
        if loss < best:
            best, kept = loss, copy.deepcopy(problem.model.state_dict())
    if arm == "early stopping":
        problem.model.load_state_dict(kept)
    return first, problem.evaluate(problem.test)


def line(arm: str, results: list[tuple[float, float]]) -> str:
    """Return mean, interval and variance of the final losses, and the number of diverged runs, as text."""
    diverged = sum(not last < first for first, last in results)
    finite = [last for _, last in results if math.isfinite(last)]
    mean, low, high = t_interval(finite)
    return f"{arm:20}{mean:8.4f} [{low:.4f}, {high:.4f}]{statistics.variance(finite):12.2e}{diverged:10d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--outer_steps", type=int, default=120)
    arguments = parser.parse_args()
    print(f"{'':20}{'loss':>8} {'95% interval':16}{'variance':>12}{'diverged':>10}")
    for arm in ARMS:
        print(line(arm, [final_loss(seed, arm, arguments.outer_steps) for seed in range(arguments.seeds)]), flush=True)


if __name__ == "__main__":
    main()
