"""The README of the experiments names every script and no other one."""

import re
from pathlib import Path

import crosstask

EXPERIMENTS = Path(crosstask.__file__).parent / "experiments"
HELPERS = {"claim_power.py"}  # imported by judge_claims.py, and linked on the page of the claims


def test_the_readme_names_the_scripts() -> None:
    named = set(re.findall(r"`(\w+\.py)`", (EXPERIMENTS / "README.md").read_text(encoding="utf-8")))
    assert named == {path.name for path in EXPERIMENTS.glob("*.py")} - HELPERS
