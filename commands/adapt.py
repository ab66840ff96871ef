"""Adapt a frozen language model to many tasks, by a scorer trained for each task.

It trains the scorers on the samples of `crosstask samples`, chooses among the samples of the test instances, and
reports the gain over the language model's own decodings. A task that fails is reported, and the other tasks are
trained. If the command is run again, finished tasks are not trained again. The processes of a job (torchrun, or tasks
of SLURM or its arrays) share the tasks, and the one that finishes the last task writes the report.

Example:
    crosstask adapt --train NaturalInstructions --train.folder runs/quickstart/toybench \\
      --samples '[runs/samples/flan-t5-small-0000-of-0001.jsonl]' --training.pretrained btan2/cappy-large \\
      --output runs/adapt
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..callbacks.report.adaptation_report import write_adaptation
from ..callbacks.report.selection_table import by_size, cut_remarks, print_table, untested_remarks
from ..datamodules.benchmarks import Benchmark
from ..datamodules.benchmarks.own_data.file_tasks import as_benchmark
from ..datamodules.messages import expanded, nearest
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.prompts import OptImlPrompt, PromptForm
from ..datamodules.rouge import Rouge
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import ModelSamples, generator_size
from ..datamodules.visible_text import terminal_text
from ..lightning_modules.adaptation.scorer_records import ScorerRecords
from ..lightning_modules.adaptation.scorer_training import ScorerTraining
from ..lightning_modules.scoring.cross_encoder import PairCuts
from ..lightning_modules.scoring.sampled_responses import SampledResponses, read_sampled_responses
from ..lightning_modules.scoring.selection import RESERVED, SCORER
from ..lightning_modules.scoring.selection_scores import selection_table
from .shared.adaptation_planning import print_adaptation_plan
from .shared.function_command import run_function
from .shared.outputs import require_own_report
from .shared.task_adaptations import AdaptedTasks, adapt_share


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(adapt_tasks, words, benchmarks=True)


def adapt_tasks(
    train: Benchmark | str,
    samples: list[str | Path],
    output: str | Path,
    training: ScorerTraining,
    variants: dict[str, dict[str, Any]] | None = None,
    test: Benchmark | str | None = None,
    tasks: Sequence[str] = (),
    prompt: PromptForm = OptImlPrompt(),  # noqa: B008 - frozen
    test_examples: int = 100,
    augmentation: bool = True,
    sizes: Sequence[int] = (1, 4),
    keep_scorers: bool = False,
    rouge: Rouge = "exact",
    generator_parameters: float | None = None,
    seed: int = 0,
    cache: str = "~/.cache/crosstask",
    plan: bool = False,
) -> None:
    """Adapt a frozen language model to each task by a scorer trained for it, and report all tasks together.

    A task that fails is reported, and the other tasks are trained. The processes of a job share the tasks, each on its
    device, and the one that finishes the last task writes the report. After failures, run the command again in one
    process: finished tasks are not trained again. A task that was finished with other settings, weights or samples
    fails, and the report is not replaced.

    Args:
        train: Benchmark of the training instances, or the path or hub name of your own data.
        samples: JSONL files of the language model's responses to training and test instances, or folders of them.
        output: Folder of the results: a file for each task, ``report.json``, ``report.md``, ``choices.jsonl``, and
            figures as SVG, PDF and PNG of the gain on each task over self-scoring (Cappy's Figure 6) and over the best
            single decoding.
        training: Settings of the training of each scorer.
        variants: Further scorers, as rows of the same table: changes of `training` (or `augmentation`) by name, e.g.
            {reward_model: {loss: pairwise}, no_pretraining: {pretrained: FacebookAI/roberta-large}}.
        test: Benchmark of the test instances; by default they are the first ones of each task's file in `train`.
        tasks: Names of the tasks; if empty, all that have test instances.
        prompt: Format in which an example becomes a prompt; it must be that of the samples.
        test_examples: Largest number of test instances of a task.
        augmentation: Also train on the model's responses; the paper has an ablation without them.
        sizes: Numbers of nucleus samples; the report also has the scores of choosing among this many of them alone.
        keep_scorers: Keep each task's scorers in the folder ``scorers``, from which `crosstask select` and
            ``CrossEncoder`` load them; scorers that an earlier run did not keep are trained again.
        rouge: Implementation of ROUGE-L, which labels the responses in training and is the score of the table.
            ``exact`` equals Google's ``rouge_score``, and both read a to z and digits only; ``unicode`` reads all
            scripts.
        generator_parameters: Number of parameters of the language model, for `crosstask scaling`; by default the number
            that `crosstask samples` stored.
        seed: Seed of the rendering of instructions; it must be that of the samples.
        cache: Folder of the store of tokenized documents.
        plan: Only print the hours, memory and disk that the unfinished tasks need, measured by a few steps on one of
            them, on the device of this process.
    """
    require_positive("adapt", test_examples=test_examples, sizes=min(sizes, default=1))
    console, folder = Console(soft_wrap=True), expanded(output)
    trainings = all_trainings(training, augmentation, variants or {})
    require_own_report(folder, ("methods", "scorers", "advantages"), "adapt")
    training_tasks = as_benchmark(train)
    testing = training_tasks if test is None else as_benchmark(test)
    names, answers = _tasks_to_adapt(testing, tasks), ModelSamples(samples)
    answers.require_files()
    scorers = ScorerRecords(
        folder,
        training_tasks,
        answers,
        trainings,
        prompt=prompt,
        tested_apart=test is not None,
        test_examples=test_examples,
        seed=seed,
        keep=keep_scorers,
        rouge=rouge,
        cache=cache,
    )

    def read(name: str) -> list[SampledResponses]:
        return read_sampled_responses(_test_part(testing, name, prompt, test_examples, seed), answers)

    if plan:
        print_adaptation_plan(names, scorers, read, console)
        return
    adapted = adapt_share(names, scorers, read, console)
    if adapted.responses and adapted.replaced:
        parameters = generator_parameters or generator_size(answers.files)
        write_report(adapted, folder, sizes=sizes, parameters=parameters)
    _print_failures(adapted, folder, len(names), console)
    if adapted.failed:
        sys.exit(1)


def _print_failures(adapted: AdaptedTasks, folder: Path, tasks: int, console: Console) -> None:
    """Print the names of failed tasks, and whether an earlier report in `folder` was not replaced."""
    if not adapted.replaced:
        console.print(f"the report in {folder} is of other settings, and was not replaced", style="red")
    if failed := adapted.failed:
        console.print(terminal_text(f"{len(failed)} of {tasks} tasks failed: {', '.join(failed)}"), style="red")


def write_report(adapted: AdaptedTasks, folder: Path, *, sizes: Sequence[int], parameters: float | None) -> None:
    """Write the report of finished tasks, and print its table.

    Args:
        adapted: Results of the tasks.
        folder: Folder of the report.
        sizes: Numbers of nucleus samples; the report has the scores of choosing among this many of them alone.
        parameters: Number of parameters of the language model; None if it is unknown.
    """
    table, means = selection_table(adapted.scored), by_size(adapted.scored, sizes)
    write_adaptation(
        folder,
        table,
        adapted.responses,
        adapted.scored,
        about=adapted.about,
        failed=adapted.failed,
        sizes=means,
        untested=adapted.untested,
        parameters=parameters,
    )
    print_table(table, means, failed=len(adapted.failed), remarks=_remarks(adapted))


def _remarks(adapted: AdaptedTasks) -> list[str]:
    """Return the sentences below the table: hours of training, truncated pairs, and instances that were not tested."""
    seconds = {name: sum(cost["seconds"] for cost in own["costs"].values()) for name, own in adapted.about.items()}
    hours = ", ".join(f"{name} {of / 3600:.2f}" for name, of in seconds.items())
    remarks = [f"hours of training, on one device: {hours}", *cut_remarks(_cuts(adapted.about))]
    return [*remarks, *untested_remarks(adapted.untested, len(adapted.responses))]


def _cuts(about: Mapping[str, Mapping[str, Any]]) -> dict[str, PairCuts]:
    """Return the numbers of truncated pairs among those that each scorer chose from, by scorer."""

    def total(scorer: str, kind: str) -> int:
        return sum(cost[f"selection_{kind}"] for cost in about[scorer]["costs"].values())

    return {scorer: PairCuts(*(total(scorer, kind) for kind in PairCuts._fields)) for scorer in about}


def _tasks_to_adapt(benchmark: Benchmark, tasks: Sequence[str]) -> list[str]:
    """Return the names of the tasks to adapt: `tasks`, or all test tasks of the benchmark if it is empty.

    Raises:
        ValueError: The benchmark has no test task, or one of `tasks` is none.
    """
    testable = list(dict.fromkeys(benchmark.task_names("test")))
    if not testable:
        raise ValueError(
            "the benchmark of the training instances lists no task to test: give `test`, the benchmark of the test "
            "instances, e.g. the validation part of BigBench"
        )
    if unknown := [name for name in tasks if name not in testable]:
        raise ValueError(f"no task {unknown[0]!r} among {len(testable)} to test; {nearest(unknown[0], testable)}")
    return list(tasks) or testable


def all_trainings(
    training: ScorerTraining, augmentation: bool, variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[ScorerTraining, bool]]:
    """Return the settings of each scorer by name: its training, and whether it also trains on the model's responses.

    Args:
        training: Settings of the main scorer.
        augmentation: Whether the main scorer also trains on the model's responses.
        variants: Changes of these settings for each further scorer, by name.

    Raises:
        ValueError: A variant has a reserved name, or changes a setting that does not exist.
    """
    trainings = {SCORER: (training, augmentation)}
    for name, changes in variants.items():
        if name in RESERVED or "/" in name:
            raise ValueError(
                f"a variant cannot be called {name!r}: it names a row of the table and a file, and {SCORER} is the row "
                f"of `training` itself; reserved are {', '.join(sorted(RESERVED))}"
            )
        changed = {key: value for key, value in changes.items() if key != "augmentation"}
        trainings[name] = training.changed(changed, f"variant {name}"), bool(changes.get("augmentation", augmentation))
    return trainings


def _test_part(benchmark: Benchmark, name: str, prompt: PromptForm, count: int, seed: int) -> SampledExamples:
    return SampledExamples(
        benchmark, prompt, ["test"], [name], validation_examples=0, test_examples=count, seed=seed, train_examples=0
    )
