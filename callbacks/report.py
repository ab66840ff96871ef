"""The generalization report: scores by level, category and task, as numbers, Markdown and a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from ..datamodules.schema import LEVELS, EvaluationExample
from ..lightning_modules.metrics import Estimate, Scores, bootstrap_by

METRICS = {"rouge_l": "ROUGE-L", "exact_match": "Exact match"}


@dataclass(frozen=True)
class Group:
    """What is reported of a set of instances: how many tasks they come from, and an estimate for each metric."""

    name: str
    tasks: int
    estimates: Mapping[str, Estimate]

    @property
    def instances(self) -> int:
        return next(iter(self.estimates.values())).count if self.estimates else 0


@dataclass(frozen=True)
class Report:
    """Scores of one evaluation; every mean is over instances, as Super-NaturalInstructions is scored officially.

    Args:
        overall: All instances.
        levels: The three levels of generalization, in order; one without tasks has no estimates.
        categories: Pooled instances of each category.
        tasks: Each task.
        unscored: Examples that were to be asked and were not, as in a run with limited batches.
    """

    overall: Group
    levels: list[Group]
    categories: list[Group]
    tasks: list[Group]
    unscored: int


def build_report(scores: Scores, examples: Sequence[EvaluationExample]) -> Report:
    """Group scores by what their examples say."""
    by_number = {example.number: example for example in examples}
    scored = [by_number[number] for number in scores.number.tolist()]
    levels = {group.name: group for group in _groups(scores, scored, lambda example: example.level)}
    overall = _groups(scores, scored, lambda example: "overall")
    return Report(
        overall=overall[0] if overall else Group("overall", 0, {}),
        levels=[levels.get(level, Group(level, 0, {})) for level in LEVELS],
        categories=sorted(_groups(scores, scored, lambda example: example.category), key=lambda group: group.name),
        tasks=sorted(_groups(scores, scored, lambda example: example.task), key=lambda group: group.name),
        unscored=len(examples) - len(scored),
    )


def _groups(
    scores: Scores, examples: Sequence[EvaluationExample], key: Callable[[EvaluationExample], str]
) -> list[Group]:
    names = [key(example) for example in examples]
    tasks: dict[str, set[str]] = {}
    for name, example in zip(names, examples, strict=True):
        tasks.setdefault(name, set()).add(example.task)
    estimates = {metric: bootstrap_by(getattr(scores, metric), names) for metric in METRICS}
    return [Group(name, len(tasks[name]), {metric: estimates[metric][name] for metric in METRICS}) for name in tasks]


def percent(estimate: Estimate | None) -> str:
    """A score in percent with its interval.

    >>> percent(Estimate(0.5, 0.4125, 0.6, 100))
    '50.0 [41.2, 60.0]'
    """
    if estimate is None:
        return "no tasks"
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _row(group: Group) -> list[str]:
    name = group.name.replace("_", " ") if group.name in LEVELS else group.name
    scores = [percent(group.estimates.get(metric)) for metric in METRICS]
    return [name, str(group.tasks), str(group.instances), *scores]


def _unscored(report: Report) -> str | None:
    """What to say of examples that are missing in every mean."""
    if not report.unscored:
        return None
    return f"{report.unscored} of {report.unscored + report.overall.instances} examples were not asked."


def render_terminal(report: Report, title: str) -> Table:
    """The levels and the overall scores, for a terminal."""
    # Without vertical lines it fits 80 columns, which is also what a SLURM log is given.
    title = f"{title}: percent, 95% intervals"
    table = Table("level", title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in ("tasks", "instances", *METRICS.values()):
        table.add_column(column, justify="right")
    for group in report.levels:
        table.add_row(*_row(group))
    table.add_section()
    table.add_row(*_row(report.overall))
    table.caption = _unscored(report)
    return table


def render_markdown(report: Report, title: str) -> str:
    """The whole report as Markdown."""
    lines = [f"# {title}", "", "Percent with 95% bootstrap intervals over instances; every mean is over instances.", ""]
    if missing := _unscored(report):
        lines += [missing, ""]
    for heading, groups in (
        ("Levels of generalization", [*report.levels, report.overall]),
        ("Categories", report.categories),
        ("Tasks", report.tasks),
    ):
        lines += [
            f"## {heading}",
            "",
            f"| | tasks | instances | {' | '.join(METRICS.values())} |",
            "|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(_row(group))} |" for group in groups]
        lines.append("")
    return "\n".join(lines)
