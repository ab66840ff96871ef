"""The map and the numbers of learned instructions: known answers, and the files that a run leaves behind."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest

from crosstask.callbacks.instruction_analysis import InstructionAnalysis
from crosstask.callbacks.instruction_geometry import coverage, spread, t_sne
from crosstask.callbacks.report.scatter import curves_svg
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.bilevel.bilevel_settings import BilevelRows, InstructionTexts, Levels
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.outer_methods import OuterSettings


def test_spread_and_coverage_on_corners_of_a_cube() -> None:
    points = np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert spread(points, ["a", "a", "b", "b"]) == {"within": 0.5, "between": 1.0}  # a: 0, b: 1
    assert coverage(points, np.array([[0, 3.0, 0], [0, 0, -1.0]])) == pytest.approx(0.5)  # 0 and 1


def test_the_map_keeps_neighbours_together() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3)[np.repeat(range(3), 20)] * 20
    places = t_sne(centres + rng.normal(0, 1, (60, 3)), perplexity=10)
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (apart.argmin(1) // 20 == np.arange(60) // 20).all()
    assert not (t_sne(rng.normal(0, 1, (60, 3)))[:, None] == places).any()


def test_curves_of_far_apart_values_are_logarithmic() -> None:
    points = [(1, 1e-5), (2, 1e-3), (3, 1e-1)]
    heights = [
        point.split(",")[1]
        for point in curves_svg({"norm": points}, "norms").split('points="')[1].split('"')[0].split()
    ]
    first, second, third = map(float, heights)
    assert first - second == pytest.approx(second - third, abs=0.2)


@pytest.mark.parametrize("instruction", ["direct_embedder", "instance_extractor"])
def test_a_run_leaves_its_map_and_numbers(
    instruction: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    tokenizer, extracts = str(toybench / "tokenizer"), instruction.endswith("extractor")
    shared: dict[str, Any] = {"row_length": 160, "inner_steps": 2, "instruction_length": 24 if extracts else 3}
    shared["exemplars"] = 3 if extracts else 0
    texts = InstructionTexts(length=shared["instruction_length"], exemplars=shared["exemplars"])
    data = InstructionOptimizationDataModule(
        NaturalInstructions(str(toybench)),
        tokenizer,
        CategorySplit(4),
        rows=BilevelRows(length=160),
        levels=Levels(inner_steps=2, outer_rows=2),
        instructions=texts,
        instances=Instances(train=100, validation=0),
    )
    module = InstructionOptimizationModule(
        tokenizer,
        config=tiny_model,
        instruction=instruction,
        total_steps=4,
        warmup_steps=1,
        outer=OuterSettings(noise_every=1),
        **shared,  # type: ignore[arg-type]
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=4,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[InstructionAnalysis(str(tmp_path), categories=5)],
    )
    trainer.fit(module, data)
    numbers = json.loads((tmp_path / "analysis.json").read_text())
    assert set(numbers) == {"human", "learned"} | (set() if extracts else {"nearest tokens"})
    for kind in ("human", "learned"):
        assert all(0 <= value <= 2 for value in numbers[kind].values())
    assert numbers["human"] != numbers["learned"]
    if not extracts:
        assert set(numbers["nearest tokens"]) == set(data.inner_tasks)
        assert {len(tokens) for rows in numbers["nearest tokens"].values() for tokens in rows} == {3}
    drawn = (tmp_path / "map.svg").read_text()
    assert drawn.count("<circle") == drawn.count("<path") > 5
    curves = {path.name for path in tmp_path.glob("curves-*.svg")}
    assert curves == {"curves-losses.svg", "curves-gradient-norms.svg", "curves-hypergradient.svg"}
    assert module.language_model.training
