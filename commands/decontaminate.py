"""``crosstask decontaminate``: report which evaluation examples share a run of words with training."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from ..datamodules.decontamination.contamination_report import THRESHOLD, compare, markdown, summary, write_decisions
from ..datamodules.decontamination.overlap import WORDS, index_evaluation, overlaps
from ..datamodules.decontamination.task_texts import TaskTexts
from .shared.run_data import data_parser, parsed_data


def decontaminate(words: Sequence[str]) -> None:
    """Report which evaluation examples share a run of words with training, and keep a table of decisions about it.

    Args:
        words: What stands behind ``crosstask decontaminate``.
    """
    parser = data_parser("Compare training with evaluation examples; judge the pairs of tasks in decisions.tsv.")
    parser.add_argument("--folder", type=str, default="contamination", help="For report.md and decisions.tsv.")
    parser.add_argument("--n", type=int, default=WORDS, help="Words that must be equal, one after another.")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="Share of a task's examples to judge from.")
    parser.add_argument("--processes", type=int, default=1, help="Processes that read and hash training tasks.")
    settings, data = parsed_data(parser, words)
    texts = TaskTexts(data.benchmark, data.instances, data.seed)
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
