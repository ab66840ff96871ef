"""Loss curve of the pre-training of a small T5, and its loss on the text of unseen tasks.

    crosstask fit --config t5_small_pretraining       # interruptible; then, with the folder of the run,
    python experiments/pretrained_t5.py runs/t5_small/pretraining/version_0 runs/t5_small/measured

Prints the mean loss of a target token, in nats, of the trained model, of the same model with random weights, and of a
unigram model: the frequencies of the target tokens in training, each counted once more. Every task counts equally, by
its first documents; the 95% interval covers other tasks. ``loss.svg`` shows the loss of the run's steps beside the
unigram model's. Without an exported folder in the run, --model names one (``crosstask export``).
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from shared_runs import t_interval

from crosstask.callbacks.report.figure_style import COLORS, PALE, new_figure, styled, write_figure
from crosstask.commands.shared.run_settings import build_data
from crosstask.commands.shared.settings_reader import SettingsReader
from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.packing.collate import Seq2SeqRows
from crosstask.datamodules.schema import TokenizedExample
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.target_loss import target_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, with config.yaml and metrics.csv")
    parser.add_argument("output", type=Path, help="folder of the figure")
    parser.add_argument("--model", type=Path, help="folder of the model; the run's huggingface if left out")
    parser.add_argument("--documents", type=int, default=4, help="documents of each task")
    arguments = parser.parse_args()
    folder = arguments.model or arguments.run / "huggingface"
    config = str(arguments.run / "config.yaml")
    training = datamodule("--config", config)
    unigram = unigram_losses(target_counts(training))
    unseen = datamodule("--config", config, "--data.init_args.benchmark.init_args.split", "test")
    tasks = list(first_documents(unseen, arguments.documents))
    losses = {
        "unigram": [mean_loss(unigram, documents) for documents in tasks],
        "random weights": model_losses(unseen, tasks, folder, trained=False),
        "trained": model_losses(unseen, tasks, folder, trained=True),
    }
    print(table(losses))
    steps, values = training_losses(arguments.run / "metrics.csv")
    figure = loss_curve(steps, values, float(np.mean(losses["unigram"])))
    write_figure(figure, arguments.output / "loss.svg", "Loss of the small T5 over its pre-training")


def datamodule(*words: str) -> InstructionTuningDataModule:
    """Return the prepared data of a run."""
    data = build_data(SettingsReader("pretrained_t5", words).settings)
    assert isinstance(data, InstructionTuningDataModule)
    data.prepare_data()
    data.setup("fit")
    return data


def first_documents(data: InstructionTuningDataModule, count: int) -> Iterator[list[TokenizedExample]]:
    """Yield the first documents of each task, without its very first one, which is the definition."""
    names = data.training_tasks.with_documents()
    for stored in data.training_tasks.open(names):
        yield [stored.document(index) for index in range(1, min(1 + count, len(stored)))]


def target_counts(data: InstructionTuningDataModule) -> NDArray[np.int64]:
    """Return int64 [V]: how often each token is a target of the training documents."""
    counts = np.zeros(len(data.preparation.tokenizer), dtype=np.int64)
    for stored in data.training_tasks.open(data.training_tasks.with_documents()):
        for index in range(len(stored)):
            document = stored.document(index)
            counts += np.bincount(document.input_ids[document.n_source :], minlength=len(counts))
    return counts


def unigram_losses(counts_V: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return float64 [V]: loss of each token in nats by its frequency, where every token is counted once more.

    >>> np.exp(-unigram_losses(np.array([1, 0, 5])))
    array([0.22222222, 0.11111111, 0.66666667])
    """
    return -np.log((counts_V + 1) / (counts_V + 1).sum())


def mean_loss(losses_V: NDArray[np.float64], documents: Sequence[TokenizedExample]) -> float:
    """Return the mean loss per target token of documents."""
    return float(np.concatenate([losses_V[one.input_ids[one.n_source :]] for one in documents]).mean())


def model_losses(
    data: InstructionTuningDataModule, tasks: Sequence[Sequence[TokenizedExample]], folder: Path, *, trained: bool
) -> list[float]:
    """Return the mean loss per target token of each task's documents, with one document per row."""
    tokenizer = data.preparation.tokenizer
    config = model_config(str(folder), vocabulary=len(tokenizer), dropout=None)
    torch.manual_seed(0)
    model = build_model(
        config,
        weights=str(folder) if trained else None,
        vocabulary=len(tokenizer),
        attention="document",
        dtype=torch.float32,
    ).eval()
    losses = []
    for documents in tasks:
        sources, targets = zip(*((one.n_source, len(one.input_ids) - one.n_source) for one in documents), strict=True)
        rows = Seq2SeqRows(max(sources), max(targets), tokenizer.pad_token_id)
        with torch.no_grad():
            loss = target_loss(model, rows.collate([[document] for document in documents], 1))
        losses.append(float(loss.sum / loss.targets))
    return losses


def table(losses: dict[str, list[float]]) -> str:
    """Return a Markdown table of the means over tasks, with their intervals."""
    lines = [f"| loss of {len(losses['trained'])} unseen tasks | mean [95% interval] |", "|---|---|"]
    for name, values in losses.items():
        mean, low, high = t_interval(values)
        lines.append(f"| {name} | {mean:.2f} [{low:.2f}, {high:.2f}] |")
    return "\n".join(lines)


def training_losses(path: Path) -> tuple[list[int], list[float]]:
    """Return the steps and losses of a run's log."""
    with open(path, encoding="utf-8") as file:
        rows = [(int(row["step"]) + 1, float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
    return [step for step, _ in rows], [loss for _, loss in rows]


@styled
def loss_curve(steps: Sequence[int], losses: Sequence[float], unigram: float) -> Figure:
    """Return a figure of the loss over the steps of a run, beside the unigram model's loss."""
    figure, axes = new_figure(3.2, margins=(0.6, 0.2, 0.5, 0.15))
    axes.plot(steps, losses, color=COLORS[0])
    axes.axhline(unigram, color=PALE, linestyle="--")
    axes.annotate("unigram model, unseen tasks", (steps[0], unigram), ha="left", va="top", color=PALE)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("training loss (nats a target token)")
    axes.grid()
    return figure


if __name__ == "__main__":
    main()
