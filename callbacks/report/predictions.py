"""Lines of ``predictions/<stage>.jsonl``, written during evaluation and read by reports."""

import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ...datamodules.evaluation.coverage import Coverage, TaskCoverage
from ...datamodules.schema import LEVELS, EvaluationExample, Metric
from ...lightning_modules.evaluation.aggregation import ScoredInstance
from ...lightning_modules.evaluation.answers import Answer
from ...lightning_modules.evaluation.option_scores import OptionScores
from ...lightning_modules.evaluation.text_metrics import score_by_metric


class Prediction(NamedTuple):
    """A scored instance with its prompt, references and prediction."""

    instance: ScoredInstance
    prompt: str
    references: tuple[str, ...]
    prediction: str


def prediction_line(answer: Answer) -> dict[str, Any]:
    """The record of an answer, as it is written."""
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
    """The answer with all its scores, from the record that ``prediction_line`` made of it."""
    text = record["prediction"]
    if "options" not in record:
        return Answer.of(example, text)._replace(rouge_l=record["rouge_l"])
    options = [option.strip() for option in example.options]
    by_option = [record["options"][option] for option in options]
    kinds = {kind: tuple(scores[kind] for scores in by_option) for kind in by_option[0]}
    answer = Answer.chosen(example, OptionScores(**kinds), options.index(text), record["tied"])
    return answer._replace(rouge_l=record["rouge_l"])


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file, in order.

    Raises:
        ValueError: A line is no prediction, or there is none.
    """
    # Lines end at "\n" only: splitlines would also split at U+2028, which JSON does not escape.
    lines = path.read_text(encoding="utf-8").split("\n")
    predictions = [_prediction(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line]
    if not predictions:
        raise ValueError(f"{path} has no predictions: run `crosstask test` with the callback PredictionWriter")
    return predictions


def written_coverage(predictions: Path) -> Coverage | None:
    """The coverage that the run's report holds; None if it has no coverage of a table.

    Args:
        predictions: File of the run's predictions of a stage.
    """
    path = predictions.parents[1] / f"report/{predictions.stem}/report.json"
    coverage = json.loads(path.read_text(encoding="utf-8")).get("coverage") if path.is_file() else None
    if coverage is None:
        return None
    return Coverage(coverage["stated_by"], [TaskCoverage(**task) for task in coverage["tasks"]])


def _prediction(line: str, where: str) -> Prediction:
    try:
        record = json.loads(line)
        metric, rouge, exact = record["metric"], float(record["rouge_l"]), float(record["exact_match"])
        belongs = {name: record[name] for name in ("benchmark", "task", "parent", "category", "level", "shots", "id")}
        more = {name: float(record[name]) for name in ("token_f1", "accuracy") if name in record}
        score = score_by_metric(metric, rouge, exact, **more)
        instance = ScoredInstance(**belongs, metric=metric, score=score, rouge_l=rouge, exact_match=exact)
        prediction = Prediction(instance, record["prompt"], tuple(record["references"]), record["prediction"])
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}); the file may be truncated: evaluate again") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: not a prediction of this version of crosstask ({type(error).__name__}: {error}); evaluate again"
        ) from error
    if prediction.instance.level not in LEVELS or prediction.instance.metric not in get_args(Metric):
        raise ValueError(
            f"{where}: level {prediction.instance.level!r} should be one of {', '.join(LEVELS)}, and metric "
            f"{prediction.instance.metric!r} one of {', '.join(get_args(Metric))}"
        )
    return prediction


def find_predictions(run: Path, stage: str) -> Path:
    """The predictions of a stage of a run.

    Args:
        run: The run's folder, the folder of its versions (the last one counts), or the file.
        stage: Which predictions: test, validation or predict.

    Raises:
        ValueError: There is no such file.
    """
    if run.is_file():
        return run
    name = f"predictions/{stage}.jsonl"
    versions = sorted(run.glob(f"version_*/{name}"), key=lambda path: int(path.parents[1].name.rpartition("_")[2]))
    for path in (run / name, *reversed(versions)):
        if path.is_file():
            return path
    others = sorted({path.stem for path in run.glob("**/predictions/*.jsonl")})
    hint = f"it has those of {', '.join(others)}: set `stage`" if others else "run `crosstask test` first"
    raise ValueError(f"no {name} in {run if run.is_dir() else f'{run}, which does not exist'}; {hint}")
