"""Choose among sampled responses by a scorer and by other methods.

It prints the ROUGE-L of each method's choices against the references. The methods are the scorer, the language model's
likelihood, self-consistency, minimum Bayes risk, and each decoding by itself. Without --scorer, those that need no
scorer are compared. An interrupted run resumes when the command is run again. The processes of a job (torchrun, or
tasks of SLURM or its arrays) share the examples that the scorer reads.

Example:
    crosstask select --config examples.yaml --samples '[runs/samples/model-0000-of-0001.jsonl]' --scorer runs/scorer \\
      --output runs/selection
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from ..callbacks.report.selection_table import (
    by_size,
    cut_remarks,
    print_table,
    to_json,
    untested_remarks,
    write_choices,
)
from ..datamodules.atomic_files import require_new, whole_file
from ..datamodules.messages import expanded
from ..datamodules.packing.replicas import process_of_job
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rouge import Rouge
from ..datamodules.scoring.instruction_truncation import Cut
from ..datamodules.scoring.pair_rows import Truncation
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import ModelSamples
from ..lightning_modules.devices import number_type, process_device, scorer_type
from ..lightning_modules.model_digest import model_digest
from ..lightning_modules.scoring.calibration import Calibration, load_calibration
from ..lightning_modules.scoring.cross_encoder import CrossEncoder, PairCuts
from ..lightning_modules.scoring.sampled_responses import (
    SampledResponses,
    read_sampled_responses,
    score_responses,
    to_scored_responses,
)
from ..lightning_modules.scoring.score_files import ItemScores, ScoreFiles
from ..lightning_modules.scoring.selection import SCORER, ScoredResponses
from ..lightning_modules.scoring.selection_scores import selection_table
from .shared.function_command import run_function
from .shared.score_progress import finished_scores, score_progress

TABLE, CHOICES = "selection.json", "choices.jsonl"


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(select_samples, words, benchmarks=True)


def select_samples(
    examples: SampledExamples,
    samples: list[str | Path],
    output: str | Path,
    scorer: str | None = None,
    max_length: int | None = None,
    truncation: Truncation = "instruction",
    cut: Cut = "middle",
    chat: bool = False,
    budget: int = 8192,
    dtype: str | None = None,
    device: str | None = None,
    sizes: Sequence[int] = (1, 4),
    rouge: Rouge = "exact",
) -> None:
    """Choose among the responses of every example by each method, and print the methods' scores.

    Samples of several generators are joined; the names of single decodings then include the generator. An interrupted
    run resumes when the command is run again. The processes of a job share the examples, each on its device, and the
    one that finishes the last batch writes the table.

    Args:
        examples: The examples, rendered as the scorer's training instructions were.
        samples: JSONL files of responses, e.g. from `crosstask samples`, or folders of them.
        output: Folder of ``selection.json`` (the table) and ``choices.jsonl`` (the choices for every example), which
            are never overwritten, and of ``scores``, the scorer's scores, a file for each process.
        scorer: Hub name or folder of a trained scorer, with its calibration if the folder has one; null compares
            only the methods that need none.
        max_length: Maximum number of tokens of an instruction and a response together; longer pairs are truncated.
            By default 512, or all positions of a scorer that has fewer.
        truncation: Side of a long pair that is cut: ``instruction``, or ``longest_first`` for the longer side, as in
            Cappy's released program.
        cut: Part of a long instruction that is cut: ``middle``, ``end`` (as in the released program) or ``beginning``.
        chat: Whether the scorer reads pairs in its tokenizer's chat template, as reward models of chat models do.
        budget: Maximum number of tokens of a batch; it changes speed and memory, not scores.
        dtype: Type of the scorer's parameters; its head stays in float32. By default bfloat16 on a GPU, whose packed
            attention needs half precision, and float32 on a CPU.
        device: Device of the scorer, e.g. cuda:1; by default the GPU of the process if it has one.
        sizes: Numbers of nucleus samples; the table also has the scores of choosing among this many of them alone.
        rouge: Implementation of ROUGE-L: ``exact`` equals Google's ``rouge_score``, and both read a to z and digits
            only; ``unicode`` reads all scripts.
    """
    console, folder = Console(), expanded(output)
    require_new_selection(folder)
    require_positive("select", max_length=max_length, budget=budget, sizes=min(sizes, default=1))
    files = ModelSamples(samples)
    sampled = read_sampled_responses(examples, files)
    scored: ScorerResults | None = None
    if scorer is not None:
        reading: dict[str, Any] = {"max_length": max_length, "truncation": truncation, "cut": cut, "chat": chat}
        scored = score_share(
            sampled,
            scorer,
            folder / "scores",
            reading,
            scorer_type(dtype, device),
            device,
            budget=budget,
            console=console,
        )
        if scored is None:
            return
    elif process_of_job().rank:  # there is nothing to share
        return
    cuts = {SCORER: scored.scores.cuts} if scored else {}
    untested = files.examples_beyond(tested_examples(sampled))
    write_selection(folder, sampled, with_scores(sampled, scored, rouge), sizes, cuts, untested)


def require_new_selection(folder: Path) -> None:
    """Reject an output folder that has ``selection.json`` or ``choices.jsonl``, since neither is overwritten.

    A killed command may leave ``choices.jsonl`` and an unfinished ``.selection.json.*.part`` without
    ``selection.json``. In this case ``choices.jsonl`` is deleted, and the folder is accepted.

    Raises:
        ValueError: One of the two files exists.
    """
    if any(folder.glob(f".{TABLE}.*.part")) and not (folder / TABLE).exists():
        (folder / CHOICES).unlink(missing_ok=True)
    for name in (TABLE, CHOICES):
        require_new(folder / name)


class ScorerResults(NamedTuple):
    """Results of a scorer on all examples.

    Args:
        scores: Scores of the responses to each example, in the order of the examples.
        calibration: Map from scores to correctness that was fitted in the scorer's training; None without one.
    """

    scores: ItemScores
    calibration: Calibration | None


def with_scores(
    sampled: Sequence[SampledResponses], results: ScorerResults | None, rouge: Rouge
) -> list[ScoredResponses]:
    """Return the responses to each example with all that selection methods need, in the order of the examples.

    These are the scorer's score of each response, the response's quality (ROUGE-L against the references), and its
    weights in self-consistency and minimum Bayes risk.

    Args:
        sampled: The examples with their responses.
        results: Results of the scorer; None without a scorer.
        rouge: Implementation of ROUGE-L, by which responses are compared with the references.
    """
    scores = results.scores.scores if results else None
    calibrations = {SCORER: results.calibration} if results and results.calibration else {}
    return [
        to_scored_responses(
            responses, {} if scores is None else {SCORER: scores[place]}, calibrations=calibrations, rouge=rouge
        )
        for place, responses in enumerate(sampled)
    ]


def score_share(
    sampled: Sequence[SampledResponses],
    scorer: str,
    folder: Path,
    reading: Mapping[str, Any],
    dtype: str,
    device: str | None,
    *,
    budget: int,
    console: Console,
) -> ScorerResults | None:
    """Score this process's share of the examples, and return the scorer's results on all examples.

    The result is None if other processes have not finished their shares.

    Args:
        sampled: The examples of all processes, with their responses.
        scorer: Hub name or folder of the scorer.
        folder: Folder into which the scores are written.
        reading: Arguments of ``CrossEncoder.from_pretrained`` that decide how pairs are read.
        dtype: Type of the scorer's parameters.
        device: Device of the scorer; None for the GPU of the process if it has one.
        budget: Maximum number of tokens of a batch.
        console: Console to print progress to.
    """
    settings = {**reading, "dtype": dtype, "weights": model_digest(scorer)}
    written = ScoreFiles(folder, SCORER, settings, sampled)
    placed: dict[str, Any] = {"device": process_device(device), "dtype": number_type(dtype)}
    encoder = CrossEncoder.from_pretrained(scorer, tokens_per_forward=budget, **placed, **reading)
    written.write(partial(score_items, encoder), score_progress(console, scorer, "examples", written.share()))
    finished = finished_scores(console, {SCORER: written})
    return None if finished is None else ScorerResults(finished[SCORER], load_calibration(scorer))


def tested_examples(sampled: Sequence[SampledResponses]) -> dict[str, set[str]]:
    """Return the ids of the examples that are tested, by the name of their task."""
    tested: dict[str, set[str]] = {}
    for one in sampled:
        tested.setdefault(one.prompt.task.name, set()).add(one.prompt.example.id)
    return tested


def write_selection(
    folder: Path,
    sampled: Sequence[SampledResponses],
    scored: Sequence[ScoredResponses],
    sizes: Sequence[int],
    cuts: Mapping[str, PairCuts],
    untested: int,
) -> None:
    """Write the quality of each method's choices (selection.json) and the choices (choices.jsonl); print the quality.

    Methods are the single decodings, self-consistency, minimum Bayes risk and, where they exist, the likelihood of the
    language model and the scorer.

    Args:
        folder: Folder of the files.
        sampled: The examples with their responses.
        scored: The responses with their scores, in the same order.
        sizes: Numbers of nucleus samples; the table has the scores of choosing among this many of them alone.
        cuts: Numbers of truncated pairs, by scorer.
        untested: Number of sampled examples that are not among `sampled`.
    """
    table, means = selection_table(scored), by_size(scored, sizes)
    selection = to_json(table) | {
        "sizes": means,
        "cuts": {name: of._asdict() for name, of in cuts.items()},
        "untested": untested,
    }
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(folder / TABLE) as file:  # begun before the choices, so that a killed command is recognized
            file.write(json.dumps(selection, indent=1))
            write_choices(folder / CHOICES, sampled, scored)
    except BaseException:
        if not (folder / TABLE).exists():  # half a result would keep the command from running again
            (folder / CHOICES).unlink(missing_ok=True)
        raise
    print_table(table, means, remarks=[*cut_remarks(cuts), *untested_remarks(untested, len(sampled))])


def score_items(encoder: CrossEncoder, sampled: Sequence[SampledResponses]) -> ItemScores:
    """Return the scores of the responses to some examples, and the numbers of truncated pairs."""
    encoder.forget_cuts()
    return ItemScores(score_responses(encoder, sampled), encoder.cuts, encoder.cut_pairs.remainders)
