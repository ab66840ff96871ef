"""A run that is asked to stop anywhere, and goes on as if it had not been."""

import logging
import signal
from pathlib import Path

import pytest
import torch
from signalled_runs import logged, run, signalled, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict) -> Path:
    path = write_recipe(tmp_path_factory.mktemp("preemption"), toybench, tiny_model)
    run(path, "undisturbed")
    return path


@pytest.mark.parametrize(("step", "within"), [(1, "training"), (2, "validation")])
def test_a_run_that_was_terminated_ends_as_an_undisturbed_one(
    recipe: Path, step: int, within: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    handler = signal.getsignal(signal.SIGUSR1)
    folder, name = recipe.parent, f"{within}_{step}"
    assert run(recipe, f"{name}-0", *signalled(step, within)) == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == handler
    saved = torch.load(folder / name / "last.ckpt", weights_only=False)["global_step"]
    assert saved == step + (within == "training")
    assert "weights_only" not in caplog.text  # Lightning's sentence on a choice that is not the user's
    assert run(recipe, f"{name}-1") == 0
    expected, found = logged(folder, ["undisturbed"]), logged(folder, [f"{name}-0", f"{name}-1"])
    assert [step for step, key in expected if key == "train/loss"] == [0, 1, 2, 3]
    assert len({step for step, key in expected if key.startswith("validation/")}) == 2
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_validation_that_no_run_will_repeat_is_reported(recipe: Path) -> None:
    with pytest.warns(UserWarning, match="preempted in the validation after the last step, which a resumed run does"):
        run(recipe, "last-0", *signalled(4, "validation"))
    assert (recipe.parent / "last" / "last.ckpt").is_file()


def test_sigterm_ends_a_program_that_goes_on_after_a_run(recipe: Path) -> None:
    """Lightning's handler, put back after the run, would only set a flag of the trainer that has ended."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    assert run(recipe, "handlers", "--trainer.limit_val_batches=0") == 0
    assert [signal.getsignal(number) for number in numbers] == before
