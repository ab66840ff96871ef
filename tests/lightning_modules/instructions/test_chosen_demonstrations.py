"""Learned demonstrations: which are chosen, by what they learn, and that the model reads the few-shot prompt."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bilevel_runs import INNER_STEPS, Make, trainer
from torch import Tensor
from torch.nn import Parameter
from torch.testing import assert_close

from crosstask.commands.export import export_checkpoint
from crosstask.datamodules.bilevel.exemplars import InstructionInputs
from crosstask.datamodules.bilevel.level_instances import Instance
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.rendering.prompts import OptImlPrompt
from crosstask.lightning_modules.hypergradients import conjugate_gradient, exact, hypergradient
from crosstask.lightning_modules.instructions.exemplar_extraction import choice_weights, choose_in_turn
from crosstask.lightning_modules.instructions.instruction_kinds import InstructionSettings
from crosstask.lightning_modules.instructions.instruction_start import InstructionStart
from crosstask.lightning_modules.instructions.learnable_instructions import (
    DirectExtractor,
    ModelFunctions,
)
from crosstask.lightning_modules.instructions.stored_instructions import read_instructions
from crosstask.lightning_modules.target_loss import target_loss

FEW_SHOT: dict[str, Any] = {
    "prompt": OptImlPrompt(),
    "rows": {"length": 240},
    "instructions": {"exemplars": 4, "demonstrations": 2, "length": 60, "pair_length": 60},
    "evaluation": {"shots": 2},
}


def exemplars(*words: list[int], places: int | None = None) -> InstructionInputs:
    """One instance of task 0 whose exemplars are these tokens."""
    longest = max(map(len, words))
    ids = torch.tensor([[[*one, *[0] * (longest - len(one))] for one in words]])
    mask = torch.tensor([[[1] * len(one) + [0] * (longest - len(one)) for one in words]])
    nothing = torch.zeros(1, 0, dtype=torch.long)
    return InstructionInputs(
        torch.tensor([0]), nothing, nothing, ids, mask, places=None if places is None else torch.tensor([places])
    )


@pytest.mark.parametrize(
    ("inputs", "chosen"),
    [
        (exemplars([1], [2], [3], [4]), [2, 0, 1]),
        (exemplars([3], [2], [3], [4]), [2, 1, 3]),  # the first has the text of the third
        (exemplars([1], [2], [], [4]), [0, 1, 3]),  # the third is missing
        (exemplars([1], [1], [1, 0], []), [2, 0, -1]),  # and padding is no text
        (exemplars([1], [2], [3], [4], places=2), [2, 0, -1]),  # no more fit
    ],
)
def test_the_best_are_chosen_in_turn_each_of_another_text(inputs: InstructionInputs, chosen: list[int]) -> None:
    scores = torch.tensor([[2.0, 1.0, 3.0, 0.5]])
    assert choose_in_turn(scores, inputs, 3)[0].tolist() == [chosen]


def test_each_choice_learns_by_the_softmax_over_what_it_is_among() -> None:
    """In float64 the gradient is that of the soft form, and the values are those of the choices."""
    inputs = exemplars([1], [2], [3], [4])
    scores = torch.tensor([[0.5, 2.0, 1.0, -0.3]], dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, among = choose_in_turn(scores.detach(), inputs, 2)
    taken = (choice_weights(scores, among, soft=False) * values).sum()
    assert taken.item() == pytest.approx((values[0, 1] + values[1, 2]).item())
    (slope,) = torch.autograd.grad(taken, scores)

    soft = scores.detach().clone().requires_grad_()
    second = torch.tensor([[0, 2, 3]])
    expected = (soft.softmax(dim=1) * values[0]).sum() + (soft[0, second].softmax(dim=1) * values[1, second]).sum()
    assert_close(slope, torch.autograd.grad(expected, soft)[0])
    assert_close(choice_weights(scores, among, soft=True).sum(dim=2), torch.ones(1, 2, dtype=torch.float64))


def test_one_helpful_demonstration_among_noise_is_learned() -> None:
    """Theta becomes the mean of two chosen exemplars; the outer loss wants it where one of them is."""
    tasks, number = 3, 5
    table = torch.eye(number + 1, dtype=torch.float64)
    helpful = torch.tensor([4, 2, 3])
    inputs = InstructionInputs(
        torch.arange(tasks),
        torch.zeros(tasks, 0, dtype=torch.long),
        torch.zeros(tasks, 0, dtype=torch.long),
        torch.arange(1, number + 1).view(1, number, 1).repeat(tasks, 1, 1),
        torch.ones(tasks, number, 1, dtype=torch.long),
    )
    model = ModelFunctions(lambda ids: table[ids], lambda ids, mask: table[ids])
    extractor = DirectExtractor(tasks, number, number=2).double()
    theta = Parameter(torch.zeros(tasks, number + 1, dtype=torch.float64))
    optimizer = torch.optim.SGD(extractor.parameters(), lr=1.0)

    def inner() -> Tensor:
        return (theta - extractor(inputs, model).embeddings.mean(dim=1)).square().sum() / 2

    def outer() -> Tensor:
        return (theta - table[helpful + 1]).square().sum() / 2

    assert extractor(inputs, model).chosen.tolist() == [[0, 1]] * tasks
    for _ in range(20):
        with torch.no_grad():
            theta.copy_(extractor(inputs, model).embeddings.mean(dim=1))  # the inner optimum
        step = hypergradient(
            lambda v, product: conjugate_gradient(v, product, iterations=2), inner, outer, [theta],
            list(extractor.parameters()), curvature=exact,
        )  # fmt: skip
        for parameter, gradient in zip(extractor.parameters(), step.gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    assert extractor(inputs, model).chosen[:, 0].tolist() == helpful.tolist()


@pytest.mark.parametrize(("kind", "seq2seq"), [("direct_extractor", False), ("direct_extractor", True)])
def test_the_loss_is_that_of_the_few_shot_prompt(make_bilevel: Make, kind: str, seq2seq: bool) -> None:
    """The first exemplars are chosen at first: the loss is the ordinary one of the prompt with them."""
    module, datamodule = make_bilevel(seq2seq, FEW_SHOT, instruction=kind)
    trainer(INNER_STEPS, enable_checkpointing=False).fit(module, datamodule)
    module.double().eval()
    plan = datamodule.plan
    assert plan is not None
    instances = [Instance(0, 0), Instance(1, 2), Instance(2, 1)]
    with torch.no_grad():
        assert module.instruction is not None
        module.instruction.load_state_dict({"logits": torch.ones_like(module.instruction.logits)})
        rows, inputs = plan.task_rows(plan.inner, instances)
        assert inputs is not None
        learned = module._inner_loss(type(plan.first_batch(0))(rows, inputs))
        prompts = [plan.rows.prompt(plan.inner, instance) for instance in instances]
        assert all(prompt.source.count("\n\n\n") == 3 for prompt in prompts)
        whole = plan.rows._rows(prompts, Replicas(), reserve=0)
        plain = target_loss(module.language_model, whole, packed=False)
    assert_close(learned, plain.sum / plain.targets, rtol=1e-6, atol=0.0)  # T5's norms are float32


@pytest.mark.parametrize("kind", ["direct_extractor", "instance_extractor", "first_exemplar"])
def test_demonstrations_are_trained_exported_and_applied(make_bilevel: Make, tmp_path: Path, kind: str) -> None:
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=INNER_STEPS, filename="last")
    module, datamodule = make_bilevel(data=FEW_SHOT, instruction=kind)
    fitted = trainer(INNER_STEPS, callbacks=[saved])
    fitted.fit(module, datamodule)
    if kind == "first_exemplar":
        assert module.outer_step == 0
        return
    assert fitted.callback_metrics["train/hypergradient_norm"] > 0
    assert fitted.callback_metrics["train/demonstrations"] == 2.0
    export_checkpoint([str(tmp_path / "last.ckpt"), str(tmp_path / "exported")])
    stored = read_instructions(tmp_path / "exported")
    assert stored.description["demonstrations"] == 2
    if kind != "direct_extractor":
        return
    logits = module.phi[0].detach()
    order = logits[:, 0].argsort(dim=1, descending=True, stable=True)[:, :2].tolist()
    for place, name in enumerate(stored.tasks):
        chosen = stored.description["chosen"][name]
        assert [one["exemplar"] for one in chosen] == order[place]
        assert all(one["text"].endswith("\n\n\n") for one in chosen)
        assert len({one["id"] for one in chosen}) == 2
    start = InstructionStart(stored=str(tmp_path / "exported"), frozen=True)
    again, datamodule = make_bilevel(data=FEW_SHOT, instruction=kind, start=start)
    trainer(INNER_STEPS, enable_checkpointing=False).fit(again, datamodule)
    assert torch.equal(again.instruction.logits, logits)  # type: ignore[union-attr]


def test_kinds_that_choose_no_exemplars_are_rejected() -> None:
    for kind in ("none", "direct_embedder", "instance_embedder"):
        with pytest.raises(ValueError, match=r"demonstrations are exemplars: set instruction\.kind"):
            InstructionSettings(kind=kind, exemplars=4, demonstrations=2)
    with pytest.raises(ValueError, match=r"set instruction\.exemplar_padding to masked"):
        InstructionSettings(kind="direct_extractor", exemplars=4, demonstrations=2, exemplar_padding="attended")
