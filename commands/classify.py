"""Evaluate scorers and language models zero-shot on tasks with options.

It prints accuracies by task with confidence intervals, and their unweighted mean, and writes them with every question's
scores. Several models are compared by name. An interrupted evaluation resumes when the command is run again. The
processes of a job (torchrun, or tasks of SLURM or its arrays) share the questions.

Example:
    crosstask classify --benchmark NaturalInstructions --benchmark.folder runs/quickstart/toybench --split test \\
      --scorer '{cappy: btan2/cappy-large}' --generator '{flan: google/flan-t5-large}' --output runs/classified
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ..callbacks.report.classification_report import (
    Classified,
    classification_report,
    print_classification,
    write_questions,
)
from ..datamodules import Suite
from ..datamodules.atomic_files import require_new, write_whole
from ..datamodules.benchmarks import Benchmark, Split
from ..datamodules.benchmarks.own_data.file_tasks import as_benchmark
from ..datamodules.messages import MissingFiles, expanded
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.prompts import PromptForm
from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.scoring.instruction_truncation import Cut
from ..datamodules.scoring.pair_rows import Truncation
from ..datamodules.scoring.truncated_texts import CutTexts
from ..lightning_modules.devices import number_type, process_device, scorer_type
from ..lightning_modules.model_digest import model_digest
from ..lightning_modules.prefixes import virtual_tokens
from ..lightning_modules.sampling.response_sampler import load_generator
from ..lightning_modules.scoring.classification import (
    Question,
    distinguishable,
    read_questions,
    scores_by_likelihood,
    scores_by_scorer,
)
from ..lightning_modules.scoring.cross_encoder import CrossEncoder, PairCuts
from ..lightning_modules.scoring.pair_scores import default_pair_length
from ..lightning_modules.scoring.score_files import ItemScores, ScoreFiles
from .shared.function_command import run_function
from .shared.score_progress import finished_scores, score_progress


@dataclass(frozen=True)
class Reading:
    """Settings by which a model reads questions, i.e. instructions with options.

    Args:
        max_length: Maximum number of tokens of an instruction and an option together; None for 512, or for all
            positions of a model that has fewer.
        truncation: Side of a scorer's long pair that is cut: ``instruction``, or ``longest_first`` for the longer side.
        cut: Part of a long instruction that is cut: ``middle``, ``end`` or ``beginning``.
        chat: Whether an instruction and an option are rendered by the tokenizer's chat template.
        dtype: Type of the model's parameters.
        budget: Maximum number of tokens of a batch; scores do not depend on it.
        device: Device of the model; None for the GPU of the process if it has one.
    """

    max_length: int | None
    truncation: Truncation
    cut: Cut
    chat: bool
    dtype: str
    budget: int
    device: str | None

    def about(self, name: str) -> dict[str, object]:
        """Return the settings that decide a model's scores, and a digest of its weights, to write beside the scores.

        Args:
            name: Hub name or folder of the model.
        """
        without = ("budget", "device")
        settings = {key: value for key, value in asdict(self).items() if key not in without}
        return {**settings, "weights": model_digest(name)}


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
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
    max_length: int | None = None,
    truncation: Truncation = "instruction",
    cut: Cut = "middle",
    chat: bool | list[str] = False,
    seed: int = 0,
    budget: int = 8192,
    dtype: str | None = None,
    device: str | None = None,
) -> None:
    """Evaluate models zero-shot on tasks with options, and print accuracies by task and their unweighted mean.

    Several models are compared by name: --scorer '{cappy: btan2/cappy-large, reward: runs/reward}'. An interrupted
    evaluation resumes when the command is run again. The processes of a job share the questions, each on its device,
    and the one that finishes the last batch writes the report.

    Args:
        benchmark: Benchmark of the tasks, or the path or hub name of your own data; for all templates of PromptSource,
            set ``prompts: all``.
        output: Folder of ``report.json`` (the accuracies, which are never overwritten), ``questions.jsonl`` (every
            question with the models' scores and choices) and ``scores``, a file for each model and process.
        scorer: Hub name or folder of a scorer, or of several by name.
        generator: Hub name or folder of a language model, or of several by name, which rank options by their summed
            log-likelihood.
        split: Split of the benchmark that lists the tasks: ``train``, ``validation`` or ``test``. PromptSource lists
            all of its tasks as training tasks.
        tasks: Names of the tasks; if empty, all tasks of the split.
        examples: Largest number of rows of a task, each evaluated with all its templates; null for all.
        prompt: Format in which an example becomes an instruction; by default the example's input alone, as in Cappy's
            released program.
        max_length: Maximum number of tokens of an instruction and an option together; longer ones are truncated. By
            default 512, or all positions of a model that has fewer.
        truncation: Side of a scorer's long pair that is cut: ``instruction``, or ``longest_first`` for the longer side,
            as in Cappy's released program.
        cut: Part of a long instruction that is cut, for scorers and language models: ``middle``, ``end`` (as in the
            released program) or ``beginning``.
        chat: Whether models read an instruction as a user's message, and an option as its answer, in their tokenizers'
            chat templates; or the names of the models that do, e.g. a reward model beside Cappy.
        seed: Seed of the rendering, if `prompt` makes random choices.
        budget: Maximum number of tokens of a batch; it changes speed and memory, not scores.
        dtype: Type of the models' parameters; a scorer's head stays in float32. By default float32, or bfloat16 for
            scorers on a GPU, whose packed attention needs half precision.
        device: Device of the models, e.g. cuda:1; by default the GPU of the process if it has one.
    """
    folder = expanded(output)
    require_new(folder / "report.json")
    require_positive("classify", max_length=max_length, examples=examples, budget=budget)
    scorers, generators = by_name(scorer, "scorer"), by_name(generator, "generator")
    require_names(scorers, generators)
    benchmark = as_benchmark(benchmark)
    listed = listed_tasks(benchmark, split, tasks)
    read = partial(read_questions, benchmark, prompt=prompt, seed=seed, rows=examples)
    question_set = shared_questions(benchmark, listed, read, [*scorers.values(), *generators.values()])
    plain = Reading(max_length, truncation, cut, False, dtype or "float32", budget, device)
    readings = dict.fromkeys(scorers, replace(plain, dtype=scorer_type(dtype, device)))
    readings |= dict.fromkeys(generators, plain)
    readings |= {name: replace(readings[name], chat=True) for name in chat_models(chat, list(readings))}
    loads = {name: partial(load_scorer, model, readings[name]) for name, model in scorers.items()}
    loads |= {name: partial(load_language_model, model, readings[name]) for name, model in generators.items()}
    about = {name: readings[name].about(model) for name, model in (scorers | generators).items()}
    console, files, parameters = Console(), dict[str, ScoreFiles[Question]](), dict[str, int]()
    for name, load in loads.items():
        files[name] = ScoreFiles(folder / "scores", name, about[name], question_set.questions)
        score, parameters[name] = load()
        files[name].write(score, score_progress(console, name, "questions", files[name].share()))
    if (scores := finished_scores(console, files)) is None:
        return
    write_classification(
        folder,
        Classified(question_set.questions, scores, parameters, listed, question_set.missing, question_set.skipped),
    )


class QuestionSet(NamedTuple):
    """Questions, i.e. instructions with options, that all models answer.

    Args:
        questions: The questions of all tasks.
        missing: Reason of each task without questions.
        skipped: Number of skipped examples and datasets, by reason.
    """

    questions: list[Question]
    missing: dict[str, str]
    skipped: Counter[str]


def shared_questions(
    benchmark: Benchmark, names: Sequence[str], read: Callable[..., Iterable[Question]], models: Iterable[str]
) -> QuestionSet:
    """Read the questions of some tasks, and keep those whose options have different tokens for every model.

    Args:
        benchmark: Benchmark of the tasks.
        names: Names of the tasks.
        read: Function (name, skipped) that yields the questions of a task: ``read_questions`` with its other arguments.
        models: Hub names or folders of the models.

    Raises:
        ValueError: There are no tasks, or no such questions.
    """
    if not names:
        raise ValueError("the benchmark lists no task in this split: set split to train, validation or test, or tasks")
    skipped, missing = Counter(f"dataset: {reason}" for reason in benchmark.left_out().values()), dict[str, str]()
    questions = [question for name in names for question in questions_of(name, read, skipped, missing)]
    for model in models:
        questions = distinguishable(questions, load_tokenizer(model, eos=False), skipped)
    if not questions:
        raise ValueError(f"none of {len(names)} tasks has an example with options and an answer: {missing}")
    kept = {question.task for question in questions}
    missing |= {name: "options that are the same tokens" for name in names if name not in kept | set(missing)}
    return QuestionSet(questions, missing, skipped)


def write_classification(folder: Path, classified: Classified) -> None:
    """Write every question with scores and choices (questions.jsonl) and the accuracies (report.json); print these."""
    write_questions(folder / "questions.jsonl", classified)
    report = classification_report(classified)
    write_whole(folder / "report.json", json.dumps(report, indent=1))
    print_classification(report)


def by_name(models: str | Mapping[str, str] | None, name: str) -> dict[str, str]:
    """Return models (hub names or folders) by name; a single model without a name is called `name`."""
    return {name: models} if isinstance(models, str) else dict(models or {})


def require_names(scorers: Mapping[str, str], generators: Mapping[str, str]) -> None:
    """Check that there is a model, and that all have names of their own, also as names of files.

    Args:
        scorers: Hub name or folder of each scorer, by name.
        generators: Hub name or folder of each language model, by name.

    Raises:
        ValueError: There is no model, a name is empty, or two have the same name, or names of the same files.
    """
    if not {**scorers, **generators}:
        raise ValueError("give --scorer or --generator, or both")
    if shared := sorted(set(scorers) & set(generators)):
        raise ValueError(f"a scorer and a generator are both called {', '.join(shared)}")
    by_file: dict[str, list[str]] = {}
    for name in (*scorers, *generators):
        by_file.setdefault(name.replace("/", "-"), []).append(name)
    for file, names in by_file.items():
        if not file.strip() or len(names) > 1:
            called = ", ".join(map(repr, names))
            raise ValueError(f"models called {called} need names that files can have, all different")


def chat_models(chat: bool | Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names of the models that read prompts in their chat templates.

    Args:
        chat: Whether all do, or the names of those that do.
        names: Names of all models.

    Raises:
        ValueError: `chat` has another name.
    """
    if isinstance(chat, bool):
        return list(names) if chat else []
    if unknown := sorted(set(chat) - set(names)):
        raise ValueError(f"chat names {unknown}, and the models are called {', '.join(names)}")
    return list(chat)


def listed_tasks(benchmark: Benchmark, split: Split, tasks: Sequence[str]) -> list[str]:
    """Return the names of the tasks to evaluate: `tasks`, or those of the split if it is empty.

    A ``Suite``, i.e. the tasks of a published table, also lists tasks whose files are missing.
    """
    if tasks:
        return list(tasks)
    names = benchmark.task_names(split)
    return list(benchmark.expected) if isinstance(benchmark, Suite) and names else names


def questions_of(
    name: str, read: Callable[..., Iterable[Question]], skipped: Counter[str], missing: dict[str, str]
) -> list[Question]:
    """Read the questions of a task, and note why it has none or why some are skipped.

    Args:
        name: Name of the task.
        read: Function (name, skipped) that yields the questions of a task: ``read_questions`` with its other arguments.
        skipped: Counter to which skipped examples are added, by reason.
        missing: Dictionary to which the task is added with the reason, if it has no questions.
    """
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
    """Load a scorer, and return a function that scores questions by it, and its number of parameters."""
    encoder = CrossEncoder.from_pretrained(
        name,
        device=process_device(how.device),
        dtype=number_type(how.dtype),
        max_length=how.max_length,
        truncation=how.truncation,
        cut=how.cut,
        chat=how.chat,
        tokens_per_forward=how.budget,
    )

    def score(questions: Sequence[Question]) -> ItemScores:
        encoder.forget_cuts()
        scores = scores_by_scorer(encoder, questions)
        return ItemScores(scores, encoder.cuts, encoder.cut_pairs.remainders)

    return score, encoder.model.num_parameters()


def load_language_model(name: str, how: Reading) -> tuple[Score, int]:
    """Load a language model, and return a function that scores questions by its likelihoods, and its parameters."""
    model, tokenizer = load_generator(name, dtype=how.dtype, device=how.device)

    def score(questions: Sequence[Question]) -> ItemScores:
        cuts = CutTexts()
        scores = scores_by_likelihood(
            model,
            tokenizer,
            questions,
            longest=how.max_length or default_pair_length(model.config, virtual_tokens(model)),
            cut=how.cut,
            chat=how.chat,
            tokens_per_forward=how.budget,
            cuts=cuts,
        )
        return ItemScores(scores, PairCuts(len(questions), cuts.added, equal=cuts.equal()), cuts.remainders)

    return score, model.num_parameters()
