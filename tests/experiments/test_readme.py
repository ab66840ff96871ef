"""The README of the experiments names every script and no other one."""

import re
from pathlib import Path

import crosstask

EXPERIMENTS = Path(crosstask.__file__).parent / "experiments"


def test_the_readme_names_the_scripts() -> None:
    named = set(re.findall(r"`(\w+\.py)`", (EXPERIMENTS / "README.md").read_text(encoding="utf-8")))
    assert named == {path.name for path in EXPERIMENTS.glob("*.py")}
