"""Weights of models: what an architecture needs and a folder lacks is never a random number, wherever it is loaded."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import save_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaModel,
    MT5Config,
    MT5ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from crosstask.datamodules.bilevel.meta_split import embed_texts
from crosstask.datamodules.pretrained_weights import load_pretrained
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules import InstructionTuningModule
from crosstask.lightning_modules.adapters import LoRA, adapted_model, add_adapters, describe_adapters, prefixed_model
from crosstask.lightning_modules.instructions.instruction_kinds import (
    InstructionSettings,
    Representation,
    build_instruction,
)
from crosstask.lightning_modules.models import build_model, model_config, untie_different
from crosstask.lightning_modules.prefixes import Prefix, add_prefix, load_prefix, save_prefix
from crosstask.lightning_modules.sampling.response_sampler import load_generator
from crosstask.lightning_modules.scoring.scorer_models import build_scorer
from crosstask.lightning_modules.sharding.safetensors_folder import empty_model, write_weights
from crosstask.lightning_modules.sharding.sharded_models import (
    load_weights,
    stored_files,
    stored_names,
    stored_tensor,
)

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
LLAMA = {**SIZES, "intermediate_size": 24, "tie_word_embeddings": False}
OPT = {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 64}
ENCODER = {**SIZES, "intermediate_size": 24, "max_position_embeddings": 66}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}

Change = Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]


def write(folder: Path, model: PreTrainedModel, tokenizer: Any, change: Change | None = None) -> str:
    """Save a model and its tokenizer, with weights changed on disk."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if change is not None:
        weights = {**change(load_file(folder / "model.safetensors"))}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def without(*parts: str) -> Change:
    return lambda weights: {name: value for name, value in weights.items() if not any(part in name for part in parts)}


def saved(kind: str, folder: Path, tokenizer: Any) -> str:
    """A folder that lacks a part of what a language model needs."""
    vocab: dict[str, Any] = {"vocab_size": len(tokenizer)}
    models: dict[str, tuple[Callable[[], PreTrainedModel], Change | None]] = {
        "t5_encoder": (lambda: T5EncoderModel(T5Config(**vocab, **T5)), None),
        "mt5_encoder": (
            lambda: MT5ForConditionalGeneration(MT5Config(**vocab, **T5)),
            without("decoder", "lm_head"),
        ),
        "t5_no_table": (lambda: T5ForConditionalGeneration(T5Config(**vocab, **T5)), without("shared", "embed", "lm_")),
        "llama_base": (lambda: LlamaModel(LlamaConfig(**vocab, **LLAMA)), None),
        "neox_no_head": (
            lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**vocab, **SIZES, intermediate_size=24)),
            without("embed_out", "lm_head"),
        ),
        "opt_no_layer": (lambda: OPTForCausalLM(OPTConfig(**vocab, **OPT)), without("layers.1.fc1")),
        "gpt2_no_table": (lambda: GPT2LMHeadModel(GPT2Config(**vocab, **GPT2)), without("wte", "lm_head")),
        "bart_no_cross_attention": (
            lambda: BartForConditionalGeneration(BartConfig(**vocab, **BART)),
            without("decoder.layers.0.encoder_attn.k_proj"),
        ),
    }
    torch.manual_seed(0)
    build, change = models[kind]
    return write(folder, build(), tokenizer, change)


KINDS = {
    "t5_encoder": r"is not a decoder-only language model: its model_type is t5, its architectures \['T5EncoderModel'\]",
    "mt5_encoder": r"decoder\.block\.0",
    "t5_no_table": r"e\.g\. .*lm_head\.weight",
    "llama_base": r"lacks 1 of the \d+ weights of LlamaForCausalLM, e\.g\. lm_head\.weight",
    "neox_no_head": r"lacks 1 of the \d+ weights of GPTNeoXForCausalLM",
    "opt_no_layer": r"lacks 2 of the \d+ weights of OPTForCausalLM, e\.g\. model\.decoder\.layers\.1\.fc1\.bias",
    "gpt2_no_table": r"transformer\.wte\.weight",
    "bart_no_cross_attention": r"decoder\.layers\.0\.encoder_attn\.k_proj",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_missing_is_never_drawn(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """By every way to a language model: training, sampling and classification, and loading by slices."""
    folder = saved(kind, tmp_path / kind, tokenizer)
    module = InstructionTuningModule(folder, pretrained=folder, network={"attention": "sdpa"}, row_length=32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=KINDS[kind]):
        module.configure_model()
    with pytest.raises(ValueError, match=KINDS[kind]):
        load_generator(folder, device="cpu")
    if kind == "t5_encoder":  # transformers has no class to build
        return
    config = model_config(folder, vocabulary=len(tokenizer), dropout=None)
    drawn = build_model(config, weights=None, vocabulary=len(tokenizer), attention="sdpa", dtype=torch.float32)
    with pytest.raises(ValueError, match=KINDS[kind]):
        load_weights(drawn, Path(folder), stored_names(drawn, Path(folder)))


def test_what_is_tied_or_never_stored_is_not_missing(tokenizer: Any, tmp_path: Path) -> None:
    """Base models whose head is their table of embeddings; position numbers and masks are computed."""
    vocab = {"vocab_size": len(tokenizer)}
    whole: list[PreTrainedModel] = [
        GPT2Model(GPT2Config(**vocab, **GPT2)),
        LlamaModel(LlamaConfig(**vocab, **{**LLAMA, "tie_word_embeddings": True})),
        T5ForConditionalGeneration(T5Config(**vocab, **T5)),
        BartForConditionalGeneration(BartConfig(**vocab, **BART)),
    ]
    for place, model in enumerate(whole):
        folder = write(tmp_path / str(place), model, tokenizer)
        table = model.get_input_embeddings().weight
        generator, _ = load_generator(folder, device="cpu")
        torch.testing.assert_close(generator.get_output_embeddings().weight, table)
        config = model_config(folder, vocabulary=len(tokenizer), dropout=None)
        drawn = build_model(config, weights=None, vocabulary=len(tokenizer), attention="sdpa", dtype=torch.float32)
        load_weights(drawn, Path(folder), stored_names(drawn, Path(folder)))
        torch.testing.assert_close(drawn.get_output_embeddings().weight, table)


def test_weights_of_other_shapes_are_named(tokenizer: Any, tmp_path: Path) -> None:
    model = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT))
    folder = write(
        tmp_path / "opt",
        model,
        tokenizer,
        lambda w: {k: v[:, :-1].contiguous() if "fc2.w" in k else v for k, v in w.items()},
    )
    said = r"OPTForCausalLM: model\.decoder\.layers\.0\.fc2\.weight has the shape \(16, 23\), and .* \(16, 24\)"
    with pytest.raises(ValueError, match=said):
        load_pretrained(AutoModelForCausalLM, folder)


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_weights_that_cannot_be_read_are_named(damage: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "opt", OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT)), tokenizer)
    path = Path(folder) / "model.safetensors"
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no weights could be read from"):
        load_pretrained(AutoModelForCausalLM, folder)


def test_unused_weights_are_reported_once(tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = {"extra.weight": torch.zeros(2), "old_head.bias": torch.zeros(3)}
    model = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT))
    folder = write(tmp_path / "opt", model, tokenizer, lambda weights: {**weights, **extra})
    with caplog.at_level(logging.INFO):
        load_pretrained(AutoModelForCausalLM, folder)
        load_pretrained(AutoModelForCausalLM, folder)
        drawn = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT))
        load_weights(drawn, Path(folder), stored_names(drawn, Path(folder)))
    said = [record.getMessage() for record in caplog.records if "does not use" in record.getMessage()]
    assert said == [f"{folder} has 2 weights that OPTForCausalLM does not use: extra.weight, old_head.bias"]
    assert "LOAD REPORT" not in caplog.text


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_no_decoder_only_model(family: str, tokenizer: Any, tmp_path: Path) -> None:
    """All of its weights are there, and it would read the token that it is asked for."""
    vocab: dict[str, Any] = {"vocab_size": len(tokenizer), **ENCODER}
    model = BertForMaskedLM(BertConfig(**vocab)) if family == "bert" else RobertaForMaskedLM(RobertaConfig(**vocab))
    folder = write(tmp_path / family, model, tokenizer)
    with pytest.raises(ValueError, match="reads text in both directions"):
        load_generator(folder, device="cpu")
    model.config.is_decoder = True
    load_generator(write(tmp_path / "decoder", model, tokenizer), device="cpu")


@pytest.mark.parametrize("missing", ["encoder.layer.1.output", "embeddings.word"])
def test_a_scorer_gets_a_new_head_and_no_new_encoder(missing: str, tokenizer: Any, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=len(tokenizer), **ENCODER)
    build_scorer(config, weights=write(tmp_path / "mlm", BertForMaskedLM(config), tokenizer), dtype=torch.float32)
    config.architectures = None  # the scorer's configuration names no head
    part = write(tmp_path / "part", BertModel(config), tokenizer, without(missing))
    with pytest.raises(ValueError, match=rf"lacks \d of the \d+ weights .*{missing}"):
        build_scorer(config, weights=part, dtype=torch.float32)


def test_encoders_of_texts_need_what_they_compute_with(tokenizer: Any, tmp_path: Path) -> None:
    """An encoder's folder embeds texts without its decoder, and a table of embeddings needs no more than itself."""
    vocab: dict[str, Any] = {"vocab_size": len(tokenizer)}
    encoder = saved("t5_encoder", tmp_path / "encoder", tokenizer)
    assert embed_texts(["one", "two"], encoder).shape == (2, 16)
    bert = BertModel(BertConfig(**vocab, **ENCODER))
    assert embed_texts(["one"], write(tmp_path / "no_pooler", bert, tokenizer, without("pooler"))).shape == (1, 16)
    broken = write(tmp_path / "no_layer", bert, tokenizer, without("layer.0.output"))
    with pytest.raises(ValueError, match=r"lacks 4 of the \d+ weights of BertModel"):
        embed_texts(["one"], broken)

    reader = OPTForCausalLM(OPTConfig(**vocab, **OPT))

    def instruction(folder: str) -> Any:
        settings = InstructionSettings("instance_embedder", length=4, representation=Representation(pretrained=folder))
        return build_instruction(settings, reader, tasks=2, vocabulary=len(tokenizer))

    assert instruction(broken).texts.table.weight.equal(bert.get_input_embeddings().weight)
    no_table = write(tmp_path / "no_table", bert, tokenizer, without("word_embeddings"))
    with pytest.raises(ValueError, match=r"lacks 1 .*embeddings\.word_embeddings\.weight"):
        instruction(no_table)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_adapters_need_their_base_and_all_of_themselves(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    base = write(tmp_path / "base", OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT)), tokenizer)
    model = load_pretrained(AutoModelForCausalLM, base)
    settings: LoRA | Prefix = LoRA(r=2) if kind == "lora" else Prefix(3)
    if isinstance(settings, LoRA):
        add_adapters(model, settings)
    else:
        add_prefix(model, settings, tokenizer)
    described = describe_adapters(model, settings, base)
    states = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}

    def again(states: dict[str, torch.Tensor]) -> PreTrainedModel:
        if kind == "lora":
            return adapted_model("OPTForCausalLM", described, states, "last.ckpt")
        return prefixed_model("OPTForCausalLM", described, states, tokenizer, "last.ckpt")

    again(states)
    first = next(iter(states))
    with pytest.raises(ValueError, match=r"last\.ckpt lacks 1 of the \d+ weights of the adapters of OPTForCausalLM"):
        again({name: value for name, value in states.items() if name != first})
    write(tmp_path / "base", OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT)), tokenizer, without("fc1"))
    with pytest.raises(ValueError, match=r"last\.ckpt holds adapters of .*base: .* lacks 4 of the"):
        again(states)


def test_a_folder_of_a_prefix_without_the_prefix_is_rejected(tokenizer: Any, tmp_path: Path) -> None:
    model = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT))
    add_prefix(model, Prefix(3), tokenizer)
    save_prefix(model, tokenizer, tmp_path / "prefix", weights="base")
    (tmp_path / "prefix" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no prefix: expected prompt_embeddings"):
        load_prefix(OPTForCausalLM(model.config), str(tmp_path / "prefix"))


def test_tables_that_are_stored_apart_stay_apart(tokenizer: Any, tmp_path: Path) -> None:
    """FLAN-T5's configuration ties its output embeddings, and its folder stores others: by slices, from a checkpoint
    without the folder, and in an export, both tables are kept."""
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **T5, tie_word_embeddings=False))
    model.lm_head.weight = torch.nn.Parameter(torch.randn(len(tokenizer), 16))
    folder = Path(write(tmp_path / "flan", model, tokenizer))

    def require_both(loaded: Any) -> None:
        assert loaded.lm_head.weight.equal(model.lm_head.weight)
        for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
            assert loaded.get_submodule(name).weight.equal(model.shared.weight)

    module = InstructionTuningModule(str(folder), pretrained=str(folder), row_length=32)
    module.configure_model()
    require_both(module.model)

    drawn = T5ForConditionalGeneration(model.config)
    names = stored_names(drawn, folder)
    untie_different(drawn, partial(stored_tensor, stored_files(folder), names))
    load_weights(drawn, folder, names)
    require_both(drawn)

    again = InstructionTuningModule(str(folder), config=model.config.to_dict(), row_length=32)
    again.configure_model()
    states = module.state_dict()
    again.on_load_checkpoint({"state_dict": states})
    again.load_state_dict(states)
    require_both(again.model)

    for kind, values in (("apart", module.language_model), ("tied", T5ForConditionalGeneration(model.config))):
        empty = empty_model("T5ForConditionalGeneration", model.config.to_dict())
        write_weights(values.state_dict().items(), empty, tmp_path / kind)
        assert ("lm_head.weight" in load_file(tmp_path / kind / "model.safetensors")) == (kind == "apart")
    require_both(T5ForConditionalGeneration.from_pretrained(tmp_path / "apart"))


@pytest.mark.parametrize(
    ("file", "fields", "reason"),
    [
        ("config.json", {"hidden_size": "large"}, "config.json cannot be used: .*hidden_size"),
        ("config.json", {"hidden_size": -4}, "cannot be built: .*negative dimension -4"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000 in the configuration"),
        ("generation_config.json", {"watermarking_config": {"ngram": 1}}, "cannot be built: .*WatermarkingConfig"),
    ],
)
def test_a_folder_of_impossible_settings_is_rejected_in_a_sentence(
    file: str, fields: dict[str, Any], reason: str, toybench: Path, tmp_path: Path
) -> None:
    """transformers and torch raise errors of their own, or build a thousand million layers."""
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    folder = save_model("llama", tmp_path, len(tokenizer))
    tokenizer.save_pretrained(folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(ValueError, match=reason):
        load_generator(str(folder), dtype="float32", device="cpu")


def test_fields_of_a_recipe_that_no_model_has_are_rejected_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"no llama has this configuration: .*hidden_size"):
        model_config({"model_type": "llama", "hidden_size": [1]}, vocabulary=10, dropout=None)
