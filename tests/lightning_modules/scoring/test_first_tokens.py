"""The last layer at first tokens alone: the numbers and the gradients of the whole layer."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from crosstask.datamodules.schema import ScoredBatch
from crosstask.lightning_modules.scoring.pair_scores import FIRST_TOKENS, pair_scores
from crosstask.lightning_modules.scoring.scorer_models import build_scorer

FIELDS: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "initializer_range": 0.3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def batch_of(lengths: list[list[int]], columns: int) -> ScoredBatch:
    """Rows of documents of these lengths, the rest of a row being padding."""
    generator = torch.Generator().manual_seed(0)
    ids, positions, offsets, scored = [], [], [0], []
    for r, row in enumerate(lengths):
        for length in row:
            scored.append(offsets[-1])
            ids += torch.randint(2, 50, (length,), generator=generator).tolist()
            positions += range(length)
            offsets.append(offsets[-1] + length)
        if rest := (r + 1) * columns - offsets[-1]:
            ids += [1] * rest
            positions += [0] * rest
            offsets.append(offsets[-1] + rest)
    shape = (len(lengths), columns)
    return ScoredBatch(
        torch.tensor(ids).view(shape),
        torch.tensor(positions).view(shape),
        torch.zeros(shape, dtype=torch.int64),
        torch.tensor(offsets, dtype=torch.int32),
        torch.tensor(scored),
        torch.zeros(len(scored)),
        len(scored),
        max(max(row) for row in lengths),
    )


@pytest.mark.parametrize("kind", ["roberta", "bert", "electra"])
def test_scores_and_gradients_are_those_of_the_whole_layer(kind: str) -> None:
    torch.manual_seed(0)
    model: Any = build_scorer(AutoConfig.for_model(kind, **FIELDS), weights=None, dtype=torch.float64)
    model.train()
    batch = batch_of([[7, 3, 1, 4], [16], [2, 9]], columns=16)
    found = []
    for alone in (True, False):
        assert getattr(model, FIRST_TOKENS)
        setattr(model, FIRST_TOKENS, alone)
        model.zero_grad()
        scores = pair_scores(model, batch)
        (scores * torch.arange(1.0, 8.0)).sum().backward()
        found.append((scores.detach(), {name: w.grad for name, w in model.named_parameters() if w.grad is not None}))
        setattr(model, FIRST_TOKENS, True)
    (ours, gradients), (whole, expected) = found
    torch.testing.assert_close(ours, whole, atol=1e-12, rtol=0)
    assert ours.std() > 1e-3
    assert gradients.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], atol=1e-10, rtol=1e-8)


def test_the_last_layer_reads_no_other_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build_scorer(AutoConfig.for_model("roberta", **FIELDS), weights=None, dtype=torch.float32)
    shapes: list[int] = []
    for layer in model.roberta.encoder.layer:
        layer.intermediate.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape[:-1].numel()))
    pair_scores(model.eval(), batch_of([[7, 3], [16]], columns=16))
    assert shapes == [32, 32, 4]  # the third is padding


def test_a_layer_of_another_arithmetic_is_left_whole() -> None:
    """Norms before the sums: the packed scores are compared with transformers' own in test_cross_encoder."""
    model = build_scorer(AutoConfig.for_model("roberta-prelayernorm", **FIELDS), weights=None, dtype=torch.float32)
    assert not getattr(model, FIRST_TOKENS)
