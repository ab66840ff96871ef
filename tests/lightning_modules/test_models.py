"""Building models: configurations, dropout, positions, compilation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosstask.lightning_modules.models import (
    add_embedding_dropout,
    build_model,
    compile_layers,
    model_config,
    require_positions,
)

OPT = {
    "model_type": "opt",
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


def make(fields: dict[str, Any] = OPT, *, dropout: float | None = 0.0, vocabulary: int = 40) -> Any:
    torch.manual_seed(0)
    config = model_config(fields, vocabulary=vocabulary, dropout=dropout)
    return build_model(config, weights=None, vocabulary=vocabulary, attention="sdpa", dtype=torch.float32)


def test_input_embeddings_are_really_dropped_and_only_in_training() -> None:
    model = make().train()
    seen: list[torch.Tensor] = []
    model.model.decoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = torch.arange(2, 34)[None]
    add_embedding_dropout(model, 0.5)
    positions = model.model.decoder.embed_positions
    positions.weight.data.zero_()  # so that what reaches the first layer is the token embedding alone
    model(ids)
    model.eval()(ids)
    trained, evaluated = seen
    assert 0.4 < (trained == 0).float().mean() < 0.6
    kept = trained != 0
    torch.testing.assert_close(trained[kept], 2 * evaluated[kept])
    assert (evaluated != 0).all()


def test_both_stacks_of_an_encoder_decoder_drop_their_embeddings() -> None:
    """Their lookups are not the module that get_input_embeddings() returns: a hook on that one never runs."""
    fields = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = model_config({**fields, "decoder_start_token_id": 0}, vocabulary=40, dropout=0.0)
    model = build_model(config, weights=None, vocabulary=40, attention="sdpa", dtype=torch.float32).train()
    add_embedding_dropout(model, 0.5)
    for stack in (model.encoder, model.decoder):
        embedded = stack.embed_tokens(torch.arange(2, 34)[None])
        assert 0.3 < (embedded == 0).float().mean() < 0.7


def test_dropout_replaces_the_configurations_own() -> None:
    assert make(dropout=0.3).model.decoder.layers[0].dropout == 0.3
    assert model_config(OPT, vocabulary=40, dropout=None).dropout == 0.1  # OPT's own


def test_an_architecture_without_residual_dropout_says_so(tiny_model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="llama has no residual dropout"):
        model_config(tiny_model, vocabulary=40, dropout=0.1)


def test_weights_come_back_from_a_folder(tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    config = model_config(str(tmp_path), vocabulary=40, dropout=None)
    again = build_model(config, weights=str(tmp_path), vocabulary=44, attention="document", dtype=torch.float64)
    ids = torch.arange(2, 12)[None]
    assert again.get_input_embeddings().num_embeddings == 44  # grown for a larger tokenizer
    mask = torch.ones_like(ids)
    logits = again(ids, attention_mask=mask, use_cache=False).logits[..., :40]
    torch.testing.assert_close(logits.float(), model(ids).logits, rtol=1e-4, atol=1e-5)


def test_a_padded_vocabulary_is_not_cut() -> None:
    assert make({**OPT, "vocab_size": 64}, vocabulary=40).get_input_embeddings().num_embeddings == 64


@pytest.mark.parametrize(
    ("source", "said"),
    [("/no/such/model", "there is no model at '/no/such/model'"), ({"hidden_size": 3}, "model_type")],
)
def test_a_model_that_is_not_there_is_named(source: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model_config(source, vocabulary=40, dropout=None)


def test_rows_longer_than_the_models_positions_are_rejected() -> None:
    config = model_config(OPT, vocabulary=40, dropout=None)
    require_positions(config, 32)
    with pytest.raises(ValueError, match="row_length = 33 exceeds the 32 positions"):
        require_positions(config, 33)


def test_blocks_are_compiled_and_nothing_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a compiled model computes is tested with the attention; here, which parts are handed to the compiler."""
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    compile_layers(make())
    assert compiled == ["OPTDecoderLayer"] * 2
