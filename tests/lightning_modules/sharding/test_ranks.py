"""Two processes: what each refuses where they were started otherwise, and what both do when one is asked to stop."""

import re
from pathlib import Path
from typing import Any

import pytest
from processes import STRATEGIES, run_on
from signalled_runs import fit_words, logged, signalled, write_recipe
from warm_program import WarmProgram

pytestmark = pytest.mark.distributed

TWO = ["--trainer.devices=2"]


def disagreeing(recipe: Path, word: str, said: str) -> dict[str, Any]:
    return {"words": [*fit_words(recipe, "no"), *TWO, *STRATEGIES["ddp"], word], "skipped": said}


def one_is_slow() -> list[str]:
    """Rank 1 comes late to each batch, and rank 0 looks out for it."""
    late = ["--trainer.callbacks+=slow_steps.SlowSteps", "--trainer.callbacks.rank=1", "--trainer.callbacks.seconds=3"]
    return [*late, "--trainer.callbacks+=Stragglers", "--trainer.callbacks.stall_after=1"]


@pytest.fixture(scope="module")
def output(
    tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict, program: WarmProgram
) -> tuple[Path, str]:
    """The folder of the runs, and what two processes printed."""
    recipe = write_recipe(tmp_path_factory.mktemp("ranks"), toybench, tiny_model)
    sharded = [*TWO, *STRATEGIES["fsdp2"]]
    commands = [
        {"words": [*fit_words(recipe, "undisturbed"), *sharded]},
        {"words": [*fit_words(recipe, "asked"), *sharded, *signalled(2, "validation")]},
        {"words": [*fit_words(recipe, "asked-1"), *sharded]},
        {"words": [*fit_words(recipe, "slow"), *TWO, *STRATEGIES["ddp"], *one_is_slow()]},
        disagreeing(recipe, "--trainer.max_steps=4$RANK", "trainer.max_steps is 40 on rank 0 and 41 on rank 1"),
        disagreeing(recipe, "--data.init_args.mixture.cap=1$RANK", "data (the beginning of the training stream) is"),
    ]
    return recipe.parent, run_on(program, 2, commands, recipe.parent)


def test_processes_that_were_started_otherwise_are_rejected_on_each(output: tuple[Path, str]) -> None:
    said = re.findall(r"command 4 on rank (\d): as expected: ValueError: the processes of this run disagree", output[1])
    assert sorted(said) == ["0", "1"]


def test_both_leave_a_validation_that_one_was_asked_to_leave_and_begin_it_anew(output: tuple[Path, str]) -> None:
    """The checks before training see too few rows for both processes, which must not part their ways."""
    folder, said = output
    assert "preempted at step 2" in said
    assert logged(folder, ["asked", "asked-1"]) == pytest.approx(logged(folder, ["undisturbed"]), rel=1e-6)


def test_a_rank_that_keeps_the_other_waiting_is_named_while_it_does(output: tuple[Path, str]) -> None:
    assert re.search(r"no progress for \d s; behind all others: rank 1 on \S+ \(waiting for data of batch", output[1])
