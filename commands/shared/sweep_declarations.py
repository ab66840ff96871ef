"""Declaration of a sweep in YAML: arms that change a recipe, and the scores that a paper reports for them.

::

    title: Caps of a task's examples
    source: "arXiv 2212.12017, Table 4"
    recipe: papers/opt_iml_30b            # a YAML of `crosstask fit`, by path or by name
    stage: validation                     # or test
    by: category                          # what a column is: a category or a benchmark
    settings: {...}                       # of all arms, over the recipe's
    arms:
      "128": {data.init_args.mixture.cap: 128}  # a dot leads into the settings below
    published:
      shots: [0, 5]
      columns: {Cause-Effect: {level: fully_held_out, column: Cause Effect Classification}, Average: {}}
      scores: {"128": [61.4/62.0, 45.5]}  # one text a column, one number for each of the shots, or for the first ones
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...callbacks.report.published_scores import PublishedTable
from ...datamodules.messages import nearest
from ...datamodules.schema import LEVELS
from ...datamodules.yaml_files import read_yaml
from ...lightning_modules.evaluation.aggregation import Cell
from .config_names import config_path, merged

FIELDS = ("title", "source", "recipe", "stage", "by", "settings", "arms", "published")


@dataclass(frozen=True)
class Sweep:
    """Declaration of an experiment: arms, i.e. variants of a recipe, that are trained, evaluated and compared.

    Args:
        title: Heading of the report.
        recipe: YAML of ``crosstask fit``, by path or by name.
        arms: By the name of an arm, its settings that override the recipe's. Others are compared with the first arm.
        settings: Settings that override the recipe's in all arms.
        stage: Stage that is evaluated: ``validation`` or ``test``.
        by: Columns over which scores are averaged: ``category`` or ``benchmark``.
        published: Scores that a paper reports for these arms; None for none.
    """

    title: str
    recipe: str
    arms: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stage: Literal["validation", "test"] = "test"
    by: Literal["category", "benchmark"] = "category"
    published: PublishedTable | None = None


def folder_name(arm: str) -> str:
    """Return the folder name of an arm (a variant of a sweep's recipe): its name, with ``-`` for special characters.

    >>> folder_name("4/2/20/25/45/2/2")
    '4-2-20-25-45-2-2'
    """
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in arm)


def read_sweep(name: str, recipe: str | None = None) -> Sweep:
    """Read a sweep from a YAML file, given by path or by name.

    Args:
        name: Path or name of the file.
        recipe: YAML of ``crosstask fit`` in place of the sweep's; None for the sweep's.

    Raises:
        ValueError: The file declares no sweep; the message names the field.
    """
    path = config_path(name)
    try:
        content = read_yaml(Path(path))
        return _sweep(content | {"recipe": recipe} if recipe and isinstance(content, dict) else content)
    except ValueError as error:
        raise ValueError(f"{path} declares no sweep: {error}; one is papers/ablations/proportions") from error


def _sweep(content: Any) -> Sweep:
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping with {', '.join(FIELDS)}")
    for name in content:
        if name not in FIELDS:
            raise ValueError(f"unknown field {name!r}; {nearest(str(name), FIELDS)}")
    if not isinstance(content.get("title"), str):
        raise ValueError(f"title should be a text, got {content.get('title')!r}")
    if not isinstance(content.get("recipe"), str):
        raise ValueError(
            f"recipe should be a YAML of `crosstask fit`, by path or by name, got {content.get('recipe')!r}; --recipe "
            "gives one, too"
        )
    stage, by = content.get("stage", "test"), content.get("by", "category")
    if stage not in ("validation", "test") or by not in ("category", "benchmark"):
        raise ValueError(f"stage is validation or test and by is category or benchmark, got {stage!r} and {by!r}")
    listed = content.get("arms")
    if not isinstance(listed, dict) or len(listed) < 2:
        raise ValueError("arms should be at least two, by name")
    arms = {str(name): _settings(settings, f"the arm {name!r}") for name, settings in listed.items()}
    folders = [folder_name(name) for name in arms]
    if shared := next((name for name in arms if folders.count(folder_name(name)) > 1), None):
        raise ValueError(f"another arm would have the folder of {shared!r}, {folder_name(shared)}: rename one")
    published = content.get("published")
    table = None if published is None else _published(published, str(content.get("source", "")), set(arms))
    settings = _settings(content.get("settings"), "settings")
    return Sweep(content["title"], content["recipe"], arms, settings, stage, by, table)


def _settings(content: Any, what: str) -> dict[str, Any]:
    """Return settings as nested dictionaries; ``{a.b: 1}`` is a short form of ``{a: {b: 1}}``."""
    if not isinstance(content or {}, dict):
        raise ValueError(f"{what} should be a mapping of settings, got {content!r}")
    settings: dict[str, Any] = {}
    for name, value in (content or {}).items():
        for part in reversed(str(name).split(".")):
            value = {part: value}
        settings = merged(settings, value)
    return settings


def _published(content: Any, source: str, arms: set[str]) -> PublishedTable:
    shots = tuple(content.get("shots", (0,)))
    columns = {str(name): _cell(str(name), of or {}) for name, of in (content.get("columns") or {}).items()}
    if not columns or not source:
        raise ValueError("published scores need columns, and the sweep a source")
    scores = {}
    for arm, texts in (content.get("scores") or {}).items():
        if str(arm) not in arms:
            raise ValueError(f"published.scores names the arm {str(arm)!r}; {nearest(str(arm), arms)}")
        if len(texts) != len(columns):
            raise ValueError(f"published.scores has {len(texts)} columns for {str(arm)!r}, expected {len(columns)}")
        scores[str(arm)] = {name: _numbers(text, len(shots)) for name, text in zip(columns, texts, strict=True)}
    return PublishedTable(source, shots, columns, scores)


def _cell(name: str, content: Mapping[str, str]) -> Cell:
    """Return the cell of a published column: a column at a level, or the average over all columns."""
    if not content:
        return Cell("average")
    if set(content) != {"level", "column"} or content["level"] not in LEVELS:
        raise ValueError(f"the published column {name!r} needs a level ({', '.join(LEVELS)}) and a column")
    return Cell("column", content["level"], content["column"])


def _numbers(text: Any, most: int) -> tuple[float, ...]:
    """Return the percentages of a cell, one for each number of shots.

    >>> _numbers("61.4/62.0", 2)
    (61.4, 62.0)
    """
    try:
        numbers = tuple(float(part) for part in str(text).split("/"))
    except ValueError:
        numbers = ()
    if not 1 <= len(numbers) <= most or not all(0 <= number <= 100 for number in numbers):
        raise ValueError(f"a published score should be 1 to {most} percentages joined by /, got {text!r}")
    return numbers
