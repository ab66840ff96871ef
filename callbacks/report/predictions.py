"""Lines of ``predictions/<stage>.jsonl``: written during evaluation, read by reports."""

from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from ...datamodules.data_files import parse_json, read_json, read_text
from ...datamodules.evaluation.coverage import Coverage, TaskCoverage
from ...datamodules.messages import kind
from ...datamodules.record_fields import number_field, text_field, whole_field
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
    """Return an answer as the record that is one line of ``predictions/<stage>.jsonl``."""
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
        "match": example.match,
        "id": example.id,
        "prompt": example.source,
        "references": list(example.references),
        "prediction": answer.prediction,
        "rouge_l": answer.rouge_l,
        "exact_match": answer.exact_match,
        **answer.details(),
    }


def answer_of(record: dict[str, Any], example: EvaluationExample) -> Answer:
    """Return an answer with all its scores from its line in a file of predictions, when an evaluation resumes.

    Args:
        record: The parsed line, as ``prediction_line`` wrote it.
        example: The example that was answered.
    """
    text = record["prediction"]
    if "options" not in record:
        return Answer.of(example, text)._replace(**_by_rouge(record))
    options = [option.strip() for option in example.options]
    by_option = [record["options"][option] for option in options]
    kinds = {kind: tuple(scores[kind] for scores in by_option) for kind in by_option[0]}
    answer = Answer.chosen(example, OptionScores(**kinds), options.index(text), record["tied"])
    return answer._replace(**_by_rouge(record))


def _by_rouge(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that depend on the implementation of ROUGE-L."""
    return {"rouge_l": record["rouge_l"], "unread": record.get("unread", False)}


def is_prediction_of(record: Any, example: EvaluationExample) -> bool:
    """Return whether a record from a file is a complete prediction for an example."""
    try:
        _checked_prediction(record)
        answer_of(record, example)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    recorded = record["task"], record["id"], record["shots"], record["prompt"]
    return recorded == (example.task, example.id, example.shots, example.source)


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a file, in order.

    Raises:
        ValueError: A line is no prediction, or there is none.
    """
    # Lines end at "\n" only: splitlines would also split at U+2028, which JSON does not escape.
    lines = read_text(path).split("\n")
    predictions = [_prediction(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line]
    if not predictions:
        raise ValueError(f"{path} has no predictions: run `crosstask test` with the callback PredictionWriter")
    return predictions


def written_coverage(predictions: Path) -> Coverage | None:
    """Read from a run's report which tasks of a published results table it has evaluated.

    None is returned if the run evaluated no published table, or has no report.

    Args:
        predictions: File of the run's predictions of a stage; the report is found beside it.

    Raises:
        ValueError: The report cannot be read.
    """
    path = predictions.parents[1] / f"report/{predictions.stem}/report.json"
    if not path.is_file():
        return None
    try:
        coverage = read_json(path).get("coverage")
        return None if coverage is None else _checked_coverage(coverage)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no report of an evaluation ({error}): evaluate again, or remove it") from error


def _checked_coverage(coverage: Any) -> Coverage:
    tasks = [TaskCoverage(**task) for task in coverage["tasks"]]
    for task in coverage["tasks"]:
        for name in ("task", "column", "level", "missing"):
            text_field(task, name)
        for name in ("available", "run", *(["expected"] if task["expected"] is not None else [])):
            whole_field(task, name)
        if task["level"] not in LEVELS:
            raise ValueError(f"level should be one of {', '.join(LEVELS)}, got {task['level']!r}")
    return Coverage(text_field(coverage, "stated_by"), tasks)


def _prediction(line: str, where: str) -> Prediction:
    record = parse_json(line, where, "the file may be truncated: evaluate again")
    try:
        return _checked_prediction(record)
    except ValueError as error:
        raise ValueError(f"{where}: not a prediction of this version of crosstask ({error}); evaluate again") from error


def _checked_prediction(record: Any) -> Prediction:
    """Return the prediction of a record.

    Raises:
        ValueError: A field is missing, or has another type or range.
    """
    if not isinstance(record, dict):
        raise ValueError(f"an object was expected, got {kind(record)}")
    texts = {name: text_field(record, name) for name in ("benchmark", "task", "category", "level", "metric", "id")}
    if texts["level"] not in LEVELS or texts["metric"] not in get_args(Metric):
        raise ValueError(
            f"level {texts['level']!r} should be one of {', '.join(LEVELS)}, and metric {texts['metric']!r} one of "
            f"{', '.join(get_args(Metric))}"
        )
    if record.get("parent") is not None:
        text_field(record, "parent")
    references = record.get("references")
    if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
        raise ValueError(f"references should be a list of texts, got {kind(references)}")
    scores = {name: number_field(record, name, 0, 1) for name in ("rouge_l", "token_f1", "accuracy") if name in record}
    rouge, exact = number_field(record, "rouge_l", 0, 1), _exact_match(record)
    more = {name: scores[name] for name in ("token_f1", "accuracy") if name in scores}
    score = score_by_metric(cast(Metric, texts["metric"]), rouge, exact, **more)
    belongs: dict[str, Any] = {**texts, "parent": record.get("parent"), "shots": whole_field(record, "shots")}
    belongs |= {name: record.get(name) is True for name in ("unread", "erased")}
    instance = ScoredInstance(**belongs, score=score, rouge_l=rouge, exact_match=exact)
    return Prediction(instance, text_field(record, "prompt"), tuple(references), text_field(record, "prediction"))


def _exact_match(record: dict[str, Any]) -> float:
    if record.get("exact_match") not in (True, False):  # 1.0 and 0.0 are equal to them
        raise ValueError(f"exact_match should be true or false, got {kind(record.get('exact_match'))}")
    return float(record["exact_match"])


def has_predictions(run: Path, stage: str) -> bool:
    """Return whether there is a file with a run's predictions; the arguments are those of ``find_predictions``."""
    try:
        return find_predictions(run, stage).is_file()
    except ValueError:
        return False


def find_predictions(run: Path, stage: str) -> Path:
    """Return the path of the file with a run's predictions.

    Args:
        run: The run's folder, the folder of its versions (the last one is used), or the file itself.
        stage: "test", "validation" or "predict".

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
