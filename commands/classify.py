"""Evaluate scorers and language models zero-shot on tasks with options.

It prints accuracies by task with intervals, and their unweighted mean, and writes them with every question's scores.
Several models are compared by name. Started again, it resumes where it was interrupted. The processes of a job
(torchrun, or tasks of SLURM or its arrays) share the questions.

Example:
    crosstask classify --benchmark NaturalInstructions --benchmark.folder runs/quickstart/toybench --split test \\
      --scorer '{cappy: btan2/cappy-large}' --generator '{flan: google/flan-t5-large}' --output runs/classified
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from rich.console import Console

from ..callbacks.report.classification_report import (
    Classified,
    classification_report,
    print_classification,
    write_questions,
)
from ..datamodules import Suite
from ..datamodules.benchmarks import Benchmark, Split
from ..datamodules.benchmarks.own_data.file_tasks import as_benchmark
from ..datamodules.messages import MissingFiles, expanded
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.prompts import PromptForm
from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.scoring.cut_texts import CutTexts
from ..datamodules.scoring.instruction_cuts import Cut
from ..datamodules.scoring.pair_rows import Truncation
from ..datamodules.whole_files import require_new, write_whole
from ..lightning_modules.devices import number_type, process_device, scorer_type
from ..lightning_modules.model_digest import model_digest
from ..lightning_modules.sampling.sample_responses import load_generator
from ..lightning_modules.scoring.classification import (
    Question,
    distinguishable,
    read_questions,
    scores_by_likelihood,
    scores_by_scorer,
)
from ..lightning_modules.scoring.cross_encoder import CrossEncoder, PairCuts
from ..lightning_modules.scoring.score_files import ItemScores, ScoreFiles
from .shared.function_command import run_function
from .shared.score_progress import finished_scores, score_progress


@dataclass(frozen=True)
class Reading:
    """Settings of reading questions, which decide scores together with the models.

    Args:
        max_length: Tokens of the longest pair, or of the longest prompt with an option.
        truncation: The side of a scorer's longer pair that is cut.
        cut: The part of a too long instruction that is cut.
        dtype: Type of the models' parameters.
        budget: Tokens of the largest batch; scores do not depend on it.
        device: Device of the models.
    """

    max_length: int
    truncation: Truncation
    cut: Cut
    dtype: str
    budget: int
    device: str | None

    def about(self, name: str) -> dict[str, object]:
        """The settings that decide the scores of a model."""
        without = ("budget", "device")
        settings = {key: value for key, value in asdict(self).items() if key not in without}
        return {**settings, "weights": model_digest(name)}


def run(words: Sequence[str]) -> None:
    """Classify by the words of a command line."""
    run_function(classify_tasks, words, benchmarks=True)


def classify_tasks(
    benchmark: Benchmark | str,
    output: str,
    scorer: str | dict[str, str] | None = None,
    generator: str | dict[str, str] | None = None,
    split: Split = "train",
    tasks: Sequence[str] = (),
    examples: int | None = None,
    prompt: PromptForm | None = None,
    max_length: int = 512,
    truncation: Truncation = "instruction",
    cut: Cut = "middle",
    seed: int = 0,
    budget: int = 8192,
    dtype: str | None = None,
    device: str | None = None,
) -> None:
    """Evaluate models zero-shot on tasks with options, and print accuracies by task and their unweighted mean.

    Several models are compared by name: --scorer '{cappy: btan2/cappy-large, reward: runs/reward}'. Started again, it
    resumes where it was interrupted. The processes of a job share the questions, each on its device, and the one that
    finishes the last batch writes the report.

    Args:
        benchmark: Reader of the tasks; for all templates of PromptSource, ``prompts: all``.
        output: Folder of ``report.json`` (the accuracies, which are never overwritten), ``questions.jsonl`` (every
            question with the models' scores and choices) and ``scores``, a file for each model and process.
        scorer: Hub name or folder of a scorer, or of several by name.
        generator: Hub name or folder of a language model, or of several by name; options are ranked by their summed
            log-likelihood.
        split: Split of the benchmark that lists the tasks; PromptSource lists all of its tasks as training tasks.
        tasks: Names of the tasks; all of the split if empty.
        examples: Largest number of rows of a task, each in all its templates; all by default.
        prompt: How instructions are rendered; by default the example's input alone, as in Cappy's released program.
        max_length: Tokens of the longest pair of instruction and option.
        truncation: The side of a scorer's longer pair that is cut; Cappy's released program uses longest_first.
        cut: The part of a too long instruction that is cut, for scorers and language models; the released program cuts
            the end.
        seed: Seed of the rendering, where `prompt` draws at random.
        budget: Tokens of the largest batch.
        dtype: Type of the models' parameters, but for a scorer's head, which remains in float32; by default float32,
            and for scorers on a GPU, whose packed attention needs half precision, bfloat16.
        device: Device of the models, e.g. cuda:1; by default the GPU of the process if it has one.
    """
    folder = expanded(output)
    require_new(folder / "report.json")
    require_positive("classify", max_length=max_length, examples=examples, budget=budget)
    scorers, generators = by_name(scorer, "scorer"), by_name(generator, "generator")
    require_names(scorers, generators)
    benchmark = as_benchmark(benchmark)
    listed = listed_tasks(benchmark, split, tasks)
    skipped, missing = Counter(f"dataset: {reason}" for reason in benchmark.left_out().values()), dict[str, str]()
    read = partial(read_questions, benchmark, prompt=prompt, seed=seed, rows=examples)
    questions = [question for name in listed for question in questions_of(name, read, skipped, missing)]
    for model in {**scorers, **generators}.values():  # every model answers the same questions
        questions = distinguishable(questions, load_tokenizer(model, eos=False), skipped)
    if not questions:
        raise ValueError(f"none of {len(listed)} tasks has an example with options and an answer: {missing}")
    kept = {question.task for question in questions}
    missing |= {name: "options that are the same tokens" for name in listed if name not in kept | set(missing)}
    console, files, parameters = Console(), dict[str, ScoreFiles[Question]](), dict[str, int]()
    how = Reading(max_length, truncation, cut, dtype or "float32", budget, device)
    how_scored = replace(how, dtype=scorer_type(dtype, device))
    loaders = dict.fromkeys(scorers, load_scorer) | dict.fromkeys(generators, load_language_model)
    for name, model in {**scorers, **generators}.items():
        reading = how_scored if name in scorers else how
        files[name] = ScoreFiles(folder / "scores", name, reading.about(model), questions)
        score, parameters[name] = loaders[name](model, reading)
        files[name].write(score, score_progress(console, name, "questions", files[name].share()))
    if (scores := finished_scores(console, files)) is None:
        return
    classified = Classified(questions, scores, parameters, listed, missing, skipped)
    write_questions(folder / "questions.jsonl", classified)
    report = classification_report(classified)
    write_whole(folder / "report.json", json.dumps(report, indent=1))
    print_classification(report)


def by_name(models: str | Mapping[str, str] | None, name: str) -> dict[str, str]:
    """Models by name; a model without a name has the text of its option."""
    return {name: models} if isinstance(models, str) else dict(models or {})


def require_names(scorers: Mapping[str, str], generators: Mapping[str, str]) -> None:
    """Reject no models, and two with one name."""
    if not {**scorers, **generators}:
        raise ValueError("give a scorer or a generator, or both")
    if shared := sorted(set(scorers) & set(generators)):
        raise ValueError(f"a scorer and a generator are both called {', '.join(shared)}")


def listed_tasks(benchmark: Benchmark, split: Split, tasks: Sequence[str]) -> list[str]:
    """Names of all tasks to evaluate, with those of a published table whose files are missing."""
    if tasks:
        return list(tasks)
    names = benchmark.task_names(split)
    return list(benchmark.expected) if isinstance(benchmark, Suite) and names else names


def questions_of(
    name: str, read: Callable[..., Iterable[Question]], skipped: Counter[str], missing: dict[str, str]
) -> list[Question]:
    """The questions of a task; a task without any is in `missing`, with the reason."""
    reasons = Counter[str]()
    try:
        questions = list(read(name=name, skipped=reasons))
    except MissingFiles as error:
        questions, reasons = [], Counter()
        missing[name] = str(error)
    skipped.update(reasons)
    if not questions and name not in missing:
        missing[name] = ", ".join(f"{reason} ({count})" for reason, count in reasons.items()) or "no examples"
    return questions


Score = Callable[[Sequence[Question]], ItemScores]


def load_scorer(name: str, how: Reading) -> tuple[Score, int]:
    """A function that scores questions by a scorer, and the scorer's number of parameters."""
    encoder = CrossEncoder.from_pretrained(
        name,
        device=process_device(how.device),
        dtype=number_type(how.dtype),
        max_length=how.max_length,
        truncation=how.truncation,
        cut=how.cut,
        tokens_per_forward=how.budget,
    )

    def score(questions: Sequence[Question]) -> ItemScores:
        encoder.forget_cuts()
        scores = scores_by_scorer(encoder, questions)
        return ItemScores(scores, encoder.cuts, encoder.cut_pairs.remainders)

    return score, encoder.model.num_parameters()


def load_language_model(name: str, how: Reading) -> tuple[Score, int]:
    """A function that scores questions by the likelihoods of a language model, and the model's number of parameters."""
    model, tokenizer = load_generator(name, dtype=how.dtype, device=how.device)

    def score(questions: Sequence[Question]) -> ItemScores:
        cuts = CutTexts()
        scores = scores_by_likelihood(
            model,
            tokenizer,
            questions,
            longest=how.max_length,
            cut=how.cut,
            tokens_per_forward=how.budget,
            cuts=cuts,
        )
        return ItemScores(scores, PairCuts(len(questions), cuts.added, equal=cuts.equal()), cuts.remainders)

    return score, model.num_parameters()
