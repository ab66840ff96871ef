"""Compiled blocks stay compiled: what runs in a training step is counted, not what was requested."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from lightning import Callback, LightningModule, Trainer
from packed_models import build, inputs_for, loss_of, read_packed
from small_runs import QUIET
from torch import Tensor

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.lightning_modules.attention import backends, document_attention
from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.evaluation import likelihood
from crosstask.lightning_modules.generation import compiled_decoding
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.models import Network, prepare_network
from crosstask.lightning_modules.recomputation import Recomputation

Graph = Callable[..., Any]

SEQ2SEQ = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
SEQ2SEQ |= {"decoder_start_token_id": 0}
"""It generates by transformers' loop, and the decoder-only model by ours."""


class CountedGraphs(Callback):
    """A compiler's backend that runs graphs as they are, and counts the calls of each training step."""

    def __init__(self) -> None:
        self.compiled, self.calls = 0, 0
        self.calls_of_step: list[int] = []
        self.compiled_by_evaluations = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Graph:
        self.compiled += 1

        def run(*arguments: Any) -> Any:
            self.calls += 1
            return graph.forward(*arguments)

        return run

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compiled_by_evaluations -= self.compiled

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compiled_by_evaluations += self.compiled

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


@pytest.mark.parametrize(
    ("decoding", "seq2seq"), [(Decoding(), False), (Decoding(compile=True), False), (Decoding(), True)]
)
def test_training_runs_compiled_graphs_after_evaluations(
    decoding: Decoding,
    seq2seq: bool,
    make_datamodule: Callable[..., InstructionTuningDataModule],
    tiny_model: dict[str, Any],
    graphs: CountedGraphs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sanity check and a validation generate and rank at many lengths; every step runs as many graphs as the first.

    Without the exemption of evaluations, no graph runs in training: blocks share a limit of 8 compilations. Compiled
    decoding has compilations of its own.
    """
    steps = CountedGraphs()
    step = torch.compile(compiled_decoding.decode_step, fullgraph=True, dynamic=False, backend=steps)
    monkeypatch.setattr(compiled_decoding, "compiled_step", lambda device: step)
    ranked: list[Any] = []
    rank = likelihood.option_log_likelihoods
    monkeypatch.setattr(likelihood, "option_log_likelihoods", lambda *words: (ranked.append(words), rank(*words))[1])
    evaluation = {"ranking": OptionRanking(labels=4), "max_new_tokens": 8, "batch_tokens": 512}
    data = make_datamodule(evaluation=evaluation, **({"rows": {"target_length": 32}} if seq2seq else {}))
    model = SEQ2SEQ if seq2seq else tiny_model
    module = InstructionTuningModule(
        data.tokenizer_name, config=model, network=Network(compile=True), row_length=128, decoding=decoding
    )
    options: dict[str, Any] = QUIET | {"limit_val_batches": 8, "num_sanity_val_steps": 8, "val_check_interval": 2}
    Trainer(max_steps=3, callbacks=[graphs], **options).fit(module, datamodule=data)
    assert len(ranked) >= 2
    # The loss of packed rows alone: generation would add 6 to the decoder-only model's, and ranking 5.
    assert graphs.compiled_by_evaluations <= (21 if seq2seq else 4)
    assert len(graphs.calls_of_step) == 3
    assert len(set(graphs.calls_of_step)) == 1
    assert graphs.calls_of_step[0] >= 2  # at least one graph in each of the two blocks
    assert bool(steps.compiled) == decoding.compile
    assert steps.calls > 4 * steps.compiled or not decoding.compile


@torch.library.custom_op("crosstask_tests::varlen", mutates_args=())
def stand_in(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """In place of the kernel of CUDA: opaque to the compiler, with gradients, and quick."""
    return 0.1 * (query + key + value)


stand_in.register_fake(lambda query, key, value, offsets: torch.empty_like(query))
stand_in.register_autograd(lambda context, gradient: (0.1 * gradient, 0.1 * gradient, 0.1 * gradient, None))


@pytest.mark.parametrize(("choice", "compiled"), [(False, 2), (True, 2), ("selective", 2), (2, 4)])
def test_a_block_compiles_twice_whatever_its_documents_and_recomputation(
    choice: Recomputation, compiled: int, graphs: CountedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the first offsets and for any number of them; with every second block recomputed, there are two kinds."""

    def varlen(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, *_: Any, **__: Any) -> Tensor:
        return stand_in(query, key, value, offsets)

    monkeypatch.setattr(backends, "varlen_attn", varlen)
    monkeypatch.setattr(document_attention, "varlen_applies", lambda *_: True)
    model = build("opt").train()
    prepare_network(model, Network(gradient_checkpointing=choice, compile=True))
    for starts in ([0, 5, 12], [0, 3, 9, 12], [0, 2, 4, 6, 12], [0, 1, 2, 3, 4, 12]):
        offsets = torch.tensor([*starts, 24], dtype=torch.int32)
        loss_of(read_packed(model, **(inputs_for(model) | {"documents": Documents(offsets)}))).backward()
    assert graphs.compiled == compiled
    assert graphs.calls == 4 * 2  # one graph a block: nothing breaks it
