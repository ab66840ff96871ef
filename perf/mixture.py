"""A mixture of real size: errors of its proportions, time to reach position 10⁹, and memory of training.

    python perf/mixture.py                      2,000 tasks of 18 million examples; a store of a million examples

The store is written with documents of random tokens, in the layout of ``crosstask prepare``. Memory is the process's
anonymous memory; mapped files, which the system can drop at any time, are reported separately. The peer of the resume
reads its batches up to the position, as a stream without a plan must (20 steps are read, the rest is extrapolated).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import print_result
from rich.console import Console
from rich.table import Table

from crosstask.datamodules.mixture.draws import Mixture
from crosstask.datamodules.mixture.proportions import ExtraStream, MixtureRules, TaskSize, task_rates
from crosstask.datamodules.packing.best_fit import best_fit
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.packing.train_stream import Position, TrainPlan, TrainStream
from crosstask.datamodules.schema import TokenizedExample
from crosstask.datamodules.storage.store import write_task
from crosstask.datamodules.storage.stored_tasks import open_tasks

PAPER = {
    "crossfit": 0.04,
    "exmix": 0.02,
    "flan": 0.2,
    "sni": 0.25,
    "promptsource": 0.45,
    "t5": 0.02,
    "unifiedskg": 0.02,
}
TASKS = {"crossfit": 159, "exmix": 14, "flan": 70, "sni": 1428, "promptsource": 280, "t5": 7, "unifiedskg": 21}
RULES = MixtureRules(4096, PAPER, {"reasoning": ExtraStream(0.01), "pretraining": ExtraStream(0.05)})


def bench(examples: int, generator: np.random.Generator) -> list[TaskSize]:
    """Return tasks in the numbers of OPT-IML Bench, of lognormal sizes up to 100,000 that sum to about `examples`."""
    names = [(benchmark, i) for benchmark, n in {**TASKS, "reasoning": 12, "pretraining": 1}.items() for i in range(n)]
    sizes = np.minimum(generator.lognormal(0, 1.5, len(names)), 11)
    sizes = np.maximum(sizes * examples / sizes.sum(), 1).astype(int)
    return [TaskSize(f"{b}/{i}", b, "c", int(size)) for (b, i), size in zip(names, sizes, strict=True)]


def mixed(tasks: list[TaskSize]) -> Mixture:
    rates = task_rates(tasks, RULES)
    return Mixture([task.name for task in tasks], [task.examples for task in tasks], rates.tolist())


def proportions(mixture: Mixture, draws: int) -> float:
    """Return the largest difference between a task's draws and rate * draws, after each of some windows."""
    drawn, worst, window = np.zeros(len(mixture.names)), 0.0, 0
    while drawn.sum() < draws:
        drawn += np.bincount(mixture.draws(window)[0], minlength=len(drawn))
        window += 1
        worst = max(worst, np.abs(drawn - np.asarray(mixture.rates) * mixture.window * window).max())
    return worst


def write_store(folder: Path, tasks: list[TaskSize], generator: np.random.Generator) -> list[Path]:
    """Write documents of lognormal lengths with mean 220 for every task, and return the folders."""
    folders = []
    for task in tasks:
        lengths = np.clip(generator.lognormal(np.log(220) - 0.5, 1.0, task.examples), 2, 2048).astype(int)
        tokens = generator.integers(0, 50_000, lengths.max()).astype(np.uint16)
        path = folder / task.name.replace("/", "-")
        write_task(path, (TokenizedExample(tokens[:n], n // 2) for n in lengths.tolist()), vocabulary=50_272, about={})
        folders.append(path)
    return folders


def memory() -> tuple[float, float]:
    """Return (anonymous memory, memory mapped from files) of this process, in MiB."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000, help="of the store that is fitted from")
    parser.add_argument("--steps", type=int, default=200, help="of 256 rows of 2,048, while memory is watched")
    settings = parser.parse_args()
    generator = np.random.default_rng(0)
    table = Table("", "", title="a mixture of OPT-IML Bench's shape", title_justify="left")

    large = mixed(bench(18_000_000, generator))
    table.add_row("tasks, examples", f"{len(large.names):,}, {sum(large.sizes):,}")
    worst = proportions(large, 100_000)
    table.add_row("largest error of a task's draws, 100,000 draws", f"{worst:.3f} examples")
    large = mixed(bench(18_000_000, generator))
    began = time.perf_counter()
    large.draws(10**9 // 65_536)
    first = time.perf_counter() - began
    began = time.perf_counter()
    large.draws(10**9 // 65_536 + 1)
    table.add_row("window at position 10^9, first and next", f"{first:.2f} s, {time.perf_counter() - began:.2f} s")

    with tempfile.TemporaryDirectory() as scratch:
        tasks = bench(settings.examples, generator)
        folders = write_store(Path(scratch), tasks, generator)
        open_tasks(folders, Path(scratch))  # joined once, as crosstask prepare does
        before = memory()
        stored = open_tasks(folders, Path(scratch))
        plan = TrainPlan(stored, mixed(tasks), CausalRows(2048, 1), best_fit, rows_per_step=256)
        stream = TrainStream(plan, Replicas(), settings.steps)
        iterator = iter(stream)
        owned = [memory()[0] for _ in range(settings.steps) if next(iterator) is not None]
        mapped = memory()[1] - before[1]
        table.add_row(
            f"fitting {len(stored.lengths):,} examples, {settings.steps} steps: owned memory",
            f"{owned[0] - before[0]:.0f} MiB after a step, {owned[-1] - before[0]:.0f} MiB at the end",
        )
        table.add_row("  and mapped files that happen to be in memory", f"{mapped:.0f} MiB")
        resumed = TrainStream(plan, Replicas(), settings.steps)
        position = Position(10**9 // 65_536, 3)
        resumed.load_state_dict({"window": position.window, "row": position.row})
        began = time.perf_counter()
        next(iter(resumed))
        ours = time.perf_counter() - began
        began = time.perf_counter()
        skipped = TrainStream(plan, Replicas(), settings.steps)
        for _, _ in zip(range(20), skipped, strict=False):
            pass
        per_step = (time.perf_counter() - began) / 20
        draws_per_step = plan.mixture.window / (len(plan.window(0).rows) / 256)
        peer = 10**9 / draws_per_step * per_step
        table.add_row("resume at position 10^9, to the first batch", f"{ours:.2f} s")
        table.add_row("  reading up to there instead, extrapolated", f"{peer / 3600:.0f} h")
    Console().print(table)
    print_result(
        "mixture_resume",
        ours=1 / ours,
        peer=1 / peer,
        unit="resumes/s at position 1e9",
        setting=f"{len(tasks)} tasks, {settings.examples} examples, error of draws {worst:.3f}, "
        f"owned memory {owned[-1] - before[0]:.0f} MiB, peer extrapolated from 20 steps read",
    )


if __name__ == "__main__":
    main()
