"""``crosstask adapt``: many tasks, a scorer each, and what that gains over the language model's own answers."""

import hashlib
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..datamodules.benchmarks import Benchmark
from ..datamodules.rendering.prompts import OptImlPrompt, PromptForm
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import read_samples
from ..lightning_modules.scoring.adaptation import ScorerTraining, adapt
from ..lightning_modules.scoring.selecting import (
    Asked,
    by_size,
    candidates_of_files,
    print_table,
    score_asked,
    to_candidates,
    to_json,
    write_choices,
)
from ..lightning_modules.scoring.selection import (
    Candidates,
    SelectionTable,
    choices,
    selection_table,
    task_gains,
    worth,
)
from .report.charts import COLORS, differences

SHOWN_WORST, SHOWN_EXAMPLES = 3, 3


def adapt_tasks(
    train: Benchmark,
    samples: list[str],
    output: str,
    training: ScorerTraining,
    test: Benchmark | None = None,
    tasks: Sequence[str] = (),
    prompt: PromptForm = OptImlPrompt(),  # noqa: B008 - frozen
    test_examples: int = 100,
    augmentation: bool = True,
    sizes: Sequence[int] = (1, 4),
    seed: int = 0,
    cache: str = "~/.cache/crosstask",
) -> None:
    """Adapt a frozen language model to each task through a scorer of its own, and report the tasks together.

    A task that fails is reported and the others go on. Started again, tasks that are done are not trained again; those
    that were done with other settings are such failures.

    Args:
        train: Benchmark of the training instances.
        samples: JSONL files of the language model's answers to training and test instances.
        output: Folder of a file for each task, ``report.json``, ``report.md``, ``advantages.svg`` (the gain on each
            task, as the paper's Figure 6) and ``choices.jsonl``.
        training: How each scorer is trained.
        test: Benchmark of the test instances, where they are read apart; else the first of each task's file.
        tasks: Names of the tasks; all that have test instances if empty.
        prompt: How instructions are rendered.
        test_examples: Most test instances of a task.
        augmentation: Train on the model's answers, too; without them is an ablation of the paper.
        sizes: Also choose among so many nucleus samples alone.
        seed: Decides how instructions read; the samples' own rendering seed.
        cache: Folder of the store.
    """
    console, folder = Console(soft_wrap=True), Path(output).expanduser()
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    names = list(tasks) or list(dict.fromkeys((test or train).task_names("test")))
    shared = 0 if test else test_examples
    candidates: list[Asked] = []
    scores: list[Sequence[float]] = []
    costs: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        try:
            asked = candidates_of_files(_test_part(test or train, name, prompt, test_examples, seed), samples)
            path = folder / "tasks" / f"{name.replace('/', '-').replace(':', '-')}.json"
            settings = {**asdict(training), "augmentation": augmentation, "test_examples": test_examples}
            settings |= {"prompt": prompt.fingerprint(), "rendering_seed": seed}
            settings |= {"instances": train.fingerprint(name), "asked": _digest(asked)}
            if not path.exists():
                own = _training_samples(train, name, samples, asked, path.with_suffix(".samples.jsonl"), augmentation)
                found = adapt(
                    train,
                    name,
                    training,
                    prompt=prompt,
                    samples=own,
                    test_examples=shared,
                    rendering_seed=seed,
                    cache=cache,
                )
                encoder = found.module.cross_encoder(max_length=training.pair_length)
                cost = {key: value for key, value in found._asdict().items() if key != "module"}
                done = {"scores": score_asked(encoder, asked), "cost": cost, "settings": settings}
                path.write_text(json.dumps(done))
            record = _require_settings(path, settings)
            costs[name] = record["cost"]
            candidates += asked
            scores += record["scores"]
            console.print(f"{number}/{len(names)} {name}: {_line(asked, record)}", highlight=False)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            console.print(f"{number}/{len(names)} {name} failed: {failed[name]}", style="red", highlight=False)
    if candidates:
        everything = [to_candidates(each, own) for each, own in zip(candidates, scores, strict=True)]
        table = selection_table(everything)
        write_adaptation(folder, table, candidates, everything, costs=costs, failed=failed, sizes=sizes)
        print_table(table, by_size(everything, sizes))
    if failed:
        console.print(f"{len(failed)} of {len(names)} tasks failed: {', '.join(failed)}", style="red")
        sys.exit(1)


def _digest(asked: Sequence[Asked]) -> str:
    """Tells one set of candidates from another."""
    return hashlib.sha256(repr(list(asked)).encode()).hexdigest()[:16]


def _require_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a task that is done.

    Raises:
        ValueError: It was done with other settings.
    """
    record: dict[str, Any] = json.loads(path.read_text())
    wanted = json.loads(json.dumps(settings))
    if differ := [name for name, value in wanted.items() if record["settings"].get(name) != value]:
        there = ", ".join(f"{name} {record['settings'].get(name)!r}, not {wanted[name]!r}" for name in differ)
        raise ValueError(f"{path} was made with {there}: remove it, or choose another output")
    return record


def _test_part(benchmark: Benchmark, name: str, prompt: PromptForm, count: int, seed: int) -> SampledExamples:
    return SampledExamples(
        benchmark, prompt, ["test"], [name], validation_examples=0, test_examples=count, seed=seed, train_examples=0
    )


def _training_samples(
    train: Benchmark, name: str, files: Sequence[str], asked: Sequence[Asked], path: Path, wanted: bool
) -> list[str]:
    """The answers to a task's training instances, in a file of their own; answers to what is tested stay out."""
    if not wanted:
        return []
    tested = {each.prompt.example.id for each in asked}
    known = {example.id for example in train.examples(name)} - tested
    lines = [sample.line(*key) for key, sample in read_samples(files) if key[0] == name and key[1] in known]
    if not lines:
        raise ValueError(
            f"{', '.join(files)}: no answer to a training instance of {name}: sample them, or set augmentation: false"
        )
    path.write_text("".join(lines), encoding="utf-8")
    return [str(path)]


def _line(asked: Sequence[Asked], record: Mapping[str, Any]) -> str:
    table = selection_table([to_candidates(*each) for each in zip(asked, record["scores"], strict=True)], resamples=1)
    mean = dict(zip(table.methods, table.mean, strict=True))
    own = f"scorer {100 * mean['scorer']:.1f}, {table.best_single} {100 * mean[table.best_single]:.1f}"
    return f"{own}, oracle {100 * mean['oracle']:.1f}; {record['cost']['seconds']:.0f} s"


def write_adaptation(
    folder: Path,
    table: SelectionTable,
    asked: Sequence[Asked],
    everything: Sequence[Candidates],
    *,
    costs: Mapping[str, Mapping[str, float]],
    failed: Mapping[str, str],
    sizes: Sequence[int],
) -> None:
    """The report of all tasks: for programs, for people, and its advantages as a picture."""
    advantages = task_gains(everything, "scorer", table.best_single)
    found = to_json(table) | {
        "sizes": by_size(everything, sizes),
        "advantages": {name: gain._asdict() for name, gain in advantages.items()},
        "costs": costs,
        "failed": failed,
    }
    (folder / "report.json").write_text(json.dumps(found, indent=1))
    rows = sorted(advantages.items(), key=lambda item: -item[1].mean)
    chart = differences(rows, f"ROUGE-L of the scorer's choice over {table.best_single}, by task", COLORS[0])
    (folder / "advantages.svg").write_text(chart, encoding="utf-8")
    write_choices(folder / "choices.jsonl", asked, everything)
    (folder / "report.md").write_text(_markdown(table, found, asked, everything), encoding="utf-8")


def _markdown(
    table: SelectionTable, found: Mapping[str, Any], asked: Sequence[Asked], everything: Sequence[Candidates]
) -> str:
    lines = [
        "# Adaptation through a scorer",
        "",
        f"{table.instances} test instances of {len(table.names)} tasks; ROUGE-L in percent, mean over tasks, 95% "
        f"intervals over resampled instances. Best single decoding: {table.best_single}.",
        "",
        "| chosen by | ROUGE-L | 95% | over the best single decoding |",
        "|---|---|---|---|",
    ]
    for name, row in found["methods"].items():
        gain = found["gains"][name]
        lines.append(
            f"| {name} | {100 * row['mean']:.2f} | [{100 * row['low']:.2f}, {100 * row['high']:.2f}] | "
            f"{100 * gain['mean']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}] |"
        )
    recovered, spearman = found["recovered"], found["spearman"]
    share = "nothing, as there is no gap" if recovered is None else f"{recovered:.1%}"
    correlation = "–" if spearman is None else f"{spearman:.3f}"
    lines += [
        "",
        f"Recovered of (oracle - best single decoding): {share}; Spearman of score and ROUGE-L: {correlation}.",
        "",
    ]
    lines += ["![Gain of the scorer's choice on each task](advantages.svg)", ""]
    lines += ["## Tasks, the worst last", "", "| task | scorer over the best single decoding | 95% |", "|---|---|---|"]
    worst = sorted(found["advantages"].items(), key=lambda item: -item[1]["mean"])
    lines += [
        f"| {name} | {100 * gain['mean']:+.2f} | [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}] |"
        for name, gain in worst
    ]
    for name, _ in worst[::-1][:SHOWN_WORST]:
        lines += ["", f"### {name}", ""]
        own = [(a, c) for a, c in zip(asked, everything, strict=True) if c.task == name]
        own.sort(key=lambda pair: worth(pair[1])["scorer"] - worth(pair[1])["oracle"])
        for each, candidates in own[:SHOWN_EXAMPLES]:
            place = choices(candidates)["scorer"]
            best = candidates.samples[int(candidates.quality.argmax())].response
            lines += [
                f"- prompt: `{each.prompt.source[-300:]!r}`",
                f"  - reference: `{each.prompt.example.targets[0][:200]!r}`",
                f"  - scorer's choice: `{candidates.samples[place].response[:200]!r}`",
                f"  - best candidate: `{best[:200]!r}`",
            ]
    for name, reason in found["failed"].items():
        lines += ["", f"**{name} failed**: {reason}"]
    return "\n".join(lines) + "\n"
