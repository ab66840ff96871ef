"""The map and the distances of learned instructions: known answers, and the files of a run."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lightning as L
import numpy as np
import pytest

from crosstask.callbacks.instruction_analysis import InstructionAnalysis
from crosstask.callbacks.report.figure_style import svg_element
from crosstask.callbacks.report.instruction_distances import category_distances, distance_to_nearest, t_sne
from crosstask.callbacks.report.instruction_figures import training_curves
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.bilevel.bilevel_settings import BilevelRows, InstructionTexts, Levels
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instruction_kinds import InstructionSettings
from crosstask.lightning_modules.instructions.outer_methods import OuterSettings
from crosstask.lightning_modules.optimization import Optimization

SVG = "{http://www.w3.org/2000/svg}"


def test_distances_on_corners_of_a_cube() -> None:
    points = np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert category_distances(points, ["a", "a", "b", "b"]) == {"within": 0.5, "between": 1.0}  # a: 0, b: 1
    assert distance_to_nearest(np.array([[0, 3.0, 0], [0, 0, -1.0]]), points) == pytest.approx(0.5)  # 0 and 1


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
    svg = ElementTree.fromstring(svg_element(training_curves({"norm": points}, "norm"), "norms"))
    (curve,) = (group for group in svg.iter(f"{SVG}g") if group.get("class") == "curve")
    first, second, third = (float(use.get("y", "")) for use in curve.iter(f"{SVG}use"))
    assert first - second == pytest.approx(second - third, abs=0.2)


@pytest.mark.parametrize("instruction", ["direct_embedder", "instance_extractor"])
def test_a_run_leaves_its_map_and_numbers(
    instruction: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    tokenizer, extracts = str(toybench / "tokenizer"), instruction.endswith("extractor")
    shared: dict[str, Any] = {"row_length": 160, "inner_steps": 2}
    length, exemplars = (24, 3) if extracts else (3, 0)
    data = InstructionOptimizationDataModule(
        NaturalInstructions(str(toybench)),
        tokenizer,
        CategorySplit(4),
        rows=BilevelRows(length=160),
        levels=Levels(inner_steps=2, outer_rows=2),
        instructions=InstructionTexts(length=length, exemplars=exemplars),
        instances=Instances(train=100, validation=0),
    )
    module = InstructionOptimizationModule(
        tokenizer,
        config=tiny_model,
        instruction=InstructionSettings(kind=instruction, length=length, exemplars=exemplars),  # type: ignore[arg-type]
        optimizer=Optimization(warmup=1),
        total_steps=4,
        outer=OuterSettings(noise_every=1),
        **shared,
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
    groups = {group.get("class"): group for group in ElementTree.parse(tmp_path / "map.svg").getroot().iter(f"{SVG}g")}
    human, learned = len(list(groups["human"].iter(f"{SVG}use"))), len(list(groups["learned"].iter(f"{SVG}path")))
    assert human == learned > 5  # matplotlib draws circles as uses of one path, crosses as paths
    for suffix in ("svg", "pdf", "png"):
        curves = {path.stem for path in tmp_path.glob(f"curves-*.{suffix}")}
        assert curves == {"curves-losses", "curves-gradient-norms", "curves-hypergradient"}
    assert module.language_model.training
