"""Fixtures: small generators, and the examples that they answer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.lightning_modules.models import build_model, model_config

TASK = "task001_toy_copy_animals"
T5 = {"model_type": "t5", "d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict[str, Any]) -> Path:
    """Write a causal and an encoder-decoder model with random weights, and return the folder of both."""
    folder = tmp_path_factory.mktemp("generators")
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    for name, fields in (
        ("causal", {**tiny_model, "initializer_range": 0.5}),
        ("pair", {**T5, "decoder_start_token_id": 0}),
    ):
        torch.manual_seed(0)
        config = model_config(fields, vocabulary=len(tokenizer), dropout=None)
        model = build_model(config, weights=None, vocabulary=len(tokenizer), attention="sdpa", dtype=torch.float32)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def examples(toybench: Path) -> SampledExamples:
    return SampledExamples(
        NaturalInstructions(str(toybench)), parts=["train"], tasks=[TASK], train_examples=6, validation_examples=0
    )
