"""The target-token loss: against transformers' own, and unchanged by packing, order, accumulation."""

from typing import Any

import numpy as np
import pytest
import torch
from target_models import EOS, PAD, VOCABULARY, causal_model, documents, t5_model
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from crosstask.datamodules.packing.collate import CausalRows, Seq2SeqRows
from crosstask.datamodules.schema import TokenizedExample
from crosstask.lightning_modules.target_loss import padding_mask, shift_right, target_logits, target_loss


def mean_of_lone_documents(model: Any, made: list[TokenizedExample]) -> torch.Tensor:
    """transformers' own loss, which shifts by itself, on one document at a time; summed over target tokens."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for document in made:
        ids = torch.tensor(document.input_ids)[None]
        if model.config.is_encoder_decoder:
            source, labels = ids[:, : document.n_source], ids[:, document.n_source :]
            loss = model(input_ids=source, attention_mask=torch.ones_like(source), labels=labels).loss
            targets = labels.numel()
        else:
            labels = ids.clone()
            labels[:, : document.n_source] = -100
            for begin, end in document.holes:
                labels[:, begin:end] = -100
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
            targets = int((labels[:, 1:] != -100).sum())
        total, count = total + loss * targets, count + targets
    return total / count


def conversations(count: int) -> list[TokenizedExample]:
    """Documents of two or three targets; the first one has one."""
    generator = np.random.default_rng(1)
    holes = [(), ((4, 6),), ((3, 4), (6, 8))]
    return [TokenizedExample(generator.integers(2, VOCABULARY, 10), 2, holes=holes[n % 3]) for n in range(count)]


@pytest.mark.parametrize("model_type", ["opt", "llama"])
@pytest.mark.parametrize("make", [documents, conversations])
def test_the_packed_loss_is_transformers_own_over_documents_alone(model_type: str, make: Any) -> None:
    made = make(7)
    packed, alone = causal_model(model_type), causal_model(model_type, attention="sdpa")
    batch = CausalRows(32, PAD).collate([made[:3], made[3:5], made[5:]], step_targets=1)
    loss = target_loss(packed, batch)
    expected = mean_of_lone_documents(alone, made)
    torch.testing.assert_close(loss.sum / loss.targets, expected, rtol=1e-6, atol=0)

    (loss.sum / loss.targets).backward()
    expected.backward()
    for mine, theirs in zip(packed.parameters(), alone.parameters(), strict=True):
        # transformers takes its softmax in float32, whatever the model's type
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_the_packed_encoder_decoder_loss_is_transformers_own_over_documents_alone() -> None:
    made = documents(6)
    batch = Seq2SeqRows(20, 16, PAD).collate([made[:3], made[3:4], made[4:]], step_targets=1)
    loss = target_loss(t5_model(), batch)
    alone = mean_of_lone_documents(t5_model("sdpa"), made)
    torch.testing.assert_close(loss.sum / loss.targets, alone, rtol=1e-6, atol=0)


def test_padded_rows_give_the_same_loss_to_models_that_cannot_be_packed() -> None:
    made = documents(4)
    rows = [[document] for document in made]
    batch = CausalRows(12, PAD).collate(rows, step_targets=1)
    packed = target_loss(causal_model(), batch)
    padded = target_loss(causal_model(attention="sdpa"), batch, packed=False)
    torch.testing.assert_close(packed.sum, padded.sum)

    torch.manual_seed(0)
    fields = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": PAD, "eos_token_id": EOS}
    config = AutoConfig.for_model("bart", vocab_size=VOCABULARY, decoder_start_token_id=EOS, **fields, **heads)
    bart = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="sdpa").double().eval()
    loss = target_loss(bart, Seq2SeqRows(12, 9, PAD).collate(rows, step_targets=1), packed=False)
    torch.testing.assert_close(loss.sum / loss.targets, mean_of_lone_documents(bart, made), rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_does_not_depend_on_how_documents_share_rows(seed: int) -> None:
    made, model = documents(8), causal_model()
    sums = []
    for order_seed in (0, seed + 1):
        shuffled = [made[i] for i in np.random.default_rng(order_seed).permutation(8)]
        split = 2 + order_seed
        rows = [shuffled[:split], shuffled[split:]]
        batch = CausalRows(72, PAD).collate(rows, step_targets=1)
        sums.append(target_loss(model, batch).sum)
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-6, atol=0)


def test_logits_are_only_computed_at_targets() -> None:
    made, model = documents(3), causal_model()
    batch = CausalRows(30, PAD).collate([made], step_targets=1)
    assert target_logits(model, batch).shape == (int((batch.targets >= 0).sum()), VOCABULARY)


def test_rows_of_padding_alone_have_a_loss_of_zero_and_zero_gradients() -> None:
    model = causal_model()
    loss = target_loss(model, CausalRows(8, PAD).collate([[]], step_targets=0))
    loss.sum.backward()
    assert (float(loss.sum.detach()), int(loss.targets)) == (0.0, 0)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_decoder_inputs_are_the_targets_moved_inside_their_documents() -> None:
    targets = torch.tensor([[5, 6, 7, -100], [8, 9, 4, 3]])
    assert shift_right(targets, torch.tensor([0, 2, 3, 4, 8, 8]), start=0).tolist() == [[0, 5, 0, 0], [0, 8, 9, 4]]


def test_padded_attention_rejects_rows_of_several_documents() -> None:
    batch = CausalRows(30, PAD).collate([documents(3)], step_targets=1)
    with pytest.raises(ValueError, match="packing to one_per_row"):
        padding_mask(batch.offsets, batch.input_ids)
