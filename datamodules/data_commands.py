"""Commands about a run's data that need no model: ``crosstask prepare``, ``describe`` and ``decontaminate``.

They read the same YAML as ``crosstask fit``, and of it the data alone.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning import LightningDataModule
from rich.progress import track

from . import benchmarks
from .messages import unknown_class_hint
from .decontamination.overlap import WORDS, index_evaluation, overlaps
from .decontamination.contamination_report import THRESHOLD, compare, markdown, summary, write_decisions
from .decontamination.task_texts import TaskTexts
from .instruction_tuning import InstructionTuningDataModule
from ..commands.shared.parser import RefusingParser

OTHERS = ("seed_everything", "trainer", "model", "optimizer", "lr_scheduler", "ckpt_path")
"""What else a YAML of Lightning may hold; it is read over."""


def prepare(words: Sequence[str]) -> None:
    """Render and tokenize the training tasks that the store lacks, over several processes.

    Args:
        words: What stands behind ``crosstask prepare``.
    """
    parser = _parser("Render and tokenize ahead of training what the store lacks; run it again after a kill.")
    parser.add_argument("--processes", type=int, default=1, help="Processes that read, render and tokenize.")
    settings, data = _parsed(parser, words)
    data.processes = settings.processes
    began = time.monotonic()
    data.prepare_data()
    seconds, done = time.monotonic() - began, data.prepared
    rate = f" ({done.examples / seconds:,.0f} a second)" if done.written else ""
    print(f"{done.written} tasks written, {done.found} found; {done.examples:,} examples in {seconds:.0f} s{rate}")
    print(f"store: {data.cache}")


def describe(words: Sequence[str]) -> None:
    """Print the mixture as a tree, and what became of the rules that split the tasks.

    Args:
        words: What stands behind ``crosstask describe``.
    """
    parser = _parser("Print the mixture of a run as a tree; prepares what the store lacks.")
    parser.add_argument("--depth", type=int, default=3, help="1 for benchmarks, 2 for categories, 3 for tasks.")
    settings, data = _parsed(parser, words)
    data.prepare_data()
    data.setup("fit")
    steps = int((settings.trainer or {}).get("max_steps", -1))
    print("\n".join([*data.split_lines(), *data.describe(steps if steps > 0 else None).lines(settings.depth)]))


def decontaminate(words: Sequence[str]) -> None:
    """Report which evaluation examples share a run of words with training, and keep a table of decisions about it.

    Args:
        words: What stands behind ``crosstask decontaminate``.
    """
    parser = _parser("Compare training with evaluation examples; judge the pairs of tasks in decisions.tsv.")
    parser.add_argument("--folder", type=str, default="contamination", help="For report.md and decisions.tsv.")
    parser.add_argument("--n", type=int, default=WORDS, help="Words that must be equal, one after another.")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="Share of a task's examples to judge from.")
    parser.add_argument("--processes", type=int, default=1, help="Processes that read and hash training tasks.")
    settings, data = _parsed(parser, words)
    texts = TaskTexts(data.benchmark, data.counts)
    index = index_evaluation({name: texts.evaluated(name) for name in texts.evaluation_tasks}, settings.n)
    found = overlaps(index, texts.train_tasks, texts.trained, processes=settings.processes)
    total = len(texts.train_tasks)
    comparison = compare(index, track(found, "Comparing", total=total, transient=True), settings.threshold)
    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(comparison), encoding="utf-8")
    write_decisions(folder / "decisions.tsv", comparison.pairs)
    print(summary(comparison))
    print(f"read {folder / 'report.md'}, and decide in {folder / 'decisions.tsv'}")


class _Parser(RefusingParser):
    """Answers the name of an unknown reader with the nearest known ones, as the trainer's commands do."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(message + unknown_class_hint(message, ["Bench", *benchmarks.__all__]), ex)


def _parser(description: str) -> ArgumentParser:
    parser = _Parser(description=description)
    parser.add_argument("--config", action="config", help="The YAML of a run; later ones override earlier ones.")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    for name in OTHERS:
        parser.add_argument(f"--{name}", type=Any, default=None, help="Read over.")
    return parser


def _parsed(parser: ArgumentParser, words: Sequence[str]) -> tuple[Namespace, InstructionTuningDataModule]:
    settings = parser.parse_args(list(words))
    data = parser.instantiate(settings).data
    if not isinstance(data, InstructionTuningDataModule):
        raise ValueError(f"only a datamodule with a store of tasks can be prepared, got {type(data).__name__}")
    return settings, data
