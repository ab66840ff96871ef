"""Plot score against model size from the reports of several models.

It reads folders of `crosstask adapt` and of `crosstask classify`. Rows of the same name are connected to one line
through all reports.

Example:
    crosstask scaling runs/adapt_base runs/adapt_large --output scaling.svg
"""

from collections.abc import Mapping, Sequence

from ..callbacks.report.figure_style import figure_format, write_figure
from ..callbacks.report.model_sizes import ModelScore, default_rows, read_model_scores, read_report, read_tasks
from ..callbacks.report.score_figures import size_curves, size_panels
from ..datamodules.atomic_files import require_new
from ..datamodules.messages import expanded, some
from ..datamodules.visible_text import visible
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(plot_scaling, words)


def plot_scaling(
    reports: list[str], output: str = "scaling.svg", rows: Sequence[str] = (), by_task: bool = False
) -> None:
    """Draw scores over the number of parameters. Rows of the same name form one line across all reports.

    Args:
        reports: Folders that `crosstask adapt` wrote, whose model size is that of the language model that generated
            the samples, or folders that `crosstask classify` wrote, which have a size for each model.
        output: Path of the figure, a new file; its suffix decides the format: .svg, .png or .pdf.
        rows: Names of the tables' rows to draw; by default all models of classify, or of adapt the scorers,
            "self-score, sum" and "best single decoding".
        by_task: Draw a panel for each task, as Cappy's Figure 5, in place of the means over tasks.
    """
    path = expanded(output)
    figure_format(path)
    require_new(path)
    metric, tasks = _shared_metric(reports), _shared_tasks(reports)
    title = f"{metric} in percent over the number of parameters"
    if by_task:
        panels = {task: _scores_by_row(reports, rows, task) for task in tasks}
        write_figure(size_panels(panels, metric), path, f"{title}, by task")
    else:
        panels = {f"mean of {len(tasks)} tasks": _scores_by_row(reports, rows)}
        write_figure(size_curves(next(iter(panels.values())), metric), path, title)
    for panel, scores in panels.items():
        print(visible(panel))
        for name, points in scores.items():
            print(f"  {visible(name)}: {', '.join(f'{one.parameters:.3g} {100 * one.score:.1f}' for one in points)}")
    print(path)


def _shared_metric(reports: Sequence[str]) -> str:
    """Return the metric of all reports, ROUGE-L or accuracy.

    Raises:
        ValueError: There is no report, one is given twice, or the metrics differ.
    """
    if not reports:
        raise ValueError("name at least one folder of `crosstask adapt` or `crosstask classify`")
    if len({expanded(report).absolute() for report in reports}) < len(reports):
        raise ValueError(f"a report is given twice: {', '.join(map(str, reports))}")
    metrics = {"accuracy" if "models" in read_report(report) else "ROUGE-L" for report in reports}
    if len(metrics) > 1:
        raise ValueError("reports of adapt score by ROUGE-L and those of classify by accuracy: draw them separately")
    return metrics.pop()


def _shared_tasks(reports: Sequence[str]) -> list[str]:
    """Return the names of the tasks of all reports.

    Raises:
        ValueError: Reports have different tasks, so that a line would connect means over different tasks.
    """
    first, *others = map(read_tasks, reports)
    for report, tasks in zip(reports[1:], others, strict=True):
        if differ := sorted(set(tasks) ^ set(first)):
            raise ValueError(
                f"{report} has {len(tasks)} tasks and {reports[0]} {len(first)}; they differ in {some(differ)}: a "
                "line would connect scores of different tasks. Evaluate all models on the same tasks"
            )
    return first


def _scores_by_row(
    reports: Sequence[str], rows: Sequence[str], task: str | None = None
) -> Mapping[str, list[ModelScore]]:
    """Return the scores of each row, in the order of model sizes.

    Args:
        reports: Folders of the reports.
        rows: Names of the rows; the defaults of each report if empty.
        task: Name of a task; None for the means over tasks.

    Raises:
        ValueError: No report has one of the rows.
    """
    scores: dict[str, list[ModelScore]] = {}
    available: set[str] = set()
    for report in reports:
        points = read_model_scores(report, task)
        available |= set(points)
        for name in list(rows) or default_rows(report):
            if name in points:
                scores.setdefault(name, []).append(points[name])
    if missing := [name for name in rows if name not in scores]:
        raise ValueError(f"no report has a row {missing[0]!r}; there are {some(sorted(available))}")
    return {name: sorted(points) for name, points in scores.items()}
