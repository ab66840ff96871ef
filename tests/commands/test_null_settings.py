"""Every option that may be null is null when the command line or a YAML says so, at any depth."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from inspect import signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from crosstask import datamodules, lightning_modules
from crosstask.commands.shared.parser import load_settings
from crosstask.commands.shared.settings_reader import SettingsReader

CLASSES = [
    ("data", datamodules.InstructionTuningDataModule),
    ("data", datamodules.InstructionOptimizationDataModule),
    ("data", datamodules.ScorerDataModule),
    ("model", lightning_modules.InstructionTuningModule),
    ("model", lightning_modules.InstructionOptimizationModule),
    ("model", lightning_modules.ScorerModule),
]
NEEDED = ["--data=InstructionOptimizationDataModule", "--data.benchmark=x", "--data.tokenizer=t"]


def optional_options(kind: type, within: str = "") -> Iterator[str]:
    """Names of the options of a class that may be null, those of its groups of options included."""
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    for name in signature(kind).parameters:
        types = get_args(hints[name]) if get_origin(hints[name]) in (Union, UnionType) else (hints[name],)
        if NoneType in types:
            yield within + name
        elif is_dataclass(types[0]):
            yield from optional_options(types[0], f"{within}{name}.")


def parsed(part: str, words: list[str], name: str) -> Any:
    """The value of an option of the model or the data."""
    value = getattr(SettingsReader("crosstask check", words).settings, part).init_args
    for field in name.split("."):
        value = value[field]
    return value


@pytest.mark.parametrize(("part", "kind"), CLASSES, ids=lambda value: getattr(value, "__name__", value))
def test_null_reaches_every_optional_option(part: str, kind: type, tmp_path: Path) -> None:
    names = list(optional_options(kind))
    assert len(names) > 3
    words = [*NEEDED, f"--{part}={kind.__name__}", *NEEDED[1:]]
    settings = SettingsReader("crosstask check", words + [f"--{part}.init_args.{name}=null" for name in names]).settings
    nulls: dict[str, Any] = {}
    for name in names:
        value, inner = getattr(settings, part).init_args, nulls
        *groups, field = name.split(".")
        for group in groups:
            value, inner = value[group], inner.setdefault(group, {})
        assert value[field] is None, name
        inner[field] = None
    path = tmp_path / "nulls.yaml"
    path.write_text(yaml.safe_dump({part: {"class_path": kind.__name__, "init_args": nulls}}))
    read = SettingsReader("crosstask check", [*NEEDED, f"--config={path}", *NEEDED[1:]]).settings
    assert getattr(read, part) == getattr(settings, part)


def test_a_null_overrides_the_recipe_and_keeps_the_rest_of_its_group(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    rows = {"length": 99, "target_length": 9}
    path.write_text(
        yaml.safe_dump({"data": {"class_path": "InstructionOptimizationDataModule", "init_args": {"rows": rows}}})
    )
    words = [f"--config={path}", *NEEDED[1:]]
    assert parsed("data", words, "rows.target_length") == 9
    words.append("--data.rows.target_length=null")
    assert parsed("data", words, "rows.target_length") is None
    assert parsed("data", words, "rows.length") == 99


def test_nulls_and_line_ends_inside_a_mapping_arrive_as_they_are() -> None:
    words = [*NEEDED, "--model=InstructionOptimizationModule"]
    option = '--model.outer.options={alpha: null, names: [null, "None"], separator: "a\\nb", rate: 1e-5}'
    expected = {"alpha": None, "names": [None, "None"], "separator": "a\nb", "rate": 1e-5}
    assert parsed("model", [*words, option], "outer.options") == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("None", None),
        ("~", None),
        ("'None'", "None"),
        ("None of these", "None of these"),
        ('{"a": null}', {"a": None}),
        ("{a: 'x\\n'}", {"a": "x\\n"}),
        ("[1e-5, yes]", [1e-5, True]),
    ],
)
def test_values_are_yaml_except_what_python_wrote(text: str, value: Any) -> None:
    assert load_settings(text) == value


def test_neither_yaml_nor_python_is_rejected() -> None:
    with pytest.raises(yaml.YAMLError):
        load_settings("{a, b")
