"""Learnable instructions: sizes and initial values of the paper, gradients, and rows that read as they should."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from crosstask.datamodules.bilevel.exemplars import InstructionInputs
from crosstask.datamodules.schema import CausalBatch, Seq2SeqBatch
from crosstask.lightning_modules.instructions.exemplar_extraction import straight_through
from crosstask.lightning_modules.instructions.instructed_loss import input_embeddings, instructed_loss, model_functions
from crosstask.lightning_modules.instructions.learnable_instructions import (
    DirectEmbedder,
    DirectExtractor,
    InstanceEmbedder,
    InstanceExtractor,
    Instruction,
    LearnableInstruction,
    MeanEmbedding,
    ModelFunctions,
    ModelStates,
    align_right,
    masked_mean,
)
from crosstask.lightning_modules.target_loss import target_loss

TASKS, LENGTH, WIDTH, VOCABULARY, EXEMPLARS = 5, 3, 8, 20, 4


def text_functions() -> ModelFunctions:
    """A table of embeddings, and no encoder."""
    table = nn.Embedding(VOCABULARY, WIDTH)
    return ModelFunctions(table, lambda ids, mask: table(ids))


def inputs() -> InstructionInputs:
    """Two instances, of tasks 4 and 1, with exemplars of 1 to 4 tokens."""
    torch.manual_seed(1)
    lengths = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    return InstructionInputs(
        tasks=torch.tensor([4, 1]),
        pair_ids=torch.randint(0, VOCABULARY, (2, 5)),
        pair_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        exemplar_ids=torch.randint(0, VOCABULARY, (2, EXEMPLARS, 4)),
        exemplar_mask=(torch.arange(4) < lengths.unsqueeze(-1)).long(),
    )


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: DirectEmbedder(715, 64, 768), 35_143_680),
        (lambda: InstanceEmbedder(MeanEmbedding(32_100, 512), 64, 768), 41_601_024),
        (lambda: DirectExtractor(715, 32), 22_880),
        (lambda: InstanceExtractor(MeanEmbedding(32_100, 512)), 16_697_344),
    ],
    ids=["direct embedder", "instance embedder", "direct extractor", "instance extractor"],
)
def test_sizes_of_the_paper(build: Callable[[], LearnableInstruction], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == parameters


def test_initial_values_of_the_paper() -> None:
    torch.manual_seed(0)
    table = DirectEmbedder(50, 8, 32).table
    assert table.shape == (50, 8, 32)
    assert table.std().item() == pytest.approx(1.0, abs=0.02)
    extractor = DirectExtractor(TASKS, EXEMPLARS)
    assert extractor.logits.shape == (TASKS, 1, EXEMPLARS)
    assert (extractor.logits == 1).all()
    assert extractor(inputs(), text_functions()).chosen.tolist() == [[0], [0]]

    embedder = InstanceEmbedder(MeanEmbedding(400, 64), LENGTH, WIDTH)
    assert embedder.convert.weight.shape == (LENGTH * WIDTH, 64)
    assert embedder.texts.table.weight.std().item() == pytest.approx(1.0, abs=0.02)
    for weight in (embedder.convert.weight, InstanceExtractor(MeanEmbedding(4, 64)).match.weight):
        assert weight.abs().max().item() == pytest.approx(1 / math.sqrt(64), rel=0.01)  # U(+-1/sqrt(W))


def test_a_direct_embedder_is_a_table_of_the_tasks() -> None:
    embedder = DirectEmbedder(TASKS, LENGTH, WIDTH)
    made = embedder(inputs(), text_functions())
    assert torch.equal(made.embeddings, embedder.table[[4, 1]])
    assert made.mask.tolist() == [[1] * LENGTH] * 2
    made.embeddings.sum().backward()
    moved = embedder.table.grad.abs().sum(dim=(1, 2)) > 0  # type: ignore[union-attr]
    assert moved.tolist() == [False, True, False, False, True]


def test_an_instance_embedder_reads_z_alone_and_not_its_padding() -> None:
    embedder = InstanceEmbedder(MeanEmbedding(VOCABULARY, 6), LENGTH, WIDTH)
    given = inputs()
    made = embedder(given, text_functions()).embeddings
    mean = embedder.texts.table.weight[given.pair_ids[1, :2]].mean(dim=0)
    assert_close(made[1], (embedder.convert.weight @ mean).view(LENGTH, WIDTH))
    other = given.pair_ids.clone()
    other[1, 2:] = 0
    assert torch.equal(embedder(given._replace(pair_ids=other), text_functions()).embeddings, made)


def test_an_instance_extractor_scores_by_a_bilinear_form() -> None:
    extractor, given = InstanceExtractor(MeanEmbedding(VOCABULARY, 6)), inputs()
    table, form = extractor.texts.table.weight, extractor.match.weight[0]
    assert given.exemplar_ids is not None
    h = table[given.exemplar_ids[0, 2, :3]].mean(dim=0)  # the third exemplar has three tokens
    z = table[given.pair_ids[0]].mean(dim=0)
    assert_close(extractor.scores(given, text_functions())[0, 2], h @ form @ z)


def test_straight_through_takes_one_and_learns_by_the_softmax() -> None:
    scores = torch.tensor([[0.5, 2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    taken = (straight_through(scores) * values).sum()
    assert taken.item() == pytest.approx(-1.0)
    (slope,) = torch.autograd.grad(taken, scores)
    soft = scores.detach().requires_grad_()
    (expected,) = torch.autograd.grad((soft.softmax(dim=1) * values).sum(), soft)
    assert_close(slope, expected)


def extractor_with(last: float, **options: Any) -> DirectExtractor:
    extractor = DirectExtractor(TASKS, EXEMPLARS, **options)
    with torch.no_grad():
        extractor.logits[:, 0, 1] = last
    return extractor


def test_an_extractor_hands_on_the_models_embeddings_and_trains_them() -> None:
    given, model = inputs(), text_functions()
    made = extractor_with(9.0)(given, model)
    assert made.chosen.tolist() == [[1], [1]]  # type: ignore[union-attr]
    assert given.exemplar_ids is not None
    assert made.mask.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]  # padding first: the text follows without a gap
    assert_close(made.embeddings[0, 2:], model.embed(given.exemplar_ids[0, 1, :2]))
    assert_close(made.embeddings[1, 1:], model.embed(given.exemplar_ids[1, 1, :3]))
    made.embeddings.sum().backward()
    table: Any = model.embed
    assert table.weight.grad is not None


def test_attended_padding_stays_where_the_released_program_has_it() -> None:
    given, model = inputs(), text_functions()
    made = extractor_with(9.0, attend_padding=True)(given, model)
    assert made.mask.tolist() == [[1] * 4] * 2
    assert given.exemplar_ids is not None
    assert_close(made.embeddings, model.embed(given.exemplar_ids[:, 1]))


def test_the_soft_extractor_is_the_expectation() -> None:
    given, model = inputs(), text_functions()
    made = extractor_with(1.5, soft=True, attend_padding=True)(given, model)
    weights = torch.tensor([1.0, 1.5, 1.0, 1.0]).softmax(dim=0)
    assert given.exemplar_ids is not None
    assert_close(made.embeddings, (model.embed(given.exemplar_ids) * weights[:, None, None]).sum(dim=1))


def test_the_share_that_chooses_the_last_exemplar() -> None:
    extractor = DirectExtractor(TASKS, EXEMPLARS)
    with torch.no_grad():
        extractor.logits[:2, 0, -1] = 2.0
    assert extractor.share_of_last(inputs(), text_functions()) == pytest.approx(2 / TASKS)


def test_a_missing_exemplar_is_not_counted_as_the_last_choice() -> None:
    given, extractor = inputs(), InstanceExtractor(MeanEmbedding(VOCABULARY, 6))
    assert given.exemplar_mask is not None
    given.exemplar_mask[0, -1] = 0  # its vector and its score are 0
    with torch.no_grad():
        extractor.texts.table.weight.copy_(torch.ones(VOCABULARY, 6))  # type: ignore[union-attr]
        extractor.match.weight.copy_(-torch.eye(6)[None])  # all other scores are -6
    assert extractor.scores(given, text_functions())[0].tolist() == [-6.0, -6.0, -6.0, 0.0]
    assert extractor.share_of_last(given, text_functions()) == 0.0


def test_an_extractor_without_exemplars_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="set the datamodule's exemplars"):
        DirectExtractor(TASKS, EXEMPLARS)(inputs()._replace(exemplar_ids=None), text_functions())


def test_a_text_of_no_tokens_is_zero() -> None:
    assert masked_mean(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.long)).tolist() == [[0.0, 0.0, 0.0]]
    states, mask = torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.long)
    assert torch.equal(align_right(states, mask)[0], states)


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def t5() -> PreTrainedModel:
    config = T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    config.decoder_start_token_id, config.relative_attention_num_buckets = 0, 8
    return T5ForConditionalGeneration(config)


def one_row(text: list[int], target: list[int], *, pair: bool, padding: int = 0) -> CausalBatch | Seq2SeqBatch:
    if pair:
        source = torch.tensor([text + [0] * padding])
        ends = [len(text)] if padding else []
        return Seq2SeqBatch(
            source,
            torch.tensor([0, *ends, source.shape[1]]),
            torch.tensor([target]),
            torch.tensor([0, *([len(target)] if padding else []), len(target)]),
            len(target),
            1,
            0,
            torch.arange(len(target)),
        )
    ids = torch.tensor([text + target + [0] * padding])
    targets = torch.full_like(ids, -100)
    targets[0, len(text) - 1 : len(text) + len(target) - 1] = torch.tensor(target)
    ends = [len(text) + len(target)] if padding else []
    offsets = torch.tensor([0, *ends, ids.shape[1]])
    places = len(text) - 1 + torch.arange(len(target))
    return CausalBatch(ids, targets, torch.arange(ids.shape[1]).unsqueeze(0), offsets, len(target), 1, 0, places)


@pytest.mark.parametrize("build", [llama, t5])
def test_an_instruction_of_token_embeddings_reads_as_the_tokens_would(build: Callable[[], PreTrainedModel]) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    pair = model.config.is_encoder_decoder
    words = [7, 8, 9]
    embedded = input_embeddings(model)(torch.tensor([words]))
    rows = one_row([3, 4, 5], [6, 7, 1], pair=pair, padding=2)
    expected = target_loss(model, one_row([*words, 3, 4, 5], [6, 7, 1], pair=pair), packed=False)
    found = instructed_loss(model, Instruction(embedded, torch.ones(1, 3, dtype=torch.long)), rows)
    assert found.targets == expected.targets == 3
    assert_close(found.sum, expected.sum, rtol=1e-6, atol=0.0)  # T5's norms are float32 whatever its weights are

    # Masked columns before it are not there; attended ones are.
    loud = torch.cat([torch.full((1, 2, WIDTH), 30.0, dtype=torch.float64), embedded], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    assert_close(instructed_loss(model, Instruction(loud, mask), rows).sum, expected.sum, rtol=1e-6, atol=0.0)
    assert abs(instructed_loss(model, Instruction(loud, torch.ones_like(mask)), rows).sum - expected.sum) > 1e-3


@pytest.mark.parametrize("build", [llama, t5])
def test_the_models_own_states_can_represent_texts(build: Callable[[], PreTrainedModel]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    extractor = InstanceExtractor(ModelStates(WIDTH))
    assert [name for name, _ in extractor.named_parameters()] == ["match.weight"]  # theta is not phi's
    given = inputs()
    alone = model_functions(model).encode(given.pair_ids[1:, :2], torch.ones(1, 2, dtype=torch.long)).mean(dim=1)
    padded = ModelStates(WIDTH)(given.pair_ids, given.pair_mask, model_functions(model))
    assert_close(padded[1:], alone)
    extractor.scores(given, model_functions(model)).sum().backward()
    weight: Tensor = input_embeddings(model).weight  # type: ignore[assignment]
    assert weight.grad is not None


def test_a_model_without_input_embeddings_is_rejected() -> None:
    class Blind(LlamaForCausalLM):
        def get_input_embeddings(self) -> nn.Module:
            raise NotImplementedError

    with pytest.raises(ValueError, match="Blind has no table of input embeddings"):
        input_embeddings(Blind(llama().config))
