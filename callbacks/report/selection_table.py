"""Output of response selection: a table for the terminal, JSON, and every example's choices."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table

from ...datamodules.atomic_files import whole_file
from ...datamodules.messages import some
from ...datamodules.visible_text import terminal_text
from ...lightning_modules.scoring.cross_encoder import PairCuts
from ...lightning_modules.scoring.sampled_responses import SampledResponses
from ...lightning_modules.scoring.selection import ScoredResponses, choices
from ...lightning_modules.scoring.selection_scores import SelectionTable, selection_table

FIRST_DECODING = "nucleus"
"""The decoding whose first samples form the smaller sets of responses, as in Cappy's Table 5; per generator."""


def by_size(everything: Sequence[ScoredResponses], sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the mean ROUGE-L of each method's choices among fewer responses, and among all of them.

    The keys are the numbers of nucleus samples of each generator to choose among, and the number of all responses. A
    number is left out and reported if an example has too few samples.

    Args:
        everything: The responses to each example, with their scores.
        sizes: Numbers of nucleus samples.
    """
    means_by_size = {}
    most = max(len(responses.samples) for responses in everything)
    for size in sizes:
        try:
            restricted = [responses.restricted(size, FIRST_DECODING) for responses in everything]
        except ValueError as error:
            rank_zero_info(f"no column for {size} responses: {error}")
            continue
        means_by_size[str(size)] = means(selection_table(restricted))
    return means_by_size | {str(most): means(selection_table(everything))}


def means(table: SelectionTable) -> dict[str, float]:
    """Return the mean quality of every method, by its name."""
    return dict(zip(table.methods, table.mean.tolist(), strict=True))


def to_json(table: SelectionTable) -> dict[str, Any]:
    """Return the table as JSON values; undefined numbers are null."""
    rows = zip(table.methods, table.mean, table.low, table.high, strict=True)
    return {
        "methods": {name: {"mean": m, "low": low, "high": high} for name, m, low, high in rows},
        "gains": {name: gain._asdict() for name, gain in table.gains.items()},
        "tasks": dict(zip(table.names, [means_of(table, row) for row in table.tasks], strict=True)),
        "instances": table.instances,
        "best_single": table.best_single,
        "scorers": {
            name: {"recovered": _none_if_nan(table.recovered[name]), "spearman": _none_if_nan(table.spearman[name])}
            for name in table.recovered
        },
        "rank_correlations": table.rank_correlations,
        "unread": table.unread,
        "left_out": table.left_out,
    }


def means_of(table: SelectionTable, row: np.ndarray) -> dict[str, float]:
    """Return the numbers of one row of the table, [methods], by the method's name."""
    return dict(zip(table.methods, row.tolist(), strict=True))


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_choices(path: Path, sampled: Sequence[SampledResponses], everything: Sequence[ScoredResponses]) -> None:
    """Write a line for each example: every method's choice, and all responses with ROUGE-L and scores.

    Args:
        path: Output file.
        sampled: The examples with their responses.
        everything: The same examples in the same order, their responses with scores.
    """
    with whole_file(path) as out:
        for example, responses in zip(sampled, everything, strict=True):
            line = {
                "task": responses.task,
                "id": responses.id,
                "prompt": example.prompt.source,
                "references": list(example.prompt.example.targets),
                "choices": {name: responses.samples[place].response for name, place in choices(responses).items()},
                "responses": [_response_record(responses, place) for place in range(len(responses.samples))],
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _response_record(responses: ScoredResponses, place: int) -> dict[str, Any]:
    """A response with its generator, likelihood, ROUGE-L and scores."""
    sample = responses.samples[place]
    return {
        "response": sample.response,
        "generator": sample.generator,
        "decoding": sample.decoding,
        "log_likelihood": sample.log_likelihood,
        "tokens": sample.tokens,
        "rouge_l": responses.quality[place],
        "scores": {name: scores[place] for name, scores in responses.scores.items()},
        "votes": {name: votes[place] for name, votes in responses.votes.items()},
    }


def cut_remarks(cuts: Mapping[str, PairCuts]) -> list[str]:
    """Return a sentence on the truncated pairs of each scorer; none for a scorer without truncated pairs."""
    return [
        f"{name}: {own.cut} of {own.pairs} pairs were too long and were cut, {own.response_cut} of them in the "
        f"response, and {own.equal} differ from another one only in the part that was cut"
        for name, own in cuts.items()
        if own.cut
    ]


def untested_remarks(untested: int, tested: int) -> list[str]:
    """Return a sentence on sampled instances that were not tested; none if all were."""
    return [f"{tested} of {tested + untested} sampled instances were tested"] if untested else []


def print_table(
    table: SelectionTable,
    sizes: Mapping[str, Mapping[str, float]],
    *,
    failed: int = 0,
    remarks: Sequence[str] = (),
) -> None:
    """Print ROUGE-L in percent, and paired gains over the best single decoding.

    Args:
        table: Quality of each method's choices.
        sizes: Means of each method, by the number of responses.
        failed: Number of tasks without a result.
        remarks: Sentences below the table.
    """
    console = Console()
    if not console.is_terminal:  # logs do not wrap tables
        console = Console(width=160)
    tasks = f"{len(table.names)} of {len(table.names) + failed}" if failed else str(len(table.names))
    console.print(_methods_table(table, sizes, tasks))
    for name, recovered in table.recovered.items():
        console.print(terminal_text(f"{name}: {_scorer_text(table, name, recovered)}"), highlight=False)
    if table.rank_correlations:
        console.print(
            f"Spearman of score and ROUGE-L is a mean over {table.rank_correlations} examples whose responses differ "
            "in ROUGE-L",
            highlight=False,
        )
    for line in [*table_remarks(table), *remarks]:
        console.print(terminal_text(line), highlight=False)


def table_remarks(table: SelectionTable) -> list[str]:
    """Return sentences on what a table leaves out or cannot score; none if there is nothing."""
    lines = []
    if table.left_out:
        rows = some([f"{name} ({count} of {table.instances})" for name, count in table.left_out.items()])
        lines.append(f"Without a row are methods that not all instances have responses for: {rows}")
    return [*lines, unread_text(table)] if table.unread else lines


def unread_text(table: SelectionTable) -> str:
    """Return a sentence on instances with references that ROUGE-L cannot read, by task, with the way out."""
    tasks = some([f"{name} ({count})" for name, count in table.unread.items()])
    return (
        "Unread: ROUGE-L reads the letters a to z and digits only, and less than half of the letters of the references "
        f"of {sum(table.unread.values())} of {table.instances} instances: {tasks}. A right response may score 0 there; "
        "`--rouge unicode` reads all scripts."
    )


def _methods_table(table: SelectionTable, sizes: Mapping[str, Mapping[str, float]], tasks: str) -> Table:
    """A row for each method: its mean with interval, its gain, and its means with fewer responses."""
    methods = Table(
        *("chosen by", "ROUGE-L", "95%", terminal_text(f"over {table.best_single}"), *(f"of {size}" for size in sizes)),
        title=f"{table.instances} examples of {tasks} tasks, percent, mean over these tasks",
        title_justify="left",
    )
    for name, mean, low, high in zip(table.methods, table.mean, table.low, table.high, strict=True):
        gain = table.gains[name]
        methods.add_row(
            terminal_text(name),
            f"{100 * mean:.2f}",
            f"[{100 * low:.2f}, {100 * high:.2f}]",
            f"{100 * gain.mean:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]",
            *(f"{100 * means[name]:.2f}" if name in means else "" for means in sizes.values()),
        )
    return methods


def _scorer_text(table: SelectionTable, name: str, recovered: float) -> str:
    """Return a sentence on the share of the gap to the oracle that a scorer recovers, and its rank correlation."""
    share = "nothing, as there is no gap" if np.isnan(recovered) else f"{recovered:.1%}"
    rank = table.spearman[name]
    rank_text = "undefined, as no example has responses that differ in it" if np.isnan(rank) else f"{rank:.3f}"
    return f"recovered of (oracle - {table.best_single}) {share}, Spearman of score and ROUGE-L {rank_text}"
