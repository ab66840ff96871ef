"""The lines of ``predictions/<stage>.jsonl``: what a run answered, written as it goes and read by reports."""

import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ...datamodules.evaluation.coverage import Coverage, TaskCoverage
from ...datamodules.schema import LEVELS, EvaluationExample, Metric
from ...lightning_modules.evaluation.aggregation import ScoredInstance, own_score
from ...lightning_modules.evaluation.answers import Answer


class Prediction(NamedTuple):
    """One line: a scored instance with its texts."""

    instance: ScoredInstance
    prompt: str
    references: tuple[str, ...]
    prediction: str


def prediction_line(answer: Answer) -> dict[str, Any]:
    """An answer as it is written."""
    example = answer.example
    return {
        "number": example.number,
        "benchmark": example.benchmark,
        "task": example.task,
        "parent": example.parent,
        "category": example.category,
        "level": example.level,
        "shots": example.shots,
        "metric": example.metric,
        "id": example.id,
        "prompt": example.source,
        "references": list(example.references),
        "prediction": answer.prediction,
        "rouge_l": answer.rouge_l,
        "exact_match": answer.exact_match,
        **answer.details(),
    }


def answer_of(record: dict[str, Any], example: EvaluationExample) -> Answer:
    """The answer that ``prediction_line`` wrote of an example, with all its scores."""
    text = record["prediction"]
    if "options" not in record:
        return Answer.of(example, text)
    from ...lightning_modules.evaluation.likelihood import OptionScores  # torch, which a report does not need

    options = [option.strip() for option in example.options]
    by_option = [record["options"][option] for option in options]
    kinds = {kind: tuple(scores[kind] for scores in by_option) for kind in by_option[0]}
    return Answer.chosen(example, OptionScores(**kinds), options.index(text), record["tied"])


def read_predictions(path: Path) -> list[Prediction]:
    """The lines of a file, in order.

    Raises:
        ValueError: A line is not one of ours, or there is none.
    """
    # A line ends at "\n" alone: splitlines would also cut texts at U+2028, which JSON leaves as it is.
    lines = path.read_text(encoding="utf-8").split("\n")
    found = [_prediction(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line]
    if not found:
        raise ValueError(f"{path} holds no prediction; run `crosstask test` with the callback PredictionWriter")
    return found


def written_coverage(predictions: Path) -> Coverage | None:
    """What the run's own report says of the tasks that its table lists; None where it has none.

    Args:
        predictions: The file of the run's predictions of a stage.
    """
    path = predictions.parents[1] / f"report/{predictions.stem}/report.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("coverage") if path.is_file() else None
    if found is None:
        return None
    return Coverage(found["stated_by"], [TaskCoverage(**task) for task in found["tasks"]])


def _prediction(line: str, where: str) -> Prediction:
    try:
        record = json.loads(line)
        metric, rouge, exact = record["metric"], float(record["rouge_l"]), float(record["exact_match"])
        belongs = {name: record[name] for name in ("benchmark", "task", "parent", "category", "level", "shots", "id")}
        more = {name: float(record[name]) for name in ("token_f1", "accuracy") if name in record}
        score = own_score(metric, rouge, exact, **more)
        instance = ScoredInstance(**belongs, metric=metric, score=score, rouge_l=rouge, exact_match=exact)
        found = Prediction(instance, record["prompt"], tuple(record["references"]), record["prediction"])
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}); the file may be cut off: evaluate again") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: no prediction of this version of crosstask ({type(error).__name__}: {error}); evaluate again"
        ) from error
    if found.instance.level not in LEVELS or found.instance.metric not in get_args(Metric):
        raise ValueError(
            f"{where}: level {found.instance.level!r} should be one of {', '.join(LEVELS)}, and metric "
            f"{found.instance.metric!r} one of {', '.join(get_args(Metric))}"
        )
    return found


def find_predictions(run: Path, stage: str) -> Path:
    """The file of a stage in a run: the run's folder, the folder over its versions (the last one counts), or the file.

    Raises:
        ValueError: There is none.
    """
    if run.is_file():
        return run
    name = f"predictions/{stage}.jsonl"
    versions = sorted(run.glob(f"version_*/{name}"), key=lambda path: int(path.parents[1].name.rpartition("_")[2]))
    for path in (run / name, *reversed(versions)):
        if path.is_file():
            return path
    others = sorted({path.stem for path in run.glob("**/predictions/*.jsonl")})
    found = f"it holds those of {', '.join(others)}: set `stage`" if others else "run `crosstask test` first"
    raise ValueError(f"no {name} in {run if run.is_dir() else f'{run}, which does not exist'}; {found}")
