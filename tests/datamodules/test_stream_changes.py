"""A run resumes on the training stream of its checkpoint, or says what has changed."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_runs import SmallRuns, saved_run, small_trainer
from torch import Tensor

from crosstask.datamodules.bilevel.meta_split import CategorySplit, FileSplit
from crosstask.datamodules.rendering.prompts import OptImlPrompt
from crosstask.lightning_modules.optimization import Optimization

KINDS = ("tuning", "scorer", "optimization")


@pytest.fixture(scope="module")
def runs(toybench: Path, tiny_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(toybench, tmp_path_factory.mktemp("runs"), tiny_model)


@pytest.fixture(scope="module")
def checkpoints(runs: SmallRuns) -> dict[str, Path]:
    return {kind: saved_run(runs(kind), runs.folder / f"{kind}.ckpt", 3) for kind in KINDS}


def resume(runs: SmallRuns, checkpoint: Path, kind: str, data: dict[str, Any], *, accepts: bool = False) -> L.Trainer:
    levels = data.get("levels", {})
    arguments = {"inner_steps": levels["inner_steps"]} if "inner_steps" in levels else {}
    module, datamodule = runs(kind, data, **arguments)
    datamodule.accepts_changed_stream = accepts
    trainer = small_trainer(4)
    trainer.fit(module, datamodule=datamodule, ckpt_path=str(checkpoint))
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_resumes(kind: str, runs: SmallRuns, checkpoints: dict[str, Path]) -> None:
    """Also after a part of the data that is only evaluated has changed."""
    data = {"evaluation": {"batch_tokens": 1024}, "instances": {"validation_prompts": 7}}
    assert resume(runs, checkpoints[kind], kind, data).global_step == 4


@pytest.mark.parametrize(
    ("kind", "data", "change"),
    [
        ("tuning", {"rows": {"per_step": 4}}, r"rows\.per_step was 8 and is 4\."),
        ("tuning", {"rows": {"packing": "in_order"}}, r"rows\.packing was best_fit and is in_order\."),
        ("tuning", {"mixture": {"cap": 5}}, r"mixture\.cap was None and is 5\."),
        ("tuning", {"seed": 3}, r"seed was 0 and is 3; training tasks: \d+ with other documents"),
        ("tuning", {"prompt": OptImlPrompt(delimiters=("->",))}, r"prompt was OptImlPrompt\(.*delimiters=\('->',\)"),
        (
            "tuning",
            {"instances": {"train": 7}},
            r"instances\.train was 100000 and is 7; training tasks: \d+ with other",
        ),
        ("scorer", {"rows": {"pair_length": 64}}, r"rows\.pair_length was 96 and is 64\."),
        ("scorer", {"mixture": {"uniform_categories": True}}, r"mixture\.uniform_categories was False and is True"),
        ("optimization", {"levels": {"inner_rows": 4}}, r"levels\.inner_rows was 2 and is 4\."),
        ("optimization", {"levels": {"inner_steps": 1}}, r"levels\.inner_steps was 3 and is 1"),
        ("optimization", {"instructions": {"pair_length": 16}}, r"instructions\.pair_length was 32 and is 16"),
        ("optimization", {"instances": {"train": 5}}, r"instances\.train was 8 and is 5"),
    ],
)
def test_another_stream_is_rejected_by_name_unless_accepted(
    kind: str,
    data: dict[str, Any],
    change: str,
    runs: SmallRuns,
    checkpoints: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValueError, match=rf"the training stream is not that of the checkpoint: .*{change}"):
        resume(runs, checkpoints[kind], kind, data)
    with caplog.at_level(logging.INFO):
        assert resume(runs, checkpoints[kind], kind, data, accepts=True).global_step == 4
    assert "training resumes on another stream" in caplog.text


def test_another_files_content_is_another_stream(
    toybench: Path, tiny_model: dict[str, Any], runs: SmallRuns, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    """Both where documents are stored and where they are rendered as they are drawn."""
    copy = Path(shutil.copytree(toybench, tmp_path / "toybench"))
    name = next(line for line in (copy / "splits/default/train_tasks.txt").read_text().splitlines() if line)
    path = copy / "tasks" / f"{name}.json"
    content = json.loads(path.read_text())
    content["Instances"][50]["input"] += " again"
    path.write_text(json.dumps(content))
    changed = SmallRuns(copy, tmp_path, tiny_model)
    for kind in ("tuning", "optimization"):
        with pytest.raises(ValueError, match=rf"tasks: 1 with other documents \({name}\)\. Set back"):
            resume(changed, checkpoints[kind], kind, {})


def test_another_split_is_rejected_even_if_another_stream_is_accepted(
    runs: SmallRuns, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A row of the table of instructions would become another task's."""
    _, datamodule = runs("optimization")
    datamodule.setup("fit")
    (tmp_path / "outer.txt").write_text("\n".join(datamodule.inner_tasks[:2]))  # type: ignore[attr-defined]
    for split in (CategorySplit(4, seed=1), FileSplit(str(tmp_path / "outer.txt"), by_category=False)):
        for accepts in (False, True):
            with pytest.raises(
                ValueError, match=rf"the split was CategorySplit.*seed=0\) and is {type(split).__name__}"
            ):
                resume(runs, checkpoints["optimization"], "optimization", {"split": split}, accepts=accepts)


def test_the_state_is_readable_and_needs_no_classes(checkpoints: dict[str, Path]) -> None:
    saved = torch.load(checkpoints["optimization"], weights_only=True)["InstructionOptimizationDataModule"]
    stream = saved["training_stream"]
    assert stream["settings"]["levels.inner_steps"] == 3
    assert stream["settings"]["split"] == "CategorySplit(outer=4, seed=0)"
    assert {len(tasks) for tasks in stream["tasks"].values()} != {0}


def test_a_checkpoint_of_other_data_is_rejected(runs: SmallRuns, tmp_path: Path) -> None:
    """Here of a user's own subclass, whose state Lightning keeps under its own name."""
    module, data = runs("tuning")

    class Other(type(data)):  # type: ignore[misc]
        pass

    data.__class__ = Other
    path = saved_run((module, data), tmp_path / "other.ckpt", 1)
    with pytest.raises(ValueError, match="does not describe a training stream of InstructionTuningDataModule"):
        resume(runs, path, "tuning", {})


def test_another_projects_module_is_protected_too(runs: SmallRuns, tmp_path: Path) -> None:
    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(2000, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.table(batch.input_ids).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = small_trainer(1)
    trainer.fit(Plain(), datamodule=runs("tuning")[1])
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    _, data = runs("tuning", {"rows": {"per_step": 4}})
    with pytest.raises(ValueError, match=r"rows\.per_step was 8 and is 4"):
        small_trainer(2).fit(Plain(), datamodule=data, ckpt_path=str(tmp_path / "plain.ckpt"))


def test_batches_may_be_accumulated_differently(runs: SmallRuns, checkpoints: dict[str, Path]) -> None:
    module, data = runs("tuning", optimizer=Optimization(learning_rate=0.01))
    trainer = small_trainer(4, accumulate_grad_batches=4)
    trainer.fit(module, datamodule=data, ckpt_path=str(checkpoints["tuning"]))
    assert trainer.global_step == 4
