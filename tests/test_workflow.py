"""The GitHub workflow makes what ``.ci/run`` makes, on the Python versions of the package."""

import re
from pathlib import Path

import yaml

import crosstask

ROOT = Path(crosstask.__file__).parent


def made_targets(script: str) -> set[str]:
    """Return the targets of ``make`` in a shell script, without those that set up ``.venv``."""
    words = [
        word for line in re.findall(r"^\s*make (.+)$", script, re.MULTILINE) for word in line.split("#")[0].split()
    ]
    return {word for word in words if re.fullmatch(r"[a-z][\w-]*", word)}


def test_the_workflow_makes_what_ci_run_makes() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]["strategy"]["matrix"]
    targets = {word for words in matrix["target"] for word in words.split() if "=" not in word}
    assert targets == made_targets((ROOT / ".ci/run").read_text()) - {"real-data"}  # needs files outside the repository
    assert made_targets("  make a # b\nmake -j2 --output-sync=target c real-data\nfor x in y; do make z; done") == {
        *("a", "c", "real-data")
    }


def test_the_workflow_tests_every_python_of_the_package() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]["strategy"]["matrix"]
    tested = {*matrix["python"], *(job["python"] for job in matrix["include"])}
    assert tested == set(re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text()))
