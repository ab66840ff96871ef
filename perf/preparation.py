"""Examples per second that are rendered and tokenized into the store, by one and two processes, against a plain loop.

    CROSSTASK_DATA=folder python perf/preparation.py     Super-NaturalInstructions
    python perf/preparation.py                           the embedded benchmark

All runs prepare the same tasks, each into a new store. One process leaves the cores to the tokenizer; two render and
tokenize a task each, and their start is reported separately. The peer is a plain loop of the tokenizer over rendered
text, one example at a time, that stores nothing. Runs take turns; medians of their processor time are compared, too,
since wall seconds mean little on a busy machine.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from common import data_name, print_result, real_or_toy_benchmark
from rich.console import Console
from rich.table import Table

from crosstask.commands.tokenizer import train_tokenizer
from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.rendering.skipped_examples import skip_reason
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.storage.parallel_preparation import Job, prepare_tasks
from crosstask.datamodules.storage.preparation import Preparation


class Some(NaturalInstructions):
    """Benchmark of the first tasks of another one."""

    tasks_read = 100

    def task_names(self, split: str) -> list[str]:  # type: ignore[override]
        return super().task_names(split)[: self.tasks_read]  # type: ignore[arg-type]


def preparation(benchmark: NaturalInstructions, tokenizer: str, store: Path) -> Preparation:
    data = InstructionTuningDataModule(
        benchmark, tokenizer, cache=str(store), instances=Instances(test=0, validation=0)
    )
    return data.preparation


def plain_loop(prepared: Preparation, names: list[str]) -> int:
    """Tokenize examples one by one, and return their number."""
    count = 0
    for name in names:
        task = prepared.benchmark.task(name)
        for example in prepared.benchmark.examples(name):
            if skip_reason(task, example) is None:
                prompt = prepared.render(task, example)
                prepared.tokenizer(f"{prompt.source} {prompt.target}", add_special_tokens=False)
                count += 1
    return count


class Spent(NamedTuple):
    """Wall seconds and processor seconds."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> "Spent":
        times = os.times()
        return cls(times.elapsed, times.user + times.system)

    def until_now(self) -> "Spent":
        return Spent(*(now - then for now, then in zip(Spent.now(), self, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    spent: dict[str, list[Spent]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        whole = real_or_toy_benchmark(Path(scratch))
        benchmark = Some(str(whole.folder), str(whole.splits))
        benchmark.tasks_read = settings.tasks
        train_tokenizer(benchmark, f"{scratch}/tokenizer", vocabulary=4096)
        names = benchmark.task_names("train")
        jobs = [Job(name, False, False) for name in names]
        count = plain_loop(preparation(benchmark, f"{scratch}/tokenizer", Path(scratch) / "none"), names)  # warms up
        for number in range(settings.rounds):
            for processes in (1, 2):
                prepared = preparation(benchmark, f"{scratch}/tokenizer", Path(scratch) / f"{number}-{processes}")
                if processes > 1:  # the server that workers are forked from is up after the first tasks
                    began = Spent.now()
                    prepare_tasks(prepared, jobs[:processes], processes=processes)
                    spent.setdefault("  first start of two", []).append(began.until_now())
                    prepared = replace(prepared, folder=Path(scratch) / f"{number}-{processes}-again")
                began = Spent.now()
                done = prepare_tasks(prepared, jobs, processes=processes)
                assert done.examples == count
                spent.setdefault(f"processes: {processes}", []).append(began.until_now())
            began = Spent.now()
            plain_loop(prepared, names)
            spent.setdefault("a plain loop, nothing stored", []).append(began.until_now())
    table = Table("preparing", title=f"{count:,} examples of {len(names)} tasks", title_justify="left")
    for column in ("seconds", "of processors", "examples a second", "a processor's second"):
        table.add_column(column, justify="right")
    medians = {name: Spent(*(median(column) for column in zip(*runs, strict=True))) for name, runs in spent.items()}
    for name, each in medians.items():
        rate = "" if "start" in name else f"{count / each.wall:,.0f}"
        # Workers are forked from a server and are not children of this process, so that their time is unknown.
        alone = name not in ("  first start of two", "processes: 2")
        own = (f"{each.processor:.1f}", rate, f"{count / each.processor:,.0f}") if alone else ("", rate, "")
        table.add_row(name, f"{each.wall:.1f}", *own)
    Console().print(table)
    ours, peer = medians["processes: 1"], medians["a plain loop, nothing stored"]
    print_result(
        "preparation",
        ours=count / ours.processor,
        peer=count / peer.processor,
        unit="examples a second of processor time, one process; peer: the tokenizer in a loop",
        setting=f"{count} examples of {len(names)} tasks of {data_name()}, median of "
        f"{settings.rounds}; on the wall {count / ours.wall:.0f} by one process, "
        f"{count / medians['processes: 2'].wall:.0f} by two",
    )


if __name__ == "__main__":
    main()
