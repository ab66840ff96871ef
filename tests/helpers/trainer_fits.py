"""Parts of the tests of trainer settings: the tables of docs/trainer_settings.md, and fits of every module."""

import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from small_runs import SmallRuns, small_trainer, weights_of
from torch import Tensor

import crosstask

PAGE = (Path(crosstask.__file__).parent / "docs" / "trainer_settings.md").read_text(encoding="utf-8")
KINDS = ("tuning", "scorer", "optimization")
STEPS = 3


def rows(section: str) -> dict[str, str]:
    """Return the outcome of each row in a section of the page."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M))


def trained(runs: SmallRuns, kind: str, steps: int = STEPS, data: dict[str, Any] | None = None, **options: Any) -> Any:
    """Fit a pair, and return the trainer."""
    module, datamodule = runs(kind, data)
    trainer = small_trainer(steps, **options)
    trainer.fit(module, datamodule=datamodule)
    return trainer


def reject_at_start(module: Any, data: Any, trainer: L.Trainer) -> None:
    """Call the hook that ``fit`` calls first; several processes are not started for it."""
    if trainer.num_devices == 1:
        trainer.fit(module, datamodule=data)
        return
    trainer.datamodule = data  # type: ignore[attr-defined]
    trainer.state.fn = L.pytorch.trainer.states.TrainerFn.FITTING
    module.trainer = trainer
    module.configure_callbacks()


@pytest.fixture(scope="session")
def plain_weights(small_runs: SmallRuns) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each module after a fit without further settings."""
    return {kind: weights_of(trained(small_runs, kind).lightning_module) for kind in KINDS}
