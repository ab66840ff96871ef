"""Texts behind an instruction are read as plain texts are: through the table that the model's own forward reads."""

from typing import Any

import numpy as np
import pytest
import torch
from bilevel_runs import Make, trainer
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from crosstask.datamodules.packing.collate import Seq2SeqRows
from crosstask.datamodules.schema import TokenizedExample
from crosstask.lightning_modules.instructions.instructed_loss import instructed_loss, require_embedded_input
from crosstask.lightning_modules.instructions.learnable_instructions import Instruction
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.target_loss import target_loss

SMALL: dict[str, Any] = {"vocab_size": 64, "d_model": 16, "max_position_embeddings": 200, "decoder_start_token_id": 0}
SMALL |= {f"{stack}_layers": 1 for stack in ("encoder", "decoder")} | {"pad_token_id": 0, "scale_embedding": True}
SMALL |= {f"{stack}_{part}": 2 for stack in ("encoder", "decoder") for part in ("attention_heads", "ffn_dim")}


def model(kind: str, *, tied: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL, tie_word_embeddings=tied)
    return AutoModelForSeq2SeqLM.from_config(config).double().eval()


@pytest.mark.parametrize("tied", [True, False])
def test_a_text_behind_an_empty_instruction_has_its_plain_loss(tied: bool) -> None:
    """An untied BART has three tables, and its encoder does not read the one that `get_input_embeddings` returns."""
    bart = model("bart", tied=tied)
    require_embedded_input(bart)
    documents = [TokenizedExample(np.arange(4, 20), 8), TokenizedExample(np.arange(20, 32), 6)]
    rows = Seq2SeqRows(24, 24, 0).collate([[document] for document in documents], 1)
    empty = Instruction(torch.zeros(2, 0, 16), torch.zeros(2, 0, dtype=torch.int64))
    plain = target_loss(bart, rows, packed=False)
    torch.testing.assert_close(instructed_loss(bart, empty, rows).sum, plain.sum, rtol=1e-12, atol=0)


def test_a_model_that_scales_embeddings_outside_of_its_table_is_rejected() -> None:
    with pytest.raises(ValueError, match="MarianMTModel computes other hidden states from embeddings than from token"):
        require_embedded_input(model("marian", tied=True).train())


def test_such_a_model_is_rejected_before_training(make_bilevel: Make) -> None:
    options = {"config": {"model_type": "marian", **SMALL}, "network": Network(attention="sdpa")}
    module, datamodule = make_bilevel(True, **options)
    with pytest.raises(ValueError, match="cannot read a learnable instruction before a text"):
        trainer(3).fit(module, datamodule)
