"""Folders of safetensors: a failed export leaves no weights behind."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import OPTConfig, OPTForCausalLM

from crosstask.lightning_modules.sharding.safetensors_folder import empty_copy, write_weights


def tiny_model() -> OPTForCausalLM:
    sizes = {"vocab_size": 8, "hidden_size": 4, "ffn_dim": 4, "max_position_embeddings": 4, "word_embed_proj_dim": 4}
    return OPTForCausalLM(OPTConfig(num_hidden_layers=1, num_attention_heads=1, **sizes))


@pytest.mark.parametrize(("fault", "error"), [("missing", "weights are missing"), ("reshaped", "has the shape")])
def test_a_failed_export_can_be_repeated_into_the_same_folder(fault: str, error: str, tmp_path: Path) -> None:
    model = tiny_model()
    tensors = list(model.named_parameters())
    name, last = tensors[-1]
    wrong = tensors[:-1] if fault == "missing" else [*tensors[:-1], (name, torch.zeros(len(last) + 1))]
    with pytest.raises(ValueError, match=error):
        write_weights(wrong, empty_copy(model), tmp_path, shard_bytes=256)  # several files
    assert not list(tmp_path.glob("*.safetensors"))
    write_weights(tensors, empty_copy(model), tmp_path, shard_bytes=256)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 1
    stored = {name: value for path in files for name, value in load_file(path).items()}
    assert all(torch.equal(stored[name], value) for name, value in tensors)
