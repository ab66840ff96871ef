"""The command ``crosstask select``: candidates from files of samples, scored, chosen, and reported in one table."""

import json
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table

from ...datamodules.scoring.pair_rows import Truncation
from ...datamodules.scoring.sampled_examples import SampledExamples, SampledPrompt
from ...datamodules.scoring.samples import ModelSamples, Sample
from .calibration import Calibration, load_calibration
from .cross_encoder import CrossEncoder
from .selection import SCORER, Candidates, SelectionTable, calibrated_name, choices, correctness_votes, preference_votes, selection_table, vote_name

FIRST_DECODING = "nucleus"
"""The decoding whose first samples stand for fewer candidates, as in Cappy's Table 5; of several generators, each's."""


class Asked(NamedTuple):
    """An example with its candidates, before they are scored."""

    prompt: SampledPrompt
    samples: Sequence[Sample]


def select_samples(
    examples: SampledExamples,
    samples: list[str],
    output: str,
    scorer: str | None = None,
    max_length: int = 512,
    truncation: Truncation = "instruction",
    device: str = "cpu",
    sizes: Sequence[int] = (1, 4),
) -> None:
    """Choose among the candidates of every example by each method, and print what each choice is worth.

    Samples of several generators are candidates together; single decodings are then named by their generator, too.

    Args:
        examples: Which examples, and how they are rendered: as the scorer's training instructions were.
        samples: JSONL files of candidates, e.g. from ``crosstask samples``.
        output: Folder for ``selection.json`` (the table) and ``choices.jsonl`` (every example's choices, to be read).
        scorer: Hub name or folder of a trained scorer; without one, the other methods are compared. A calibration that
            lies in the folder is used.
        max_length: Most tokens of an instruction with a response.
        truncation: What a longer pair loses.
        device: Where the scorer runs.
        sizes: Also choose among so many nucleus samples alone.
    """
    asked = candidates_of_files(examples, ModelSamples(samples))
    scores: list[dict[str, Sequence[float]]] = [{}] * len(asked)
    known: dict[str, Calibration] = {}
    if scorer is not None:
        encoder = CrossEncoder.from_pretrained(scorer, device=device, max_length=max_length, truncation=truncation)
        scores = [{SCORER: own} for own in score_asked(encoder, asked)]
        if calibration := load_calibration(scorer):
            known = {SCORER: calibration}
    everything = [to_candidates(each, own, calibrations=known) for each, own in zip(asked, scores, strict=True)]
    table = selection_table(everything)
    folder = Path(output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    found = to_json(table) | {"sizes": by_size(everything, sizes)}
    (folder / "selection.json").write_text(json.dumps(found, indent=1))
    write_choices(folder / "choices.jsonl", asked, everything)
    print_table(table, found["sizes"])


def candidates_of_files(examples: SampledExamples, samples: ModelSamples) -> list[Asked]:
    """Every example with its candidates, in the order of the examples.

    Raises:
        ValueError: An example has no candidate, or there is no example.
    """
    asked = [Asked(each, samples.samples(each.task.name).get(each.example.id, ())) for each in examples.prompts()]
    if not asked:
        raise ValueError(
            "there is no example to choose for: no instance of these tasks can be asked, or none is wanted"
        )
    if missing := [each.prompt for each in asked if not each.samples]:
        raise ValueError(
            f"{len(missing)} of {len(asked)} examples have no candidate in {', '.join(samples.files)}, e.g. "
            f"{(missing[0].task.name, missing[0].example.id)}: finish the samples, or name the parts and counts that "
            "they were made for"
        )
    counts = Counter(name for each in asked for name in {sample.generator for sample in each.samples})
    for each in asked:
        _require_different(each)
    if partial := [f"{name} {count}" for name, count in counts.items() if count < len(asked)]:
        warnings.warn(
            f"not every generator answered all {len(asked)} examples ({', '.join(partial)}): rows of single decodings "
            "that some example lacks are left out",
            stacklevel=2,
        )
    if len(counts) > 1:
        return [each._replace(samples=[_named_by_generator(sample) for sample in each.samples]) for each in asked]
    return asked


def _require_different(asked: Asked) -> None:
    """Refuse two files whose generators have one name. A file of somebody else's program may number no samples."""
    names = Counter((each.generator, each.decoding, each.sample) for each in asked.samples if each.sample)
    if twice := [name for name, count in names.items() if count > 1]:
        generator, decoding, _ = twice[0]
        raise ValueError(
            f"{asked.prompt.task.name} {asked.prompt.example.id} has samples of {decoding} by {generator!r} twice: "
            "give generators different names (crosstask samples --name)"
        )


def _named_by_generator(sample: Sample) -> Sample:
    return sample._replace(decoding=f"{sample.generator} {sample.decoding}")


def score_asked(encoder: CrossEncoder, asked: Sequence[Asked]) -> list[list[float]]:
    """The scorer's scores of every example's candidates; an instruction is read as the scorer's training reads it."""
    pairs = [(each.prompt.source.strip(), sample.response) for each in asked for sample in each.samples]
    flat = iter(encoder.score([instruction for instruction, _ in pairs], [response for _, response in pairs]).tolist())
    return [[next(flat) for _ in each.samples] for each in asked]


def to_candidates(
    asked: Asked,
    scores: Mapping[str, Sequence[float]] = MappingProxyType({}),
    *,
    ranked: Collection[str] = (),
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
) -> Candidates:
    """The candidates of an example with their quality and scores.

    Args:
        asked: The example.
        scores: Of each scorer.
        ranked: Scorers of a ranking loss, whose scores have no level.
        calibrations: What the scores of some are worth.
    """
    example = asked.prompt.example
    found = {name: np.array(own, dtype=float) for name, own in scores.items()}
    votes = {}
    for name, own in found.items():
        votes[vote_name(name)] = preference_votes(own) if name in ranked else correctness_votes(own)
        if name in calibrations:
            votes[calibrated_name(name)] = correctness_votes(calibrations[name](own))
    return Candidates.of(asked.prompt.task.name, example.id, asked.samples, example.targets, found, votes)


def by_size(everything: Sequence[Candidates], sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """Means of each method among fewer candidates, by their number for each generator, and among all.

    A number that some example has no samples for is left out, which is told.
    """
    found = {}
    most = max(len(candidates.samples) for candidates in everything)
    for size in sizes:
        try:
            restricted = [candidates.restricted(size, FIRST_DECODING) for candidates in everything]
        except ValueError as error:
            rank_zero_info(f"no column for {size} of the candidates: {error}")
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


def write_choices(path: Path, asked: Sequence[Asked], everything: Sequence[Candidates]) -> None:
    """One line for each example: what every method chose, and all candidates with quality and score."""
    with open(path, "w", encoding="utf-8") as out:
        for each, candidates in zip(asked, everything, strict=True):
            chosen = choices(candidates)
            line = {
                "task": candidates.task,
                "id": candidates.id,
                "prompt": each.prompt.source,
                "references": list(each.prompt.example.targets),
                "choices": {name: candidates.samples[place].response for name, place in chosen.items()},
                "candidates": [
                    {
                        "response": sample.response,
                        "generator": sample.generator,
                        "decoding": sample.decoding,
                        "log_likelihood": sample.log_likelihood,
                        "tokens": sample.tokens,
                        "rouge_l": candidates.quality[place],
                        "scores": {name: own[place] for name, own in candidates.scores.items()},
                        "votes": {name: own[place] for name, own in candidates.votes.items()},
                    }
                    for place, sample in enumerate(candidates.samples)
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
            f"Spearman of score and ROUGE-L is a mean of {table.rank_correlations} examples whose candidates differ in "
            "quality",
            highlight=False,
        )


def _measured(table: SelectionTable, name: str, recovered: float) -> str:
    share = "nothing, as there is no gap" if np.isnan(recovered) else f"{recovered:.1%}"
    return (
        f"recovered of (oracle - {table.best_single}) {share}, Spearman of score and ROUGE-L {table.spearman[name]:.3f}"
    )
