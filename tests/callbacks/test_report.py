"""The generalization report: hand-computed numbers."""

import numpy as np

from crosstask.callbacks.report.scores import build_report
from crosstask.callbacks.report.text import render_markdown
from crosstask.datamodules.schema import EvaluationExample, Level
from crosstask.lightning_modules.evaluation.aggregation import ScoredInstance, scored_instances
from crosstask.lightning_modules.evaluation.metrics import Scores


def example(number: int, task: str, category: str, level: Level) -> EvaluationExample:
    return EvaluationExample(number, task, category, level, str(number), "", ("x",))


EXAMPLES = [
    example(0, "copy", "Copying", "fully_supervised"),
    example(1, "copy", "Copying", "fully_supervised"),
    example(2, "copy backwards", "Copying", "partially_supervised"),
    example(3, "copy backwards", "Copying", "partially_supervised"),
]
SCORES = Scores(
    np.arange(4),
    np.array([1.0, 0.5, 0.5, 0.0]),
    np.array([1.0, 0.0, 0.0, 0.0]),
)


def instances() -> list[ScoredInstance]:
    return scored_instances(SCORES, EXAMPLES)


def test_means_are_over_instances_in_every_grouping() -> None:
    report = build_report([instances()])
    means = {group.name: group.estimates["rouge_l"].mean for group in [*report.levels[:2], *report.tasks]}
    assert means == {"fully_supervised": 0.75, "partially_supervised": 0.25, "copy": 0.75, "copy backwards": 0.25}
    (overall,) = report.overall
    assert overall.estimates["exact_match"].mean == 0.25
    (copying,) = report.categories
    assert (copying.tasks, copying.instances, copying.estimates["rouge_l"].mean) == (2, 4, 0.5)


def test_all_three_levels_are_listed_also_where_there_are_no_tasks() -> None:
    report = build_report([instances()])
    assert [(group.name, group.tasks) for group in report.levels] == [
        ("fully_supervised", 1),
        ("partially_supervised", 1),
        ("fully_held_out", 0),
    ]
    assert "| fully held out | 0 | 0 | no tasks | no tasks |" in render_markdown(report, "title")


def test_an_example_without_a_score_is_not_averaged_away() -> None:
    report = build_report([instances()], expected=5)
    assert report.unscored == 1
    assert "1 of 5 examples" in render_markdown(report, "title")
    assert "of 4 examples" not in render_markdown(build_report([instances()]), "title")
    assert "no tasks" in render_markdown(build_report([[]], expected=4), "title")


def test_repeated_runs_have_intervals_over_runs() -> None:
    """Two runs with means 0.5 and 0.7: 0.6 +- 12.7 standard errors of 0.1 (Student's t, one degree of freedom)."""
    better = [row._replace(rouge_l=row.rouge_l + 0.2, score=row.score + 0.2) for row in instances()]
    (overall,) = build_report([instances(), better]).overall
    estimate = overall.estimates["rouge_l"]
    assert abs(estimate.mean - 0.6) < 1e-12
    assert abs((estimate.high - estimate.low) / 2 - 12.706 * 0.1) < 1e-3
