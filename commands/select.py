"""Choose among sampled responses by a scorer and by other methods.

It prints what the choices of each method score against the references. Without --scorer the other methods are compared.
Started again, it resumes where it was interrupted. The processes of a job (torchrun, or tasks of SLURM or its arrays)
share the examples that the scorer reads.

Example:
    crosstask select --config examples.yaml --samples '[runs/samples/model-0000-of-0001.jsonl]' --scorer runs/scorer \\
      --output runs/selection
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from ..callbacks.report.selection_table import (
    by_size,
    cut_remarks,
    print_table,
    to_json,
    untested_remarks,
    write_choices,
)
from ..datamodules.messages import expanded
from ..datamodules.packing.replicas import process_of_job
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rouge import Rouge
from ..datamodules.scoring.instruction_cuts import Cut
from ..datamodules.scoring.pair_rows import Truncation
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import ModelSamples
from ..datamodules.whole_files import require_new, write_whole
from ..lightning_modules.model_digest import model_digest
from ..lightning_modules.scoring.calibration import Calibration, load_calibration
from ..lightning_modules.scoring.cross_encoder import CrossEncoder, PairCuts
from ..lightning_modules.scoring.devices import number_type, process_device
from ..lightning_modules.scoring.sampled_responses import (
    SampledResponses,
    read_sampled_responses,
    score_responses,
    to_scored_responses,
)
from ..lightning_modules.scoring.score_files import ItemScores, ScoreFiles
from ..lightning_modules.scoring.selection import SCORER
from ..lightning_modules.scoring.selection_scores import selection_table
from .shared.function_command import run_function
from .shared.score_progress import finished_scores, score_progress


def run(words: Sequence[str]) -> None:
    """Choose by the words of a command line."""
    run_function(select_samples, words, benchmarks=True)


def select_samples(
    examples: SampledExamples,
    samples: list[str | Path],
    output: str | Path,
    scorer: str | None = None,
    max_length: int = 512,
    truncation: Truncation = "instruction",
    cut: Cut = "middle",
    chat: bool = False,
    budget: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    sizes: Sequence[int] = (1, 4),
    rouge: Rouge = "exact",
) -> None:
    """Choose among the responses of every example by each method, and print the methods' scores.

    Samples of several generators are joined; the names of single decodings then include the generator. Started again,
    it resumes where it was interrupted. The processes of a job share the examples, each on its device, and the one that
    finishes the last batch writes the table.

    Args:
        examples: The examples, rendered as the scorer's training instructions were.
        samples: JSONL files of responses, e.g. from ``crosstask samples``, or folders of them.
        output: Folder of ``selection.json`` (the table) and ``choices.jsonl`` (the choices for every example), which
            are never overwritten, and of ``scores``, the scorer's scores, a file for each process.
        scorer: Hub name or folder of a trained scorer; without one, the other methods are compared. A calibration in
            the folder is used.
        max_length: Tokens of the longest pair of instruction and response.
        truncation: What is cut from a longer pair: the instruction, or the longer side.
        cut: The part of a too long instruction that is cut; Cappy's released program cuts the end.
        chat: Whether the scorer reads pairs in its tokenizer's chat template, as reward models of chat models do.
        budget: Tokens of the largest batch.
        dtype: Type of the scorer's parameters; its head remains in float32.
        device: Device of the scorer, e.g. cuda:1; by default the GPU of the process if it has one.
        sizes: Also choose among these numbers of nucleus samples alone.
        rouge: Implementation of ROUGE-L: exact equals Google's rouge_score, and both read a to z and digits only;
            unicode reads all scripts.
    """
    console, folder = Console(), expanded(output)
    for name in ("selection.json", "choices.jsonl"):
        require_new(folder / name)
    require_positive("select", max_length=max_length, budget=budget, sizes=min(sizes, default=1))
    files = ModelSamples(samples)
    sampled = read_sampled_responses(examples, files)
    scores: list[dict[str, Sequence[float]]] = [{}] * len(sampled)
    calibrations: dict[str, Calibration] = {}
    cuts: dict[str, PairCuts] = {}
    if scorer is not None:
        reading = {"max_length": max_length, "truncation": truncation, "cut": cut, "chat": chat, "dtype": dtype}
        written = ScoreFiles(folder / "scores", SCORER, {**reading, "weights": model_digest(scorer)}, sampled)
        encoder = CrossEncoder.from_pretrained(
            scorer,
            device=process_device(device),
            dtype=number_type(dtype),
            max_length=max_length,
            truncation=truncation,
            cut=cut,
            chat=chat,
            tokens_per_forward=budget,
        )
        written.write(partial(score_items, encoder), score_progress(console, scorer, "examples", written.share()))
        if (finished := finished_scores(console, {SCORER: written})) is None:
            return
        scores = [{SCORER: of_example} for of_example in finished[SCORER].scores]
        cuts[SCORER] = finished[SCORER].cuts
        if calibration := load_calibration(scorer):
            calibrations = {SCORER: calibration}
    elif process_of_job().rank:  # there is nothing to share
        return
    everything = [
        to_scored_responses(responses, by_scorer, calibrations=calibrations, rouge=rouge)
        for responses, by_scorer in zip(sampled, scores, strict=True)
    ]
    table = selection_table(everything)
    folder.mkdir(parents=True, exist_ok=True)
    tested: dict[str, set[str]] = {}
    for one in sampled:
        tested.setdefault(one.prompt.task.name, set()).add(one.prompt.example.id)
    untested = files.examples_beyond(tested)
    selection = to_json(table) | {
        "sizes": by_size(everything, sizes),
        "cuts": {name: of._asdict() for name, of in cuts.items()},
        "untested": untested,
    }
    write_whole(folder / "selection.json", json.dumps(selection, indent=1))
    write_choices(folder / "choices.jsonl", sampled, everything)
    print_table(table, selection["sizes"], remarks=[*cut_remarks(cuts), *untested_remarks(untested, len(sampled))])


def score_items(encoder: CrossEncoder, sampled: Sequence[SampledResponses]) -> ItemScores:
    """Scores of the responses to some examples, and what was cut from their pairs."""
    encoder.cuts = PairCuts()
    return ItemScores(score_responses(encoder, sampled), encoder.cuts)
