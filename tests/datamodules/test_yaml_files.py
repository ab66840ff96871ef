"""YAML that PyYAML would read silently, and read otherwise than it says."""

import re
from pathlib import Path

import pytest
import yaml

from crosstask.commands.shared.config_names import composed_paths, composed_settings
from crosstask.datamodules.downloads.sources import read_sources
from crosstask.datamodules.yaml_files import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("seed: 1\nrows:\n  length: 64\n  per_step: 8\n  length: 128\n", 5, "length"),
        ("- {a: 1, b: 2}\n- {a: 1, 'a': 2}\n", 2, "a"),
        ("base: &base {a: 1}\nother: {<<: *base, b: 1, b: 2}\n", 2, "b"),
        ("1: a\n2: b\n1: c\n", 3, "1"),
    ],
)
def test_a_key_twice_is_rejected_with_its_line(text: str, line: int, key: str) -> None:
    assert yaml.safe_load(text)  # silently without one of the values
    with pytest.raises(ValueError, match=re.escape(f"run.yaml, line {line}: no valid YAML: the key {key!r} occurs")):
        parse_yaml(text, "run.yaml")


@pytest.mark.parametrize("text", ["a: &b {x: 1, y: 2}\nc: {<<: *b, y: 3}\n", "1: a\n'1': b\n", "- a\n- a\n", ""])
def test_other_yaml_is_read_as_by_its_own_reader(text: str) -> None:
    assert parse_yaml(text, "run.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: [1\n", "no valid YAML: "),
        (b"a: \x01\n", "no valid YAML: "),
        (b"\xff\xfea\x00", "UTF-16 by its first bytes"),
        (b"a: caf\xe9\n", "not UTF-8"),
        (b"a: !!python/object/apply:os.getcwd []\n", "no valid YAML: could not determine a constructor"),
        (b"[" * 10**5, "nested more than 500 times"),
        (b"a: {" * 10**4, "nested more than 500 times"),
        (b"- " * 10**4, "nested more than 500 times"),
    ],
)
def test_what_is_no_yaml_is_rejected_in_a_sentence(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    for read in (read_yaml, composed_settings, composed_paths, read_sources):
        with pytest.raises(ValueError, match=problem) as error:
            read(str(tmp_path / "run.yaml") if read is not read_yaml else tmp_path / "run.yaml")  # type: ignore[arg-type]
        assert str(tmp_path / "run.yaml") in str(error.value)


def test_a_recipe_with_a_setting_twice_does_not_start(tmp_path: Path) -> None:
    """Also one that another recipe includes."""
    (tmp_path / "rows.yaml").write_text("data:\n  seed: 1\n  seed: 2\n")
    (tmp_path / "run.yaml").write_text(f"include: [{tmp_path / 'rows.yaml'}]\n")
    with pytest.raises(ValueError, match=r"rows.yaml, line 3: no valid YAML: the key 'seed' occurs twice"):
        composed_paths(str(tmp_path / "run.yaml"))


BOMB = "a0: &a0 [1, 2, 3]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "run.yaml: aliases (*name) repeat its lists to more than 10,000,000 values"),
        ("data: &data\n  rows: *data\n", "run.yaml: no valid YAML: an alias (*name) stands within what it names"),
    ],
)
def test_aliases_that_have_no_end_are_rejected(text: str, problem: str) -> None:
    """Whoever copies or merges the value takes all memory for it."""
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_yaml(text, "run.yaml")
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]\n", "run.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
