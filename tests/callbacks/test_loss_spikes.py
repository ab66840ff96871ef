"""Loss spikes: which steps are reported, and that a resumed run reports the same ones."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bilevel_runs import Make, trainer
from poison import Poison

from crosstask.callbacks.loss_spikes import LossSpikes, loss_spikes
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.optimization import Optimization


def indices(losses: list[float], *, window: int = 20, factor: float = 8.0) -> list[int]:
    return [spike.position for spike in loss_spikes(losses, 0, window=window, factor=factor)]


def test_spikes_are_found_in_noise_and_their_like_does_not_hide_them() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = (2.0 + 0.05 * torch.randn(200, generator=generator)).tolist()
    assert indices(losses) == []
    for place in (50, 52, 54, 120):  # three within one window: a standard deviation would grow with each
        losses[place] = 4.0
    assert indices(losses) == [50, 52, 54, 120]


def test_a_falling_loss_a_flat_one_and_nan_are_no_spikes() -> None:
    falling = [10.0 * 0.97**step for step in range(100)]
    assert indices(falling) == []
    assert indices([0.0, *[1.0] * 40, 1.01]) == []
    assert indices([1.0] * 30 + [float("nan"), float("inf"), 1.0]) == []
    assert indices([1.0] * 30 + [float("nan")] * 15 + [3.0]) == []  # 5 finite losses are too few to tell
    assert indices([1.0] * 9 + [3.0]) == []
    assert indices([1.0] * 10 + [3.0]) == [10]


def test_a_run_warns_of_a_spike_and_continues(
    toybench: Path, tmp_path: Path, tiny_model: dict[str, Any], make_datamodule: Any
) -> None:
    spikes = LossSpikes(window=4, factor=8.0, every=3)
    poison = Poison("model.norm.weight", step=(7,), value=1e4)
    steady = Optimization(learning_rate=1e-4)
    module = InstructionTuningModule(str(toybench / "tokenizer"), config=tiny_model, optimizer=steady, row_length=128)
    fitted = trainer(8, callbacks=[poison, spikes], enable_checkpointing=False, default_root_dir=str(tmp_path))
    with pytest.warns(UserWarning, match=r"step 7: the loss .* deviations above .*, the median of the steps before it"):
        fitted.fit(module, make_datamodule())
    assert fitted.global_step == 8
    assert spikes.spikes >= 1


def test_a_resumed_run_continues_the_window(make_bilevel: Make, tmp_path: Path) -> None:
    whole, first, second = (LossSpikes(window=4, every=3) for _ in range(3))
    options: dict[str, Any] = {"enable_checkpointing": False, "default_root_dir": str(tmp_path)}
    trainer(7, callbacks=[whole], **options).fit(*make_bilevel())
    module, data = make_bilevel()
    begun = trainer(4, callbacks=[first], **options)
    begun.fit(module, data)
    begun.save_checkpoint(tmp_path / "four.ckpt")
    trainer(7, callbacks=[second], **options).fit(*make_bilevel(), ckpt_path=tmp_path / "four.ckpt", weights_only=True)
    assert second.state_dict()["losses"] == pytest.approx(whole.state_dict()["losses"])


def test_settings_and_other_modules_are_rejected() -> None:
    with pytest.raises(ValueError, match="window must be at least 4"):
        LossSpikes(window=2)
    with pytest.raises(ValueError, match="LossSpikes reads the loss of a module of crosstask, got LightningModule"):
        LossSpikes().on_train_start(L.Trainer(logger=False, accelerator="cpu"), L.LightningModule())
