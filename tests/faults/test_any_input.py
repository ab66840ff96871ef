"""Packing, collation, rendering and reading of whatever Hypothesis can think of."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_readers import toy_benchmarks

from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.benchmarks import Benchmark, FileTasks
from crosstask.datamodules.packing.best_fit import Packing, best_fit, in_order, one_per_row
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.schema import IGNORE_INDEX, Example, Task, TokenizedExample
from crosstask.datamodules.toybench.families import write_families

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings, strategies  # noqa: E402

pytestmark = pytest.mark.faults

often = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON: Any = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("packing", [best_fit, in_order, one_per_row])
@often
@given(
    sizes=strategies.lists(strategies.integers(1, 64), min_size=1, max_size=300),
    capacity=strategies.integers(64, 128),
    seed=strategies.integers(0, 2**32),
)
def test_every_document_has_one_place_in_a_row_that_holds_it(
    packing: Packing, sizes: list[int], capacity: int, seed: int
) -> None:
    lengths = np.array(sizes)
    rows = packing(lengths, capacity, np.random.default_rng(seed))
    places = [rows.row(number) for number in range(len(rows))]
    assert sorted(np.concatenate(places).tolist()) == list(range(len(sizes)))
    assert all(0 < lengths[row].sum() <= capacity for row in places)


DOCUMENTS = strategies.lists(
    strategies.tuples(strategies.lists(strategies.integers(3, 99), min_size=2, max_size=40), strategies.floats(0, 1)),
    min_size=1,
    max_size=4,
)


@often
@given(rows=strategies.lists(DOCUMENTS, min_size=1, max_size=3))
def test_a_target_is_the_token_behind_its_column(rows: list[list[tuple[list[int], float]]]) -> None:
    documents = [[TokenizedExample(np.array(ids), int(share * (len(ids) - 1))) for ids, share in row] for row in rows]
    kind = CausalRows(160, 0)
    batch = kind.collate(documents, 1)
    flat = [document for row in documents for document in row]
    counted = kind.target_counts(
        np.array([len(each.input_ids) for each in flat]), np.array([each.n_source for each in flat])
    )
    assert int((batch.targets != IGNORE_INDEX).sum()) == counted.sum()
    trained, column = torch.where(batch.targets != IGNORE_INDEX)
    assert torch.equal(batch.targets[trained, column], batch.input_ids[trained, column + 1])
    assert torch.all(batch.position_ids[trained, column + 1] == batch.position_ids[trained, column] + 1)


@often
@given(
    definition=strategies.text(),
    text=strategies.text(),
    targets=strategies.lists(strategies.text().filter(str.strip), min_size=1, max_size=3),
    seed=strategies.integers(0, 2**31),
)
def test_a_prompt_is_a_function_of_the_seed_and_has_a_target_of_its_example(
    definition: str, text: str, targets: list[str], seed: int
) -> None:
    task = Task("bench", "task", "category", definition)
    example = Example("task", "1", 0, text, tuple(targets))
    one, two = (OptImlPrompt()(task, example, rendering_rng(seed, "task", "1")) for _ in range(2))
    assert one == two
    assert one.target in [target.rstrip() for target in targets]
    assert text.strip() in one.source


PLAIN = [None, True, -1, 1.5, "", "text", [], ["a"], [[]], {}, [{}], {"a": None}]


def replaced(value: Any, dice: random.Random) -> Any:
    """The value with some part of it replaced by any plain value."""
    parts: list[Any] = []
    if isinstance(value, dict | list):
        parts = list(value.items() if isinstance(value, dict) else enumerate(value))
    if not parts or dice.random() < 0.1:
        return dice.choice(PLAIN)
    key, part = dice.choice(parts)
    value[key] = replaced(part, dice)
    return value


def test_a_record_of_another_format_is_rejected_in_a_sentence(fault_seed: int, tmp_path: Path) -> None:
    """Some value in a file of some family is another one, at any depth; whatever is read then is text."""
    write_families(tmp_path, examples=3)
    dice = random.Random(fault_seed)
    files = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl"))
    for _ in range(30):
        path = dice.choice(files)
        content = path.read_text()
        try:
            path.write_text(json.dumps(replaced(json.loads(content), dice)))
        except json.JSONDecodeError:  # a record a line
            records = replaced([json.loads(line) for line in content.splitlines()], dice)
            path.write_text("\n".join(map(json.dumps, records if isinstance(records, list) else [records])))
        for reader in toy_benchmarks(tmp_path):
            with contextlib.suppress(ValueError):
                for name in [*reader.task_names("train"), *reader.task_names("test")]:
                    reader.task(name)
                    texts = [(each.input, *each.targets, *each.options) for each in reader.examples(name)]
                    assert all(isinstance(text, str) for of_example in texts for text in of_example)
        path.write_text(content)


def rejection(reader: Benchmark, name: str, *, otherwise: str) -> str:
    """The sentence by which a reader rejects a task or its examples; another text if it reads all of them."""
    try:
        reader.task(name)
        list(reader.examples(name))
    except ValueError as error:
        return str(error)
    return otherwise


@often
@given(record=JSON, seed=strategies.integers(0, 2**31))
def test_a_task_file_is_read_or_rejected_in_a_sentence(record: Any, seed: int, toybench: Path, tmp_path: Path) -> None:
    """A value somewhere in a task file is replaced by any other one."""
    name, dice = "task001_toy_copy_animals", random.Random(seed)
    content = json.loads((toybench / "tasks" / f"{name}.json").read_text())
    content["Instances"] = content["Instances"][:3]
    place, key = content, dice.choice(sorted(content))
    while isinstance(place[key], dict | list) and place[key] and dice.random() < 0.7:
        place = place[key]
        key = dice.choice(sorted(place)) if isinstance(place, dict) else dice.randrange(len(place))
    place[key] = record
    path = tmp_path / "tasks" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    reader = NaturalInstructions(str(tmp_path))
    assert name in rejection(reader, name, otherwise=name)


@often
@given(rows=strategies.lists(JSON, min_size=1, max_size=3))
def test_rows_of_own_tasks_are_read_or_rejected_in_a_sentence(rows: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "train/own.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = FileTasks(str(tmp_path))
    (name,) = reader.task_names("train")
    assert "own" in rejection(reader, name, otherwise="own")
