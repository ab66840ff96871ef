"""Collect the scores of the runs behind docs/claims.md: one per system, seed and task.

    python experiments/claims_results.py runs/claims

reads the folders that the commands of ``experiments/claims/*.yaml`` write below ``runs/claims``, and writes
``experiments/claims/results/<experiment>.json``. Folders that are missing are reported, and their files are kept.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crosstask.callbacks.report.predictions import find_predictions, has_predictions, read_predictions
from crosstask.commands.shared.sweep_declarations import folder_name, read_sweep
from crosstask.commands.shared.sweep_runs import run_costs
from crosstask.datamodules.rouge import rouge_l

CLAIMS = Path(__file__).parent / "claims"

UNKNOWN_LEVEL = "partially_supervised"
"""Level of all tasks of selections, whose files do not have it: none of these tasks trains the language model."""


@dataclass
class Results:
    """Scores of an experiment.

    Args:
        levels: Level of generalization of each task.
        systems: ROUGE-L in percent by system, seed and task; a system is e.g. "base, 2-shot".
        hours: Hours of the runs behind each arm, over all seeds; a system's arm is its name without the last part.
    """

    levels: dict[str, str] = field(default_factory=dict)
    systems: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)

    def add(self, system: str, seed: int, scores: Mapping[str, float]) -> None:
        """Add the scores of a system's tasks with a seed, rounded to a hundredth of a percent."""
        self.systems.setdefault(system, {})[seed] = {task: round(score, 2) for task, score in scores.items()}


def arm_of(system: str) -> str:
    """Return the arm of a system: its name without the part after the last comma.

    >>> arm_of("demonstrations, suffix loss, 2-shot")
    'demonstrations, suffix loss'
    """
    return system.rpartition(", ")[0]


def task_means(scores: Iterator[tuple[str, float]]) -> dict[str, float]:
    """Return the mean score of each task, in percent."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for task, score in scores:
        by_task[task].append(score)
    return {task: 100 * sum(values) / len(values) for task, values in by_task.items()}


def read_sweep_runs(sweep: str, folder: Path) -> Results:
    """Return the results of a sweep's finished runs; a system is an arm at a number of shots."""
    results = Results()
    for arm in read_sweep(sweep).arms:
        for run in sorted((folder / folder_name(arm)).glob("seed-*")):
            if not has_predictions(run, "test"):
                continue
            _read_predictions(results, arm, int(run.name.removeprefix("seed-")), run)
            results.hours[arm] = results.hours.get(arm, 0.0) + sum(run_costs(run).values()) / 3600
    return results


def _read_predictions(results: Results, arm: str, seed: int, run: Path) -> None:
    instances = [prediction.instance for prediction in read_predictions(find_predictions(run, "test"))]
    results.levels |= {row.task: row.level for row in instances}
    for shots in sorted({row.shots for row in instances}):
        scores = task_means((row.task, row.score) for row in instances if row.shots == shots)
        results.add(f"{arm}, {shots}-shot", seed, scores)


def read_selections(folder: Path) -> Results:
    """Return the results of selections or adaptations in ``seed-*``; a system is a way to choose a response."""
    results = Results()
    for path in sorted(folder.glob("seed-*/choices.jsonl")):
        lines = [json.loads(line) for line in path.open()]
        results.levels |= {line["task"]: UNKNOWN_LEVEL for line in lines}
        for name, choose in ways_to_choose(lines[0]["responses"]).items():
            scores = task_means((line["task"], choose(line["responses"])) for line in lines)
            results.add(name, int(path.parent.name.removeprefix("seed-")), scores)
        report = path.with_name("report.json")
        hours = json.loads(report.read_text())["hours"] if report.is_file() else {}  # of scorers' training
        for scorer, value in hours.items():
            results.hours[scorer] = results.hours.get(scorer, 0.0) + value
    return results


def ways_to_choose(responses: list[dict]) -> dict[str, Callable[[list[dict]], float]]:
    """Return functions to the ROUGE-L of the response chosen by a scorer or likelihood, of 1, 4 or all."""

    def best(key: Callable[[dict], float], count: int | None) -> Callable[[list[dict]], float]:
        return lambda of: max(_first(of, count), key=key)["rouge_l"]  # the first of equal ones

    ways = {}
    for count, of in ((1, "of 1"), (4, "of 4"), (None, "of all")):
        ways[f"self-scoring, {of}"] = best(_likelihood, count)
        for scorer in responses[0]["scores"]:
            ways[f"{scorer}, {of}"] = best(lambda one, scorer=scorer: one["scores"][scorer], count)
    for decoding in dict.fromkeys(one["decoding"] for one in responses):
        ways[f"model, {decoding}"] = lambda of, decoding=decoding: next(
            one["rouge_l"] for one in of if one["decoding"] == decoding
        )
    return ways


def _likelihood(response: dict) -> float:
    """Return the summed log-likelihood; -inf if it is unknown, as in ``crosstask adapt``."""
    return -math.inf if response["log_likelihood"] is None else response["log_likelihood"]


def _first(responses: list[dict], count: int | None) -> list[dict]:
    """Return all responses, or the first nucleus samples, as in Cappy's Table 5."""
    return responses if count is None else [one for one in responses if one["decoding"] == "nucleus"][:count]


def read_exemplars(folder: Path) -> Results:
    """Return the results of exemplar_or_blank.py: ROUGE-L, and the last share of choices of the exemplar."""
    results = Results(levels={"all": "fully_held_out"})
    for line in (folder / "results.jsonl").open():
        run = json.loads(line)
        results.hours[run["arm"]] = results.hours.get(run["arm"], 0.0) + run.get("seconds", 0.0) / 3600
        if "rouge_l" in run:
            results.add(f"{run['arm']}, 1-shot", run["seed"], {"all": run["rouge_l"]})
        if run["shares"]:
            results.add(f"{run['arm']}, first share", run["seed"], {"all": 100 * run["shares"][0]})
            results.add(f"{run['arm']}, last share", run["seed"], {"all": 100 * run["shares"][-1]})
    return results


def read_tuned(folder: Path) -> Results:
    """Return the results of tune_on_real_tasks.py; one system is the first line of the untuned model's answers."""
    results = Results()
    for arm in ("untuned", "tuned"):
        (run,) = [path.parents[1] for path in (folder / arm).glob("version_*/predictions/test.jsonl")]
        _read_predictions(results, arm, 0, run)
    answers = read_predictions(find_predictions(folder / "untuned", "test"))
    for shots in (0, 2):
        lines = (
            (one.instance.task, rouge_l(one.prediction.strip().partition("\n")[0], one.references))
            for one in answers
            if one.instance.shots == shots
        )
        results.add(f"untuned, first line, {shots}-shot", 0, task_means(lines))
    return results


SWEEPS = ("opt_iml", "instruction_optimization", "instruction_optimization_t5", "mixtures", "number_of_tasks")
"""Experiments that are sweeps, declared in claims/<experiment>.yaml."""


def _sweep_reader(name: str) -> Callable[[Path], Results]:
    return lambda home: read_sweep_runs(str(CLAIMS / f"{name}.yaml"), home / name)


READERS: dict[str, Callable[[Path], Results]] = {
    **{name: _sweep_reader(name) for name in SWEEPS},
    "exemplar_or_blank": lambda home: read_exemplars(home / "exemplar_or_blank"),
    "self_scoring": lambda home: read_selections(home / "self_scoring"),
    "cappy": lambda home: read_selections(home / "cappy"),
    "cappy_short": lambda home: read_selections(home / "cappy_short"),
    "tuned": lambda home: read_tuned(home / "tuned"),
}
"""Function of each experiment that reads its results from the folder of all runs."""


def to_text(results: Results) -> str:
    """Return the results as JSON with a line for each system, so that changes are readable."""
    hours = {arm: round(value, 4) for arm, value in results.hours.items()}
    systems = ",\n".join(f"  {json.dumps(name)}: {json.dumps(scores)}" for name, scores in results.systems.items())
    return (
        f'{{\n "levels": {json.dumps(results.levels)},\n "hours": {json.dumps(hours)},\n'
        f' "systems": {{\n{systems}\n }}\n}}\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    home = parser.parse_args().runs
    (CLAIMS / "results").mkdir(exist_ok=True)
    for name, read in READERS.items():
        if not (home / name).is_dir():
            print(f"{name}: no folder {home / name}; its results are kept")
            continue
        results = read(home)
        if not results.systems:
            print(f"{name}: no run in {home / name} is finished; its results are kept")
            continue
        (CLAIMS / f"results/{name}.json").write_text(to_text(results))
        print(f"{name}: {len(results.systems)} systems")


if __name__ == "__main__":
    main()
