"""Sections of the report's page about single tasks, and predictions to read."""

from collections.abc import Iterable

from ...datamodules.schema import LEVELS
from ...lightning_modules.evaluation.aggregation import grouped
from .charts import Row, bars
from .comparison import Reading, SystemsReport
from .markup import Markup, element, join
from .page_parts import details, figure, score, table
from .scores import Group
from .text import metric_name, plain, plural

LONGEST_TEXT = 4000  # characters of a prompt or an answer that the page shows; the middle of a longer one is left out


def tasks_section(found: SystemsReport) -> Markup:
    """Bars for every task, level by level, the best first."""
    groups: dict[tuple[str, str, int], list[Group | None]] = {}
    for place, system in enumerate(found.systems):
        for group in system.report.tasks:
            key = (group.level, group.name, group.shots)
            groups.setdefault(key, [None] * len(found.systems))[place] = group
    several = len({shots for _, _, shots in groups}) > 1
    parts = []
    for level in (*LEVELS, "mixed"):
        of_level = {key: found for key, found in groups.items() if key[0] == level}
        if not of_level:
            continue
        of_task = grouped(of_level, lambda key: key[1])  # at all numbers of shots, which stay together
        means = {
            name: sum(_first(of_level[key]).estimates["score"].mean for key in keys) / len(keys)
            for name, keys in of_task.items()
        }
        ordered = sorted(of_level, key=lambda key: (-means[key[1]], key))
        rows = [
            Row(
                f"{name}, {plural(shots, 'shot')}" if several else name,
                "",
                [group.estimates["score"] if group else None for group in of_level[_, name, shots]],
            )
            for _, name, shots in ordered
        ]
        title = f"{plain(level).capitalize()}: {plural(len({name for _, name, _ in ordered}), 'task')}"
        parts += [element("h3", title), figure(bars(rows, title), "Each by its own metric, percent.", long=True)]
    return join([*parts, details("All tasks as a table", _task_table(found))])


def _first(groups: Iterable[Group | None]) -> Group:
    return next(group for group in groups if group)


def _task_table(found: SystemsReport) -> Markup:
    rows = [
        [
            group.name,
            group.category,
            system.name,
            group.metric.replace("_", " "),
            str(group.shots),
            str(group.instances),
        ]
        + [score(group.estimates[metric]) for metric in ("rouge_l", "exact_match")]
        for system in found.systems
        for group in system.report.tasks
    ]
    head = ["task", "category", "system", "metric", "shots", "instances", "ROUGE-L", "exact match"]
    return table(head, rows, text=(1, 2, 3))


def readings_section(found: SystemsReport) -> Markup:
    """Single answers of all systems, with what was asked and expected."""
    parts = []
    for heading, chosen in found.readings.items():
        parts.append(element("h3", heading))
        parts += [_reading(reading) for reading in chosen]
    if parts:
        said = "One instance of a task at most, as the model was asked and as it answered; scores by the task's metric."
        parts.insert(0, element("p", said, class_="pale"))
    return join(parts)


def _reading(reading: Reading) -> Markup:
    where = (
        f"{plain(reading.level)} · {reading.category} · {plural(reading.shots, 'shot')} · instance {reading.id} · "
        f"scored by {metric_name(reading.metric)}"
    )
    answers = [
        join([element("dt", f"{name}: {100 * reading.scores[name]:.1f}"), element("dd", _pre(answer or "(nothing)"))])
        for name, answer in reading.answers.items()
    ]
    expected = list(dict.fromkeys(reading.references))
    return element(
        "article",
        element("h4", reading.task),
        element("p", where, class_="where"),
        element(
            "dl",
            element("dt", "prompt"),
            element("dd", _pre(reading.prompt, class_="prompt", tabindex="0")),
            element("dt", "expected"),
            element("dd", *(_pre(reference) for reference in expected)),
            *answers,
        ),
    )


def _pre(text: str, **attributes: object) -> Markup:
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half:,} characters are left out here …]\n{text[-half:]}"
    return element("pre", text, dir="auto", **attributes)
