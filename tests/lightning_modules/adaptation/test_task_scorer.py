"""The training of one task's scorer: its batches, its schedule, and variants of it."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_tasks import ENCODER, TASKS, answers, training
from recipes import store_of

from crosstask.commands.adapt import adapt_tasks, all_trainings
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.rendering.prompts import OptImlPrompt
from crosstask.lightning_modules.adaptation import scorer_records as adapted_scorers
from crosstask.lightning_modules.adaptation.task_scorer import adapt


def test_variants_change_what_a_training_has(toybench: Path) -> None:
    given = training(toybench)
    found = all_trainings(given, True, {"plain": {"augmentation": False}, "short": {"steps": 1, "loss": "listwise"}})
    assert found["plain"] == (given, False)
    assert found["short"] == (replace(given, steps=1, loss="listwise"), True)
    with pytest.raises(ValueError, match="variant a: there is no 'step' to change, nearest: steps"):
        all_trainings(given, True, {"a": {"step": 1}})
    with pytest.raises(ValueError, match="variant a: loss must be one of regression, pairwise, listwise, got 'pairs'"):
        all_trainings(given, True, {"a": {"loss": "pairs"}})
    for taken in ("scorer", "calibrated", "oracle", "a/b"):
        with pytest.raises(ValueError, match=f"a variant cannot be called '{taken}'"):
            all_trainings(given, True, {taken: {}})
    with pytest.raises(ValueError, match=r"training\.batch must be at least 1, got 0"):
        training(toybench, batch=0)


def test_accumulated_batches_make_the_same_step(toybench: Path, tmp_path: Path) -> None:
    """And a pair that is too long is counted."""
    found = [
        adapt(
            NaturalInstructions(str(toybench)),
            TASKS[0],
            training(
                toybench,
                steps=3,
                batch=48,
                accumulate=parts,
                gradient_checkpointing=parts > 1,
                pair_length=20,
                config={**ENCODER, "attention_probs_dropout_prob": 0.0},
            ),
            prompt=OptImlPrompt(),
            samples=[],
            augmentation=False,
            test_examples=8,
            rendering_seed=0,
            cache=str(store_of(toybench)),
        )
        for parts in (1, 2)
    ]
    assert found[0].pairs_per_step == found[1].pairs_per_step
    pairs = ["list: cat dog", "list: fox", "list: fox"], ["cat dog", "fox", "zebra"]
    one, two = (each.module.cross_encoder(max_length=20).score(*pairs) for each in found)
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
    assert one.mean() > 0.3  # three steps move the scores from 0 towards the labels' mean
    assert 0 < found[0].cut == found[1].cut
    assert found[0].response_cut == 0


def test_the_released_schedule_never_leaves_its_warm_up(toybench: Path, tmp_path: Path) -> None:
    """800 steps of 12,800, a tenth of which warm up, end at 801 / 1280 of the peak; 8 steps of 128, at 9 / 13."""
    benchmark = NaturalInstructions(str(toybench))
    found = adapt(
        benchmark,
        TASKS[0],
        training(toybench, steps=8, schedule_steps=128, learning_rate=2e-5, train_examples=4),
        prompt=OptImlPrompt(),
        samples=[],
        augmentation=False,
        test_examples=4,
        rendering_seed=0,
        cache=str(store_of(toybench)),
    )
    [group] = {group["lr"] for group in found.module.optimizers().param_groups}  # type: ignore[union-attr]
    assert group == pytest.approx(2e-5 * 9 / 13)


def test_a_scorer_and_its_optimizer_are_gone_before_the_next_task(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    modules: list[weakref.ref[Any]] = []

    def watched(*args: Any, **settings: Any) -> Any:
        assert not [module for module in modules if module() is not None]
        found = adapt(*args, **settings)
        modules.append(weakref.ref(found.module))
        return found

    monkeypatch.setattr(adapted_scorers, "adapt", watched)
    options: dict[str, Any] = {"tasks": TASKS, "test_examples": 4, "cache": str(store_of(toybench))}
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    assert len(modules) == 2
