"""Two processes that were started otherwise: each refuses the run, and says what differs."""

import re
from pathlib import Path
from typing import Any

import pytest
from processes import STRATEGIES, run_on
from test_preemption import fit_words, write_recipe

pytestmark = pytest.mark.distributed

TWO = ["--trainer.devices=2", "--trainer.num_sanity_val_steps=0"]


def disagreeing(recipe: Path, word: str, said: str) -> dict[str, Any]:
    return {"words": [*fit_words(recipe, "no"), *TWO, *STRATEGIES["ddp"], word], "refused": said}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict) -> tuple[Path, str]:
    """The folder of the runs, and what two processes printed."""
    recipe = write_recipe(tmp_path_factory.mktemp("ranks"), toybench, tiny_model)
    commands = [
        disagreeing(recipe, "--trainer.max_steps=4$RANK", "trainer.max_steps is 40 on rank 0 and 41 on rank 1"),
        disagreeing(recipe, "--data.init_args.cap=1$RANK", "data (the first window of the training stream) is"),
    ]
    return recipe.parent, run_on(2, commands, recipe.parent, timeout=170)


def test_processes_that_were_started_otherwise_are_refused_on_each(output: tuple[Path, str]) -> None:
    said = re.findall(r"command 0 on rank (\d): as expected: ValueError: the processes of this run disagree", output[1])
    assert sorted(said) == ["0", "1"]
