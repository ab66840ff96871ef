"""The map and the distances of learned instructions: known answers, and the files of a run."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from recipes import few_tasks

from crosstask.callbacks.instruction_analysis import InstructionAnalysis
from crosstask.callbacks.instruction_states import Choice, chosen_tokens, new_choices
from crosstask.callbacks.report.figure_style import svg_element
from crosstask.callbacks.report.instruction_distances import category_distances, distance_to_nearest, t_sne
from crosstask.callbacks.report.instruction_figures import category_mark, sweep_figure, training_curves
from crosstask.cli import main
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.bilevel.bilevel_settings import BilevelRows, InstructionTexts, Levels
from crosstask.datamodules.bilevel.exemplars import InstructionInputs
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instruction_kinds import InstructionSettings
from crosstask.lightning_modules.instructions.learnable_instructions import DirectExtractor, ModelFunctions
from crosstask.lightning_modules.instructions.outer_settings import OuterSettings
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


def test_learned_distances_are_seen_in_equal_initial_ones() -> None:
    names = [f"{kind}, {measure} categories" for kind in ("initial", "learned") for measure in ("within", "between")]
    (axes,) = training_curves({name: [(2, 1.0), (4, 1.0)] for name in names}, "distance").figure.axes
    styles = {
        str(line.get_label()): (line.get_color(), line.get_linestyle(), line.get_linewidth()) for line in axes.lines
    }
    initial, learned = (styles[f"{kind}, within categories"] for kind in ("initial", "learned"))
    assert initial[0] != learned[0]
    assert initial[2] > 2 * learned[2]
    assert styles["learned, between categories"] == (learned[0], "--", learned[2])
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


@pytest.mark.parametrize("instruction", ["direct_embedder", "instance_extractor"])
def test_a_run_leaves_its_map_and_numbers(
    instruction: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    tokenizer, extracts = str(toybench / "tokenizer"), instruction.endswith("extractor")
    splits = few_tasks(toybench, tmp_path / "splits", trained=40)
    shared: dict[str, Any] = {"row_length": 160, "inner_steps": 2}
    length, exemplars = (24, 3) if extracts else (3, 0)
    settings: dict[str, Any] = {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench), "splits": splits}},
        "tokenizer": tokenizer,
        "split": {"class_path": "CategorySplit", "init_args": {"outer": 4}},
        "rows": {"length": 160},
        "levels": {"inner_steps": 2, "outer_rows": 2},
        "instructions": {"length": length, "exemplars": exemplars},
        "instances": {"train": 100, "validation": 0},
    }
    data = InstructionOptimizationDataModule(
        NaturalInstructions(str(toybench), splits),
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
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    analysis = InstructionAnalysis(str(tmp_path), categories=5, every=0 if extracts else 1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=4,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[analysis, saved],
    )
    trainer.fit(module, data)
    numbers = json.loads((tmp_path / "analysis.json").read_text())
    kinds = ("human", "initial", "learned")
    assert set(numbers) == {*kinds, "moved", "step"} | (set() if extracts else {"nearest tokens"})
    for kind in kinds:
        assert all(0 <= value <= 2 for value in numbers[kind].values())
    assert numbers["human"] != numbers["learned"] != numbers["initial"] or extracts
    assert 0 < numbers["moved"]["distance of parameters"] < 1
    assert ("share of exemplars not chosen at first" in numbers["moved"]) == extracts
    if not extracts:
        assert set(numbers["nearest tokens"]) == set(data.inner_tasks)
        assert {len(tokens) for rows in numbers["nearest tokens"].values() for tokens in rows} == {3}
        assert numbers["moved"]["cosine distance of states"] > 0
        assert json.loads((tmp_path / "step-2/analysis.json").read_text())["step"] == 2  # phi's first step
        assert (tmp_path / "curves-distances.pdf").is_file()
    assert 5 < count_marks(tmp_path / "map.svg", "human") == count_marks(tmp_path / "map.svg", "learned")
    for suffix in ("svg", "pdf", "png"):
        curves = {path.stem for path in tmp_path.glob(f"curves-*.{suffix}")}
        assert curves >= {f"curves-{name}" for name in ("losses", "gradient-norms", "hypergradient")}
    assert module.language_model.training

    checkpoint = tmp_path / "step=2.ckpt"
    resumed = InstructionAnalysis()
    resumed.load_state_dict(torch.load(checkpoint, weights_only=True)["callbacks"]["InstructionAnalysis"])
    assert resumed.curves["train/outer_loss"] == analysis.curves["train/outer_loss"][:1]
    assert analysis.initial is not None
    for name, value in (resumed.initial or {}).items():
        assert torch.equal(value, analysis.initial[name])
    assert set(resumed.initial or {}) == {name for name, _ in module.instruction.named_parameters()}  # type: ignore[union-attr]

    # The command draws them again.
    config = {"data": {"class_path": "InstructionOptimizationDataModule", "init_args": {**settings}}}
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(config))
    drawn = tmp_path / "drawn"
    given = ["--config", str(path), "--checkpoint", str(tmp_path / "step=4.ckpt"), "--folder", str(drawn)]
    main(["instructions", *given, "--categories", "5"])
    again = json.loads((drawn / "analysis.json").read_text())
    for kind in kinds:
        assert again[kind] == pytest.approx(numbers[kind], abs=1e-6)
    assert again["moved"] == pytest.approx(numbers["moved"], abs=1e-6)
    assert (drawn / "map.pdf").exists()
    with pytest.raises(ValueError, match=r"inner tasks, and the data has .* or others"):
        main(
            [
                "instructions",
                *given[:4],
                "--folder",
                str(tmp_path / "other"),
                "--data.init_args.split.init_args.outer=3",
            ]
        )


def test_a_run_without_instructions_draws_its_curves_alone(
    toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    splits, tokenizer = few_tasks(toybench, tmp_path / "splits", trained=8), str(toybench / "tokenizer")
    data = InstructionOptimizationDataModule(
        NaturalInstructions(str(toybench), splits),
        tokenizer,
        split=None,
        rows=BilevelRows(length=160),
        levels=Levels(inner_steps=1),
        instances=Instances(train=10, validation=0),
    )
    none = InstructionSettings(kind="none")
    sizes: dict[str, Any] = {"total_steps": 1, "row_length": 160, "inner_steps": 1}
    module = InstructionOptimizationModule(
        tokenizer, config=tiny_model, instruction=none, optimizer=Optimization(warmup=1), **sizes
    )
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, filename="{step}")
    analysis = InstructionAnalysis()
    analysis.curves = {"train/inner_loss": [(1, 2.0), (2, 1.0)]}
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[analysis, saved],
    )
    trainer.fit(module, data)
    assert {path.stem for path in (tmp_path / "instructions").iterdir()} == {"curves-losses"}
    settings = ["--config=instruction_optimization_toybench", f"--data.benchmark.folder={toybench}"]
    settings += [f"--data.tokenizer={tokenizer}", f"--folder={tmp_path / 'drawn'}"]
    with pytest.raises(ValueError, match=r"step=1.ckpt was trained with instruction.kind none: it has no instructions"):
        main(["instructions", *settings, f"--checkpoint={tmp_path / 'step=1.ckpt'}"])


def test_all_chosen_exemplars_are_compared_with_the_first_ones() -> None:
    """Exemplars 0 and 3 have one text; of two choices, one that changes is a half, in whichever place."""
    ids = torch.tensor([[[7, 8], [7, 9], [6, 0], [7, 8]]])
    nothing = torch.zeros(1, 1, dtype=torch.long)
    inputs = InstructionInputs(nothing[0], nothing, nothing, ids, (ids > 0).long())
    extractor = DirectExtractor(1, 4, number=2)

    def choice(*logits: float) -> Choice:
        extractor.logits.data[0, 0] = torch.tensor(logits)
        model = ModelFunctions(lambda ids: torch.zeros(*ids.shape, 2), lambda ids, mask: torch.zeros(*ids.shape, 2))
        return chosen_tokens(extractor(inputs, model), inputs)

    first = choice(1, 1, 1, 1)
    assert first == {(7, 8), (7, 9)}
    for logits, new in {(3, 1, 2, 1): 0.5, (1, 1, 3, 2): 0.5, (1, 2, 1, 3): 0.0}.items():
        assert new_choices([first], [choice(*logits)]) == {"share of exemplars not chosen at first": new}
    assert new_choices([set()], [set()]) == {}


def count_marks(path: Path, kind: str) -> int:
    """Marks of a kind of instructions on a map; matplotlib draws several equal ones as uses of one path."""
    groups = [g for g in ElementTree.parse(path).getroot().iter(f"{SVG}g") if (g.get("class") or "").startswith(kind)]
    return sum(max(len(list(g.iter(f"{SVG}use"))), len(list(g.iter(f"{SVG}path")))) for g in groups)


def test_twenty_categories_have_twenty_marks() -> None:
    assert len({category_mark(place) for place in range(20)}) == 20
    for place in range(19):
        assert all(a != b for a, b in zip(category_mark(place), category_mark(place + 1), strict=True))
    with pytest.raises(ValueError, match="categories must be 1 to 42, which have different marks, got 60"):
        InstructionAnalysis(categories=60)


def test_a_sweep_shows_the_interval_over_seeds() -> None:
    figure = sweep_figure({1: [0.2, 0.4], 4: [0.5]}, "length", "ROUGE-L", logarithmic=True)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("length", "ROUGE-L", "log")
    (bars,) = axes.containers[0].lines[2]  # type: ignore[union-attr]
    low, high = bars.get_segments()[0][:, 1]
    half = 12.706 * 0.1  # t of one degree of freedom, times the standard error
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-3)
    figure = sweep_figure({1: [0.2, 0.4]}, "length", "ROUGE-L", logarithmic=True, baseline=[0.1, 0.3])
    (axes,) = figure.axes
    labels = axes.get_legend_handles_labels()[1]
    assert set(labels) == {"definitions alone", "its 95% interval", "single seeds", "learned, mean and 95% interval"}
    (line,) = (line for line in axes.lines if line.get_label() == "definitions alone")
    assert list(line.get_ydata()) == pytest.approx([0.2, 0.2])  # type: ignore[arg-type]
