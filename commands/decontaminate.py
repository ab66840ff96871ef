"""Report the evaluation examples that share a run of words with training examples.

It writes report.md, and decisions.tsv: a table of pairs of tasks, in which you decide which training tasks to drop. The
argument `decisions` of the benchmark class Bench reads this table. All options of `crosstask fit` are accepted, and
those of the data are used.

Example:
    crosstask decontaminate --config quickstart --folder runs/quickstart/contamination
"""

from collections.abc import Sequence

from ..datamodules.atomic_files import write_whole
from ..datamodules.decontamination.contamination_report import THRESHOLD, compare, markdown, summary, write_decisions
from ..datamodules.decontamination.overlap import WORDS, index_evaluation, overlaps
from ..datamodules.messages import expanded
from .shared.run_settings import Settings, build_data, run_on_settings


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_on_settings(compare_examples, words)


def compare_examples(
    settings: Settings, folder: str = "contamination", n: int = WORDS, threshold: float = THRESHOLD, processes: int = 1
) -> None:
    """Report the evaluation examples that share `n` successive words with training examples, and write the decisions.

    Args:
        settings: Settings of the run.
        folder: Folder into which report.md and decisions.tsv are written; decisions in an existing table are kept.
        n: Number of successive words that must be equal.
        threshold: Share of an evaluation task's examples, in [0, 1], above which a pair of tasks is listed for a
            decision.
        processes: Number of processes that read and hash training tasks.

    Raises:
        ValueError: The folder has a report of another command, or `n` is below 1.
    """
    from rich.progress import track

    from ..datamodules.decontamination.task_texts import TaskTexts

    target = expanded(folder)
    if (target / "report.md").exists() and not (target / "decisions.tsv").exists():
        raise ValueError(f"{target / 'report.md'} was not written by `crosstask decontaminate`: name another folder")
    data = build_data(settings)
    texts = TaskTexts(data.benchmark, data.instances, data.seed)
    index = index_evaluation({name: texts.evaluation_documents(name) for name in texts.evaluation_tasks}, n)
    by_task = overlaps(index, texts.train_tasks, texts.training_documents, processes=processes)
    total = len(texts.train_tasks)
    comparison = compare(index, track(by_task, "Comparing", total=total, transient=True), threshold)
    target.mkdir(parents=True, exist_ok=True)
    write_decisions(target / "decisions.tsv", comparison.pairs)
    write_whole(target / "report.md", markdown(comparison))
    print(summary(comparison))
    print(f"read {target / 'report.md'}, and decide in {target / 'decisions.tsv'}")
