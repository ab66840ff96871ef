"""The exporting callback and what another run wrote: checked before training, and replaced only by a resumed run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import SmallRuns, small_trainer
from transformers import AutoModelForCausalLM

from crosstask.callbacks import HuggingFaceExport
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule


def test_an_export_never_replaces_what_another_run_wrote(
    toybench: Path, tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    runs, folder, checkpoints = SmallRuns(toybench, tmp_path, tiny_model), tmp_path / "exported", tmp_path / "kept"

    def fit(steps: int, checkpoint: Path | None = None) -> InstructionTuningModule:
        saved = ModelCheckpoint(checkpoints, save_last=True, every_n_train_steps=1, enable_version_counter=False)
        options: dict[str, Any] = {"callbacks": [saved, HuggingFaceExport(str(folder))], "enable_checkpointing": True}
        module, data = runs("tuning", total_steps=2)
        assert isinstance(module, InstructionTuningModule)
        small_trainer(steps, **options).fit(module, datamodule=data, ckpt_path=checkpoint)
        return module

    fit(1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"exported exists and is not overwritten: name another output"):
        fit(2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    module = fit(2, checkpoints / "last.ckpt")
    exported = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, weight in module.language_model.state_dict().items():
        torch.testing.assert_close(exported[name], weight)
