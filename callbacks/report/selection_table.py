"""The table of methods that choose among responses, for people and for programs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table

from ...lightning_modules.scoring.sampled_responses import SampledResponses
from ...lightning_modules.scoring.selection import ScoredResponses, choices
from ...lightning_modules.scoring.selection_scores import SelectionTable, selection_table

FIRST_DECODING = "nucleus"
"""The decoding whose first samples stand for fewer responses, as in Cappy's Table 5; of several generators, each's."""


def by_size(everything: Sequence[ScoredResponses], sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """Means of each method among fewer responses, by their number for each generator, and among all.

    A number that some example has no samples for is left out, which is told.
    """
    found = {}
    most = max(len(responses.samples) for responses in everything)
    for size in sizes:
        try:
            restricted = [responses.restricted(size, FIRST_DECODING) for responses in everything]
        except ValueError as error:
            rank_zero_info(f"no column for {size} of the responses: {error}")
            continue
        found[str(size)] = means(selection_table(restricted))
    return found | {str(most): means(selection_table(everything))}


def means(table: SelectionTable) -> dict[str, float]:
    """Mean of every method."""
    return dict(zip(table.methods, table.mean.tolist(), strict=True))


def to_json(table: SelectionTable) -> dict[str, Any]:
    """The table for programs; numbers that do not exist are null."""
    rows = zip(table.methods, table.mean, table.low, table.high, strict=True)
    return {
        "methods": {name: {"mean": m, "low": low, "high": high} for name, m, low, high in rows},
        "gains": {name: gain._asdict() for name, gain in table.gains.items()},
        "tasks": dict(zip(table.names, [means_of(table, row) for row in table.tasks], strict=True)),
        "instances": table.instances,
        "best_single": table.best_single,
        "scorers": {
            name: {"recovered": _known(table.recovered[name]), "spearman": _known(table.spearman[name])}
            for name in table.recovered
        },
        "rank_correlations": table.rank_correlations,
    }


def means_of(table: SelectionTable, row: np.ndarray) -> dict[str, float]:
    return dict(zip(table.methods, row.tolist(), strict=True))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_choices(path: Path, sampled: Sequence[SampledResponses], everything: Sequence[ScoredResponses]) -> None:
    """One line for each example: what every method chose, and all responses with quality and score."""
    with open(path, "w", encoding="utf-8") as out:
        for each, responses in zip(sampled, everything, strict=True):
            chosen = choices(responses)
            line = {
                "task": responses.task,
                "id": responses.id,
                "prompt": each.prompt.source,
                "references": list(each.prompt.example.targets),
                "choices": {name: responses.samples[place].response for name, place in chosen.items()},
                "responses": [
                    {
                        "response": sample.response,
                        "generator": sample.generator,
                        "decoding": sample.decoding,
                        "log_likelihood": sample.log_likelihood,
                        "tokens": sample.tokens,
                        "rouge_l": responses.quality[place],
                        "scores": {name: own[place] for name, own in responses.scores.items()},
                        "votes": {name: own[place] for name, own in responses.votes.items()},
                    }
                    for place, sample in enumerate(responses.samples)
                ],
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def print_table(table: SelectionTable, sizes: Mapping[str, Mapping[str, float]]) -> None:
    """Percent of ROUGE-L for people; gains are over the best single decoding, paired."""
    shown = Table(
        "chosen by",
        "ROUGE-L",
        "95%",
        f"over {table.best_single}",
        *(f"of {size}" for size in sizes),
        title=f"{table.instances} examples of {len(table.names)} tasks, percent, mean over tasks",
        title_justify="left",
    )
    for name, mean, low, high in zip(table.methods, table.mean, table.low, table.high, strict=True):
        gain = table.gains[name]
        shown.add_row(
            name,
            f"{mean:.2%}"[:-1],
            f"[{100 * low:.2f}, {100 * high:.2f}]",
            f"{100 * gain.mean:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]",
            *(f"{100 * own[name]:.2f}" if name in own else "" for own in sizes.values()),
        )
    console = Console()
    if not console.is_terminal:  # a log wraps no table
        console = Console(width=160)
    console.print(shown)
    for name, recovered in table.recovered.items():
        console.print(f"{name}: {_measured(table, name, recovered)}", highlight=False)
    if table.rank_correlations:
        console.print(
            f"Spearman of score and ROUGE-L is a mean of {table.rank_correlations} examples whose responses differ in "
            "quality",
            highlight=False,
        )


def _measured(table: SelectionTable, name: str, recovered: float) -> str:
    share = "nothing, as there is no gap" if np.isnan(recovered) else f"{recovered:.1%}"
    return (
        f"recovered of (oracle - {table.best_single}) {share}, Spearman of score and ROUGE-L {table.spearman[name]:.3f}"
    )
