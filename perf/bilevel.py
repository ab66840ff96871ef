"""Time and memory of the outer level, against Betty: a cycle of K inner steps and an outer step, over K inner steps.

    python perf/bilevel.py [--inner_steps 20] [--rounds 5] [--memory] [--error]

The model is a small T5 with a learnable instruction, the paper's numbers of rows (2 inner, 8 outer) and presets, and
lognormal lengths. The peer is Betty (betty-ml 0.1.1), which differentiates twice, with the same model, instruction,
optimizers and rows. Betty takes its curvature at the two rows of the last inner step, as the program released with the
paper does. Our presets take it at eight fresh rows; two further variants take it at the two rows. `paper` skips the
negligible Hessian products, as the module does between two searches for the radius.

Measures processor time of one thread, medians over rounds in which all variants take turns. Cycles are run for the
presets, and computed from K inner steps and an outer step for the other variants and for a K five times as large.
`--memory` measures each variant's peak in a separate process; `--error` first prints the error of each method beside
its cost (hypergradient_error.py). Betty cannot be installed by a pip newer than 24.0: use a virtual environment with
``pip<24.1``. Without Betty, the comparison is skipped with a message.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import ALLOCATOR, print_result, resident
from hypergradient_error import print_errors
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from crosstask.datamodules.bilevel.exemplars import InstructionInputs
from crosstask.datamodules.bilevel.level_rows import InnerBatch
from crosstask.datamodules.bilevel.row_chunks import inner_chunks, outer_chunks
from crosstask.datamodules.packing.collate import Seq2SeqRows
from crosstask.datamodules.schema import Seq2SeqBatch, TokenizedExample
from crosstask.lightning_modules.hypergradients import (
    Method,
    adam_preconditioned,
    adam_sensitivity,
    adam_step_sizes,
    conjugate_gradient,
    exact,
    finite_difference,
    hypergradient,
    identity,
    neumann,
    penalty,
    sama,
)
from crosstask.lightning_modules.instructions.instructed_loss import instructed_loss, model_functions
from crosstask.lightning_modules.instructions.learnable_instructions import DirectEmbedder
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.target_loss import target_loss

T5 = {
    "model_type": "t5",
    "vocab_size": 4096,
    "d_model": 192,
    "d_kv": 48,
    "d_ff": 512,
    "num_layers": 3,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
FEW = 4  # inner steps of a cycle that is run for its outer step alone
TASKS, INSTRUCTION, INNER_ROWS, OUTER_ROWS, GAMMA = 32, 32, 2, 8, 1e-5
PRESETS = ("paper", "fast")
EXACT = ("exact, M = 1", "exact, M = 0")
AS_BETTY = ("rows of the step", "rows of the step, every Hessian product")
PENALTY = {"penalty, 1 step": 1, "penalty, 4 steps": 4}
OTHERS = ("paper, every Hessian product", *AS_BETTY, "conjugate_gradient", "adam_preconditioned", "sama", *PENALTY)
BETTY = ("betty neumann", "betty darts")


class Bench:
    """A model with an attention implementation, an instruction, their optimizers, and rows."""

    def __init__(self, attention: str, device: str = "cpu") -> None:
        torch.manual_seed(0)
        config = model_config(T5, vocabulary=0, dropout=0.1)
        model = build_model(config, weights=None, vocabulary=0, attention=attention, dtype=torch.float32)
        self.model = model.train().to(device)  # type: ignore[arg-type]
        self.instruction = DirectEmbedder(TASKS, INSTRUCTION, T5["d_model"]).to(device)  # type: ignore[arg-type]
        self.theta, self.phi = list(self.model.parameters()), list(self.instruction.parameters())
        self.optimizer = torch.optim.AdamW(self.theta, lr=1e-4, weight_decay=0.0)
        self.outer_optimizer = torch.optim.AdamW(self.phi, lr=1e-4, weight_decay=0.0)
        rng = np.random.default_rng(0)
        self.inner = [InnerBatch(rows(rng, INNER_ROWS), inputs(rng, INNER_ROWS)) for _ in range(16)]
        self.fresh = [InnerBatch(rows(rng, OUTER_ROWS), inputs(rng, OUTER_ROWS)) for _ in range(4)]
        self.outer = [rows(rng, OUTER_ROWS) for _ in range(4)]
        self.inner, self.fresh, self.outer = move_data_to_device((self.inner, self.fresh, self.outer), device)
        self.steps, self.gradient, self.round = 0, [torch.zeros_like(p) for p in self.theta], 0

    def inner_loss(self, batch: InnerBatch, targets: int | None = None) -> Tensor:
        made = self.instruction(batch.inputs, model_functions(self.model))
        return instructed_loss(self.model, made, batch.rows).sum / (targets or batch.rows.step_targets)

    def outer_loss(self, batch: Seq2SeqBatch) -> Tensor:
        return target_loss(self.model, batch, packed=False).sum / batch.step_targets

    def theta_step(self, *, keep: bool = False) -> None:
        """Take a clipped step of Adam for theta, with the instruction before the text."""
        batch = self.inner[self.steps % len(self.inner)]
        gradients = torch.autograd.grad(self.inner_loss(batch), self.theta)
        for parameter, gradient in zip(self.theta, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.theta, 1.0)
        self.optimizer.step()
        if keep:
            self.gradient = [parameter.grad for parameter in self.theta]  # type: ignore[misc]
        self.optimizer.zero_grad()
        self.steps += 1

    def method(self, name: str) -> Method:
        if name in (
            "paper",
            "fast",
            "exact, M = 0",
            "rows of the step",
        ):  # the Hessian of `paper` is negligible at this gamma, and skipped
            return partial(identity, scale=2 * GAMMA)
        if name == "conjugate_gradient":
            return partial(conjugate_gradient, iterations=1, damping=1e3)
        if name == "adam_preconditioned":
            sizes = adam_step_sizes(self.optimizer, self.theta)
            return partial(adam_preconditioned, step_sizes=sizes, hessian_products=1, growth_limit=float("inf"))
        if name == "sama":
            return partial(sama, sensitivity=adam_sensitivity(self.optimizer, self.theta, self.gradient))
        return partial(neumann, gamma=GAMMA, hessian_products=1)

    def phi_step(self, name: str) -> None:
        """Compute the hypergradient by the named variant, and take an outer step."""
        inner = self.fresh[self.round % 4]
        if name in AS_BETTY:
            inner = self.inner[(self.steps - 1) % len(self.inner)]
        at_once = OUTER_ROWS if name in EXACT else INNER_ROWS
        losses = (
            [partial(self.inner_loss, part) for part in inner_chunks(inner, at_once)],
            [partial(self.outer_loss, part) for part in outer_chunks(self.outer[self.round % 4], at_once)],
        )
        if name in PENALTY:
            result = penalty(*losses, self.theta, self.phi, alpha=1e-2, rate=GAMMA, steps=PENALTY[name])
        else:
            curvature = exact if name in EXACT else finite_difference
            result = hypergradient(self.method(name), *losses, self.theta, self.phi, curvature=curvature, radius=3e-3)
        for parameter, gradient in zip(self.phi, result.gradients, strict=True):
            parameter.grad = gradient
        self.outer_optimizer.step()
        self.outer_optimizer.zero_grad()


def rows(rng: np.random.Generator, count: int) -> Seq2SeqBatch:
    """Return rows of random tokens: sources of about 200 tokens, targets of up to 16."""
    sources = np.clip(rng.lognormal(np.log(200), 0.5, count), 32, 512).astype(int)
    targets = rng.integers(1, 17, count)
    documents = [TokenizedExample(rng.integers(2, 4096, n + m), int(n)) for n, m in zip(sources, targets, strict=True)]
    kind = Seq2SeqRows(int(sources.max()), int(targets.max()), pad_token_id=0)
    return kind.collate([[document] for document in documents], int(targets.sum()))


def inputs(rng: np.random.Generator, count: int) -> InstructionInputs:
    nothing = torch.zeros(count, 1, dtype=torch.long)
    return InstructionInputs(torch.from_numpy(rng.integers(0, TASKS, count)), nothing, nothing)


def betty_engine(bench: Bench, kind: str, inner_steps: int) -> Any:
    """Return Betty's engine for the same problem; its ``train_step`` is an inner step, every K-th also an outer one."""
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    numbers = [(torch.tensor([number]),) for number in range(16)]

    class Outer(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return bench.outer_loss(bench.outer[int(batch[0]) % 4])

    class Inner(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return bench.inner_loss(bench.inner[int(batch[0])])

    outer = Outer(
        name="outer",
        config=Config(),
        module=bench.instruction,
        optimizer=bench.outer_optimizer,
        train_data_loader=numbers,
    )
    settings = Config(
        type=kind, unroll_steps=inner_steps, neumann_iterations=1, neumann_alpha=GAMMA, gradient_clipping=1.0
    )
    inner = Inner(
        name="inner", config=settings, module=bench.model, optimizer=bench.optimizer, train_data_loader=numbers
    )
    dependencies = {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}}
    engine = Engine(problems=[outer, inner], dependencies=dependencies, config=EngineConfig(train_iters=10**6))
    engine.train()
    return engine


def seconds(work: Callable[[], None], device: str) -> float:
    """Return the seconds of a call: processor time on a CPU, time until it has finished on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


def repeated(work: Callable[[], None], times: int) -> None:
    for _ in range(times):
        work()


def has_betty() -> bool:
    try:
        import betty  # noqa: F401
    except ImportError:
        print("betty is not installed: no comparison with it (pip<24.1, then pip install betty-ml==0.1.1)")
        return False
    return True


def measure_times(inner_steps: int, rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Return, for each variant, the seconds of the outer step, of the cycle, and of K inner steps."""
    ours, twice = Bench("sdpa", device), Bench("eager", device)
    betties = {name: Bench("eager") for name in BETTY} if device == "cpu" and has_betty() else {}
    engines = {name: betty_engine(bench, name.split()[1], FEW) for name, bench in betties.items()}
    found: dict[str, list[float]] = {}

    def record(name: str, work: Callable[[], None]) -> None:
        found.setdefault(name, []).append(seconds(work, device))

    def cycle(name: str) -> None:
        ours.steps = 0
        repeated(ours.theta_step, inner_steps)
        ours.phi_step(name)

    for number in range(rounds + 1):  # the first warms up
        for bench in (ours, twice):
            bench.round, bench.steps = number, 0  # every variant of a round reads the same rows
        record("plain", partial(repeated, ours.theta_step, inner_steps))
        record("few eager", partial(repeated, twice.theta_step, FEW))
        for name in PRESETS:
            record(f"cycle: {name}", partial(cycle, name))
        for name in OTHERS:
            ours.theta_step(keep=True)
            record(name, partial(ours.phi_step, name))
        for name in EXACT:
            record(name, partial(twice.phi_step, name))
        for name, engine in engines.items():
            record(name, partial(repeated, engine.train_step, FEW))
    medians = {name: statistics.median(values[1:]) for name, values in found.items()}
    plain, few = medians.pop("plain"), medians.pop("few eager")
    result = {}
    for name, value in medians.items():
        variant = name.removeprefix("cycle: ")
        steps = few / FEW * inner_steps if variant in EXACT + BETTY else plain
        outer = value - plain if variant in PRESETS else value - few if variant in BETTY else value
        result[variant] = {"outer": outer, "cycle": steps + outer, "plain": steps, "ratio": (steps + outer) / steps}
    return result


def peak(variant: str) -> float:
    """Return the peak memory in MiB above that before the model was built, over four cycles of four inner steps."""
    torch.nn.Linear(64, 64)(torch.ones(64, 64)).sum().backward()  # loads the kernels
    before = resident("VmRSS")
    bench = Bench("eager" if variant in EXACT + BETTY else "sdpa")
    if variant in BETTY:
        repeated(betty_engine(bench, variant.split()[1], 4).train_step, 16)
    else:
        for _ in range(4):
            repeated(partial(bench.theta_step, keep=variant == "sama"), 4)
            if variant != "plain":
                bench.phi_step(variant)
    return resident("VmHWM") - before


def measure_memory() -> None:
    variants = ("plain", *PRESETS, *OTHERS, *EXACT, *(BETTY if has_betty() else ()))
    mib = {}
    for variant in variants:
        command = [sys.executable, __file__, "--peak", variant]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ALLOCATOR)
        mib[variant] = float(run.stdout.split()[-1])
    size = sum(parameter.numel() for parameter in Bench("sdpa").theta) * 4 / 2**20
    print(f"theta: {size:.0f} MiB; training adds its gradients and Adam's moments")
    for variant, value in mib.items():
        copies = (value - 1.1 * mib["plain"]) / size
        print(
            f"{variant:42}{value:>8.0f} MiB{value / mib['plain']:>8.2f} x plain{copies:>8.1f} theta above 1.1 x plain"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inner_steps", type=int, default=20, help="K")
    parser.add_argument("--rounds", type=int, default=5, help="0 measures no times")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--device", default="cpu", help="a GPU is not compared with Betty")
    parser.add_argument("--error", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(peak(arguments.peak))
        return
    if arguments.error:
        print_errors()
    if arguments.memory:
        measure_memory()
    if not arguments.rounds:
        return
    times = measure_times(arguments.inner_steps, arguments.rounds, arguments.device)
    rare = 5 * arguments.inner_steps
    heads = f"{'phi step':>10}{'cycle':>9}{'K steps':>9}{'ratio':>7}{f'K = {rare}':>9}"
    print(f"{f'K = {arguments.inner_steps}':42}{heads}")
    for variant, row in times.items():
        seldom = 1 + row["outer"] / (5 * row["plain"])
        shown = f"{row['outer']:>9.2f}s{row['cycle']:>8.2f}s{row['plain']:>8.2f}s{row['ratio']:>7.2f}{seldom:>9.2f}"
        print(f"{variant:42}{shown}")
    if "betty neumann" in times:
        for variant in AS_BETTY:
            faster = times["betty neumann"]["outer"] / times[variant]["outer"]
            print(f"Betty's Neumann takes {faster:.2f} times as long as ours, {variant}")
    size = sum(parameter.numel() for parameter in Bench("sdpa").theta) / 1e6
    print_result(
        "bilevel_cycle_over_plain_steps",
        ours=times["paper"]["cycle"],
        peer=times["paper"]["plain"],
        unit=f"{'processor ' if arguments.device == 'cpu' else ''}seconds of a cycle, preset paper, over K inner steps "
        "(less is better)",
        setting=f"T5 of {size:.1f}M parameters, K = {arguments.inner_steps}, {INNER_ROWS} inner and {OUTER_ROWS} outer "
        f"rows, instruction of {INSTRUCTION}, 1 CPU thread, fp32 on {arguments.device}",
    )


if __name__ == "__main__":
    main()
