"""docs/numerics.md against the code: by whose rule each benchmark is scored."""

import json
import re
from pathlib import Path
from typing import get_args

from toy_readers import toy_benchmarks

import crosstask
from crosstask.datamodules.benchmarks import FLAN, Benchmark, FlanRows, NaturalInstructions, bigbench, promptsource
from crosstask.datamodules.benchmarks.catalogue import Catalogue
from crosstask.datamodules.schema import MatchRule, Metric
from crosstask.datamodules.toybench.families import write_families

PAGE = (Path(crosstask.__file__).parent / "docs/numerics.md").read_text(encoding="utf-8")

Scored = set[tuple[str, str]]
"""Pairs of metric and rule."""


def rows(first_header: str) -> list[list[str]]:
    """Cells of the page's tables whose first column has this header."""
    table = re.search(rf"^\| {first_header} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table, first_header
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table[1].splitlines()]


def documented() -> dict[str, Scored]:
    scored: dict[str, Scored] = {}
    for reader, metrics, rules, *_ in rows("reader"):
        pairs = {(m, r) for m in re.findall(r"`(\w+)`", metrics) for r in re.findall(r"`(\w+)`", rules)}
        for name in re.findall(r"`(\w+)`", reader):
            scored[name] = scored.get(name, set()) | pairs
    return scored


def declared(reader: Benchmark) -> Scored:
    """Metrics and rules of every task that a reader can read."""
    if isinstance(reader, Catalogue):
        return {(dataset.metric, dataset.match) for dataset in reader.datasets().values()}
    if isinstance(reader, bigbench.BigBench):
        return {(metric, "bigbench") for metric in [*bigbench.METRICS.values(), "rouge_l"]}
    if isinstance(reader, promptsource.PromptSource):
        metrics = [*promptsource.METRICS.values(), "rouge_l"]
        return {(metric, "squad" if metric == "token_f1" else "text") for metric in metrics}
    names = {name for split in ("train", "validation", "test") for name in reader.task_names(split)}  # type: ignore[arg-type]
    return {(task.metric, task.match) for task in map(reader.task, names)}


def declared_of_category(category: str, toybench: Path, folder: Path) -> Scored:
    """Metric and rule of a task of Super-NaturalInstructions in this category."""
    record = json.loads(min((toybench / "tasks").glob("*.json")).read_text(encoding="utf-8"))
    (folder / "tasks").mkdir()
    (folder / "tasks/task1.json").write_text(json.dumps(record | {"Categories": [category]}), encoding="utf-8")
    task = NaturalInstructions(str(folder)).task("task1")
    return {(task.metric, task.match)}


def test_every_reader_is_scored_as_the_page_says(tmp_path: Path, toybench: Path) -> None:
    write_families(tmp_path)
    readers = [*toy_benchmarks(tmp_path), NaturalInstructions(str(toybench))]
    scored: dict[str, Scored] = {}
    for reader in readers:
        scored[type(reader).__name__] = declared(reader)
    scored["NaturalInstructions"] |= declared_of_category("Textual Entailment", toybench, tmp_path)
    scored["FLAN"] |= declared(FLAN(f"{tmp_path}/flan/templates.py", {"common_gen": FlanRows()}))
    scored["FileTasks"] = {("rouge_l", "text")}  # the default; the toy tasks name metrics of their own
    assert documented() == scored


def test_every_rule_is_described() -> None:
    described = [re.findall(r"`(\w+)`", row[0]) for row in rows("rule")]
    assert [name for [name] in described] == list(get_args(MatchRule))
    assert {metric for pairs in documented().values() for metric, _ in pairs} == set(get_args(Metric))
