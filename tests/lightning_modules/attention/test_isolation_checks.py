"""What cannot read packed rows is refused before it trains: models, inputs, and offsets that do not fit."""

from functools import partial
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from packed_models import DECODER_OFFSETS, MODELS, OFFSETS, SMALL, T5_SMALL, assert_same, build, inputs_for
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LongT5Config,
    LongT5Model,
    MambaConfig,
    MambaModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    XGLMConfig,
    XGLMForCausalLM,
)

from crosstask.lightning_modules.attention.document_offsets import Documents
from crosstask.lightning_modules.attention.isolation_checks import (
    CannotPack,
    first_position,
    require_document_attention,
)
from crosstask.lightning_modules.models import build_model, packing_obstacle
from crosstask.lightning_modules.scoring.pair_scores import PADDED
from crosstask.lightning_modules.scoring.scorer_models import build_scorer

XGLM_SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 32,
    "ffn_dim": 64,
    "num_layers": 1,
    "attention_heads": 4,
    "max_position_embeddings": 32,
}
REJECTED = {
    "bart": (
        lambda: BartForConditionalGeneration(
            BartConfig(vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, pad_token_id=1)
        ),
        "BartForConditionalGeneration.*positions cannot restart",
    ),
    "mbart": (
        lambda: MBartForConditionalGeneration(
            MBartConfig(vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, pad_token_id=1)
        ),
        "MBartForConditionalGeneration.*positions cannot restart",
    ),
    "pegasus": (
        lambda: PegasusForConditionalGeneration(
            PegasusConfig(vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, pad_token_id=0)
        ),
        "PegasusForConditionalGeneration.*positions cannot restart",
    ),
    "bloom": (
        lambda: BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=4)),
        "BloomForCausalLM.*AttentionInterface",
    ),
    "xglm": (lambda: XGLMForCausalLM(XGLMConfig(**XGLM_SMALL)), "XGLMForCausalLM.*AttentionInterface"),
    "mamba": (
        lambda: MambaModel(MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1)),
        "MambaModel.*recurrent state",
    ),
    # Only measuring tells: LongT5 registers for one half of its attention.
    "longt5": (lambda: LongT5Model(LongT5Config(**T5_SMALL)), "LongT5Model cannot read packed rows"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_models_that_cannot_be_separated_are_rejected(name: str) -> None:
    make, message = REJECTED[name]
    model = make()
    model.set_attn_implementation("document")
    with pytest.raises(ValueError, match=message):
        require_document_attention(model)


def test_a_rejection_names_the_attention_that_works() -> None:
    """Before a model is built: its class looks its attention up in a table of its own."""
    build = partial(build_model, XGLMConfig(**XGLM_SMALL), weights=None, vocabulary=40, dtype=torch.float32)
    works = r"network\.attention to eager and the datamodule's rows\.packing to one_per_row"
    with pytest.raises(ValueError, match=f"cannot read packed rows: .*{works}"):
        build(attention="document")
    with pytest.raises(ValueError, match=r"has no sdpa attention: set network\.attention to eager"):
        build(attention="sdpa")
    logits = build(attention="eager")(torch.arange(8)[None], attention_mask=torch.ones(1, 8)).logits
    assert logits.isfinite().all()


def test_a_scorer_with_its_own_attention_reads_padded_pairs() -> None:
    config = BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=4, pad_token_id=1)
    model = build_scorer(config, weights=None, dtype=torch.float32)
    assert getattr(model, PADDED)


def test_a_leak_that_no_configuration_shows_is_measured() -> None:
    model = build("llama").train()
    require_document_attention(model)
    assert model.training
    roll = lambda module, args, output: output + output.roll(1, dims=1)  # noqa: E731, as a convolution would
    handle = model.model.layers[0].mlp.register_forward_hook(roll)
    with pytest.raises(ValueError, match="changed with the document before it"):
        require_document_attention(model)
    handle.remove()
    roberta = build("roberta")
    roberta.config.model_type = "bert"  # positions would be counted from 0
    with pytest.raises(ValueError, match="differ from those of the document alone"):
        require_document_attention(roberta)


@pytest.mark.parametrize("fault", [KeyError("document"), RuntimeError("two sizes"), AttributeError("no offsets")])
def test_a_model_whose_code_fails_is_rejected_with_what_works(fault: Exception) -> None:
    """As code of a later transformers might fail, that no check of a configuration knows."""

    def fail(module: object, args: object, kwargs: dict[str, object]) -> None:
        if "documents" in kwargs:
            raise fault

    model = build("llama")
    model.model.layers[0].self_attn.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(
        CannotPack, match=rf"cannot read packed rows: {type(fault).__name__}: .*one_per_row"
    ) as rejected:
        require_document_attention(model)
    assert str(fault) in rejected.value.reason


def test_full_memory_says_nothing_about_a_model() -> None:
    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    model = build("llama")
    model.model.layers[0].register_forward_pre_hook(fill)
    with pytest.raises(torch.OutOfMemoryError):
        require_document_attention(model)


def test_a_model_without_document_attention_is_rejected() -> None:
    with pytest.raises(ValueError, match="attn_implementation='document', got 'sdpa'"):
        require_document_attention(build("opt", "sdpa"))


def test_a_model_without_weights_is_judged_by_its_configuration() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(LlamaConfig(**SMALL), attn_implementation="document")
    require_document_attention(model)


def test_a_convolution_over_tokens_is_found_without_weights() -> None:
    fields = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device("meta"):
        kinds = ["conv", "full_attention"]
        config = AutoConfig.for_model("lfm2", vocab_size=40, num_hidden_layers=2, layer_types=kinds, **fields)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="document")
    with pytest.raises(ValueError, match=r"convolution model\.layers\.0\.conv\.conv reads the last tokens"):
        require_document_attention(model)


def test_neither_documents_nor_mask_is_rejected() -> None:
    for name in ("opt", "bert", "t5"):
        model = build(name)
        inputs = inputs_for(model)
        del inputs["documents"]
        with pytest.raises(ValueError, match="needs documents or an attention mask, got neither"):
            model(**inputs)


def test_forgotten_documents_are_rejected_without_gradients_too() -> None:
    """Where ``generate`` may come without a mask, positions that restart give packed rows away."""
    model = build("opt")
    inputs = inputs_for(model)
    del inputs["documents"]
    with torch.no_grad():
        with pytest.raises(ValueError, match="needs documents or an attention mask, got neither"):
            model(**inputs)
        plain = inputs | {"position_ids": torch.arange(12).expand(2, 12)}
        unmasked = model(**plain)[0]
        assert_same(unmasked, model(**plain, attention_mask=torch.ones(2, 12))[0])


def test_documents_and_a_mask_together_are_rejected() -> None:
    model = build("opt")
    inputs = inputs_for(model)
    with pytest.raises(ValueError, match="got documents and an attention mask"):
        model(**inputs, attention_mask=torch.ones(2, 12))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 5, 9, 16, 24], r"cannot cross rows: offsets lack the row starts \[12\]"),
        ([0, 5, 12, 20], r"rise from 0 to 2 rows \* 12 columns = 24"),
        ([0, 5, 3, 12, 24], "rise from 0 to 2 rows"),
    ],
)
def test_offsets_that_do_not_fit_the_rows_are_rejected(offsets: list[int], message: str) -> None:
    model = build("opt")
    inputs = inputs_for(model) | {"documents": Documents(torch.tensor(offsets))}
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_an_encoder_decoder_needs_offsets_on_both_sides() -> None:
    model = build("t5")
    inputs = inputs_for(model)
    inputs["decoder_input_ids"] = inputs["input_ids"]
    with pytest.raises(ValueError, match="needs Documents"):
        model(**inputs | {"documents": Documents(inputs["documents"].offsets)})
    with pytest.raises(ValueError, match="got 6 in the encoder and 5 in the decoder"):
        Documents(torch.tensor(OFFSETS), torch.tensor(DECODER_OFFSETS[:-1]))


def test_positions_begin_after_the_padding_index_in_roberta() -> None:
    assert first_position(build("roberta").config) == 2
    assert {first_position(build(name).config) for name in MODELS if name != "roberta"} == {0}


@pytest.mark.parametrize("kind", ["biogpt", "stablelm", "switch_transformers", "llama"])
def test_an_obstacle_that_only_a_forward_shows_is_known_before_weights_are_read(kind: str) -> None:
    """A run that leaves packing open then chooses one document a row."""
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=40, **(t5 if kind == "switch_transformers" else shape))
    obstacle = packing_obstacle(config)
    assert obstacle is None if kind == "llama" else "attention mask" in str(obstacle)
