"""Compiled blocks stay compiled: what runs in a training step is counted, not what was requested."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from lightning import Callback, LightningModule, Trainer
from small_runs import QUIET

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.models import Network

Graph = Callable[..., Any]


class CountedGraphs(Callback):
    """A compiler's backend that runs graphs as they are, and counts the calls of each training step."""

    def __init__(self) -> None:
        self.compiled, self.calls = 0, 0
        self.calls_of_step: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Graph:
        self.compiled += 1

        def run(*arguments: Any) -> Any:
            self.calls += 1
            return graph.forward(*arguments)

        return run

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.calls = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.calls_of_step.append(self.calls)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountedGraphs]:
    torch._dynamo.reset()
    counted, compile_module = CountedGraphs(), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend=counted))
    yield counted
    torch._dynamo.reset()


def test_training_runs_compiled_graphs_after_evaluations(
    make_datamodule: Callable[..., InstructionTuningDataModule], tiny_model: dict[str, Any], graphs: CountedGraphs
) -> None:
    """A sanity check and a validation generate and rank at many lengths; every step runs as many graphs as the first.

    Without the exemption of evaluations, no graph runs in training: blocks share a limit of 8 compilations.
    """
    data = make_datamodule(evaluation={"ranking": OptionRanking(), "max_new_tokens": 8, "batch_tokens": 512})
    module = InstructionTuningModule(
        data.tokenizer_name, config=tiny_model, network=Network(compile=True), row_length=128
    )
    options: dict[str, Any] = QUIET | {"limit_val_batches": 8, "num_sanity_val_steps": 8, "val_check_interval": 2}
    Trainer(max_steps=3, callbacks=[graphs], **options).fit(module, datamodule=data)
    assert len(graphs.calls_of_step) == 3
    assert len(set(graphs.calls_of_step)) == 1
    assert graphs.calls_of_step[0] >= 2  # at least one graph in each of the two blocks
