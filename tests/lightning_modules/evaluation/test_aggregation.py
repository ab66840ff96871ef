"""Aggregation: OPT-IML's own averages from its own cells, and each step by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from crosstask.datamodules.schema import EvaluationExample, Level, Metric
from crosstask.lightning_modules.evaluation.aggregation import (
    ScoredInstance,
    TaskScore,
    columns,
    level_scores,
    selection_score,
    selection_scores_of,
    shot_averages,
    task_scores,
)
from crosstask.lightning_modules.evaluation.metrics import Scores
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.optimization import Optimization

HELD_OUT, PARTIAL, FULL = "fully_held_out", "partially_supervised", "fully_supervised"
Cells = Sequence[tuple[Level, str, float, float | None]]

# Table 7, first row (and Table 4, EPS 4096): level, category, 0-shot, 5-shot; summarization has none with 5.
TABLE_7: Cells = [
    (HELD_OUT, "Cause Effect Classification", 63.5, 62.5),
    (HELD_OUT, "Grammar Error Correction", 86.1, 87.5),
    (HELD_OUT, "Stereotype Detection", 58.9, 82.3),
    (HELD_OUT, "Word Analogy", 17.2, 57.8),
    (PARTIAL, "Reasoning", 2.6, 20.4),
    (PARTIAL, "MMLU", 41.5, 37.0),
    (PARTIAL, "Question Answering", 69.3, 59.0),
    (PARTIAL, "Summarization", 18.1, None),
    (PARTIAL, "Toxic Language Detection", 60.0, 70.0),
    (FULL, "Dialogue Generation", 16.1, 15.8),
    (FULL, "Question Answering", 87.6, 83.5),
    (FULL, "Summarization", 31.3, None),
]


def task(
    name: str, category: str, level: Level, shots: int, score: float, benchmark: str = "b", parent: str | None = None
) -> TaskScore:
    return TaskScore(benchmark, name, parent, category, level, shots, "rouge_l", score, 100)


def tasks_of(level: Level, category: str, shots: int, score: float) -> list[TaskScore]:
    """Tasks whose column is `score`, although their flat mean is not: subtypes, and one task in two collections."""
    of = {"category": category, "level": level, "shots": shots}
    subjects = [task(f"subject {i}", parent="MMLU", score=score - 10 + (i - 28) / 2, **of) for i in range(57)]
    names = {"p": "p/race", "s": "race"}  # a Bench puts its collection's name before a task's
    twice = [task(names[b], score=score + up, benchmark=b, **of) for b, up in (("p", 7), ("s", 13))]
    return [*subjects, *twice]


def test_table_7_averages_come_out_of_its_cells() -> None:
    tasks = []
    for level, category, zero, five in TABLE_7:
        tasks += tasks_of(level, category, 0, zero)
        tasks += tasks_of(level, category, 5, 99.0 if five is None else five)  # 99 must not count
    found = columns(tasks)
    assert len(found) == 22
    averages = shot_averages(found)
    assert (round(float(averages[0]), 1), round(float(averages[5]), 1)) == (46.0, 57.6)
    assert selection_score(found) == pytest.approx((12 * 46.0167 + 10 * 57.58) / 22, abs=1e-3)
    flat = np.mean([float(t.score) for t in tasks if t.shots == 0])
    assert abs(flat - 46.0) > 5  # the difference is visible, so the test means something
    assert level_scores(found)[HELD_OUT, 0] == pytest.approx((63.5 + 86.1 + 58.9 + 17.2) / 4)


# Table 5: columns FLAN, SNI, PromptSource | Reasoning, FLAN (0-shot: a summarization task), MMLU, SNI, PS | FLAN, PS.
TABLE_5 = {
    "2/1/27/40/27/1/2": "86.8/81.2 52.4/63.2 77.9/83.3 2.6/21.3 20.2 36.3/30.3 67.3/60.4 57.8/61.7 86.4/81.6 43.2/48.8",
    "7/1/35/25/28/2/2": "85.6/81.2 51.0/61.6 78.0/82.1 2.6/19.9 20.0 36.3/31.9 65.1/60.6 59.6/63.1 85.0/84.0 43.2/49.3",
    "4/2/20/25/45/2/2": "88.8/83.6 54.5/62.2 73.5/85.0 2.5/13.1 19.8 38.2/33.2 63.0/57.5 56.1/61.8 86.1/84.2 43.0/48.7",
}
PLACES: list[tuple[Level, str]] = [
    *[(HELD_OUT, name) for name in ("FLAN", "SNI", "PS")],
    *[(PARTIAL, name) for name in ("Reasoning", "FLAN", "MMLU", "SNI", "PS")],
    *[(FULL, name) for name in ("FLAN", "PS")],
]


@pytest.mark.parametrize(("row", "pooled"), [(0, 55.93), (1, 55.79), (2, 55.52)])
def test_the_three_best_proportions_of_table_5_come_out_in_the_papers_order(row: int, pooled: float) -> None:
    cells = list(TABLE_5.values())[row].split()
    tasks = []
    for (level, benchmark), cell in zip(PLACES, cells, strict=True):
        category = "Summarization" if (level, benchmark) == (PARTIAL, "FLAN") else "Question Answering"
        for shots, score in zip((0, 5), (*map(float, cell.split("/")), 99.0), strict=False):
            # The same task in every benchmark: where columns are benchmarks, it counts in each.
            tasks.append(task("race", category, level, shots, score, benchmark=benchmark))
    found = columns(tasks, by="benchmark")
    assert len(found) == 19
    assert round(float(selection_score(found)), 2) == pooled


def instance(name: str, category: str, score: float, metric: Metric = "rouge_l", shots: int = 0) -> ScoredInstance:
    return ScoredInstance("sni", name, None, category, HELD_OUT, shots, metric, "id", score, score, score)


def test_a_column_weighs_its_tasks_equally_however_many_instances_they_have() -> None:
    rows = [instance("large", "Titles", 1.0)] * 30 + [instance("small", "Titles", 0.0)] * 10
    (column,) = columns(task_scores(rows))
    assert column.score == 0.5


def test_mmlu_is_a_column_beside_the_other_question_answering() -> None:
    subjects = [
        instance(f"mmlu/{name}", "Question Answering", 1.0)._replace(parent="mmlu") for name in ("law", "physics")
    ]
    race = instance("sni/race", "Question Answering", 0.5)
    found = columns(task_scores([*subjects, race]))
    assert [(column.name, column.tasks) for column in found] == [("MMLU", 1), ("Question Answering", 1)]


def test_every_step_takes_resampled_scores_as_well() -> None:
    rows = [instance("a", "X", 1.0), instance("a", "X", 0.0), instance("b", "Y", 1.0)]
    found = columns(task_scores(rows, lambda scores: np.array([scores.min(), scores.max()])))
    np.testing.assert_array_equal(selection_score(found), [0.5, 1.0])


def test_what_training_logs_of_a_validation() -> None:
    examples = [
        EvaluationExample(0, "a", "X", HELD_OUT, "0", "", ("x",), metric="rouge_l"),
        EvaluationExample(1, "a", "X", HELD_OUT, "1", "", ("x",), metric="rouge_l", shots=5),
        EvaluationExample(2, "b", "Y", FULL, "2", "", ("x",), metric="exact_match"),
        EvaluationExample(3, "c", "Y", FULL, "3", "", ("x",), metric="accuracy"),  # not asked
    ]
    scores = Scores(np.arange(3), np.array([0.5, 0.75, 0.5]), np.array([0.0, 0.0, 1.0]))
    assert selection_scores_of(scores, examples) == {"selection": 0.75, "average_0_shot": 0.75, "average_5_shot": 0.75}
    nothing = Scores(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))
    assert selection_scores_of(nothing, examples) == {}
    with pytest.raises(ValueError, match="at least one task"):
        selection_score([])


def test_a_checkpoint_is_chosen_by_the_selection_score(
    make_datamodule: Callable[..., Any], tiny_model: dict[str, Any], toybench: Path, tmp_path: Path
) -> None:
    data = make_datamodule(evaluation={"max_new_tokens": 4})
    module = InstructionTuningModule(
        str(toybench / "tokenizer"), config=tiny_model, row_length=128, optimizer=Optimization(warmup=1)
    )
    keep = ModelCheckpoint(tmp_path / "best", monitor="validation/selection", mode="max", save_top_k=1)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=2, val_check_interval=1, callbacks=[keep], **quiet)
    trainer.fit(module, data)
    assert keep.best_model_score is not None
    assert module.scores is not None
    last = selection_scores_of(module.scores, data.evaluation_examples("validation"))
    assert float(trainer.callback_metrics["validation/selection"]) == pytest.approx(last["selection"])
    assert float(keep.best_model_score) >= last["selection"] - 1e-7
