"""docs/results.md and README.md against the tables that the experiments wrote."""

import re

import pytest
from doc_pages import ROOT

SCORE = re.compile(r"\d+\.\d+ \[-?\d+\.\d+, -?\d+\.\d+\]")  # with its interval; pages add the sign of a difference
HEADING = {
    "A published model on real tasks, before and after": "README.md",
    "A published model on real tasks": "docs/results.md",
    "The number of real tasks": "docs/results.md",
}


def scores(text: str) -> set[str]:
    """Return the scores in a text's tables."""
    return {score for line in text.splitlines() if line.startswith("|") for score in SCORE.findall(line)}


WRITTEN = {score for path in sorted((ROOT / "experiments/tables").glob("*.md")) for score in scores(path.read_text())}


@pytest.mark.parametrize(("heading", "page"), HEADING.items())
def test_scores_on_real_tasks_are_in_the_tables_of_their_experiments(heading: str, page: str) -> None:
    section = re.search(rf"^##+ {heading}\n(.*?)(?=^##)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert section, heading
    assert len(scores(section[1])) > 15
    assert scores(section[1]) - WRITTEN == set()
