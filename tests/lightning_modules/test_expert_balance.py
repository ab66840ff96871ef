"""The auxiliary loss of mixtures of experts: transformers' own, over the whole step, or a clear rejection."""

from typing import Any

import pytest
import torch
from small_runs import SmallRuns, small_trainer
from target_models import PAD, causal_model, documents

from crosstask.datamodules.packing.collate import CausalRows
from crosstask.lightning_modules.chunked_head import ChunkedHead
from crosstask.lightning_modules.expert_balance import balance_losses
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.recomputation import recompute_blocks
from crosstask.lightning_modules.target_loss import target_loss

BALANCED = {"router_aux_loss_coef": 0.5, "num_local_experts": 4}
BALANCED |= {"head_dim": 8, "experts_implementation": "eager"}  # the grouped product of experts has no float64


def tuned(model: Any, attention: str) -> InstructionTuningModule:
    module = InstructionTuningModule(
        "none", config={"model_type": "mixtral"}, network=Network(attention, balance_experts=True)
    )
    module.model = model
    return module


@pytest.mark.parametrize("attention", ["document", "sdpa"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("recomputed", [False, True])
def test_loss_and_gradients_are_transformers_own(attention: str, chunked: bool, recomputed: bool) -> None:
    (document,) = documents(1)
    ours, theirs = causal_model("mixtral", attention, **BALANCED), causal_model("mixtral", "sdpa", **BALANCED)
    if recomputed:
        recompute_blocks(ours.train(), True)
    batch = CausalRows(len(document.input_ids), PAD).collate([[document]], step_targets=1)
    head = ChunkedHead(ours, chunk=1) if chunked else None
    with balance_losses(ours) as balance:
        mean = target_loss(ours, batch, packed=attention == "document", head=head)
    loss = mean.sum / mean.targets + balance[0]
    loss.backward()

    ids = torch.tensor(document.input_ids)[None]
    labels = ids.clone()
    labels[:, : document.n_source] = -100
    expected = theirs(input_ids=ids, labels=labels, output_router_logits=True)
    expected.loss.backward()
    assert float(balance[0]) > 0.1 * float(expected.loss)  # else it would be lost among the digits
    torch.testing.assert_close(loss.float(), expected.loss, rtol=1e-6, atol=0)  # transformers' softmax is float32
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_batches_of_a_step_count_by_their_targets() -> None:
    model, made = causal_model("mixtral", **BALANCED), documents(5)
    batches = [CausalRows(9, PAD).collate([[each] for each in part], step_targets=17) for part in (made[:1], made[1:])]
    found = sum(tuned(model, "document").batch_losses(batch)["loss"] for batch in batches)
    expected = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        with balance_losses(model) as balance:
            loss = target_loss(model, batch)
        expected = expected + (loss.sum + loss.targets * balance[0]) / 17
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_model_that_returns_none_is_rejected() -> None:
    (document,) = documents(1)
    module = tuned(causal_model("llama"), "document")
    with pytest.raises(ValueError, match=r"LlamaForCausalLM returns no auxiliary loss.* set network.balance_experts"):
        module.batch_losses(CausalRows(len(document.input_ids), PAD).collate([[document]], step_targets=1))


@pytest.mark.parametrize("name", ["scorer", "optimization"])
def test_other_trainings_reject_the_setting(small_runs: SmallRuns, name: str) -> None:
    options: dict[str, Any] = (
        {"network": Network(balance_experts=True)} if name == "scorer" else {"balance_experts": True}
    )
    with pytest.raises(ValueError, match=r"network\.balance_experts is for instruction tuning: leave it out"):
        small_runs(name, **options)


def test_a_model_that_asks_for_it_generates_and_says_so(
    small_runs: SmallRuns, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers' ``generate`` fails with output_router_logits, whose masks are of all cached tokens."""
    fields = {**small_runs.model, "model_type": "mixtral", "num_local_experts": 4, "output_router_logits": True}
    losses = []
    for balanced in (False, True):
        with caplog.at_level("INFO"):
            module, data = small_runs("tuning", config=fields, network=Network(balance_experts=balanced))
            trainer = small_trainer(2, limit_val_batches=1)
            trainer.fit(module, datamodule=data)
        losses.append(float(trainer.callback_metrics["train/loss"]))
        assert not module.language_model.config.output_router_logits
    assert losses[0] < losses[1]
    assert "mixtral: its output_router_logits is read as false" in caplog.text
