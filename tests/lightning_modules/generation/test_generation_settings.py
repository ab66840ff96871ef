"""End tokens and settings of generation: all of a model's end tokens end its answers, and its settings are exported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import save_model
from strategy_runs import STEPS, fit, write_recipe
from tokenizer_kinds import llama, t5
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from crosstask.commands.export import export_checkpoint
from crosstask.commands.shared.trainer import run_trainer
from crosstask.datamodules.pretrained_weights import load_pretrained
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules import InstructionTuningModule
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.generation.generate import answer_batch, generate
from crosstask.lightning_modules.generation.generation_settings import end_tokens, set_generation_settings

DECODINGS = [Decoding(), Decoding(sampling=True, samples=3), Decoding(beams=3, samples=2)]
PROMPTS = ["Write the same numbers again. list: 7 3", "list:", "animal: cat dog Answer:", "Ann red"]


def build(kind: str, tokenizer: Any, attention: str = "sdpa") -> Any:
    """A model whose answers vary, of random weights in float64."""
    torch.manual_seed(1)
    special = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    if kind == "t5":
        shape = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "initializer_factor": 4.0}
        config = AutoConfig.for_model("t5", **shape, **special, decoder_start_token_id=0)
        return AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float64).eval()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields = {**shape, **special, "max_position_embeddings": 128, "initializer_range": 0.5}
    config = AutoConfig.for_model(kind, **fields)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float64).eval()


def answers(model: Any, tokenizer: Any, sources: Any, decodings: Any = DECODINGS, **options: Any) -> list[Any]:
    options = {"max_new_tokens": 8, "seeds": list(range(len(sources))), **options}
    return [texts for _, texts in sorted(generate(model, tokenizer, sources, decodings, **options))]


def cut(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("llama", "document"), ("t5", "sdpa")])
def test_generation_stops_at_every_end_token_of_the_model(kind: str, attention: str, tokenizer: Any) -> None:
    model, sources = build(kind, tokenizer, attention), tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]
    plain = build(kind, tokenizer)
    generated = []
    for source in sources:
        ids = plain.generate(
            torch.tensor([source]), attention_mask=torch.ones(1, len(source)), max_new_tokens=8, do_sample=False
        )[0].tolist()
        generated.append(ids[1:] if kind == "t5" else ids[len(source) :])
    turn, other = generated[0][2], generated[1][1]  # ordinary tokens that end an answer in this model alone
    model.generation_config.eos_token_id = [turn, other]
    ends = {turn, other, tokenizer.eos_token_id}
    assert set(end_tokens(model, tokenizer)) == ends
    found = answers(model, tokenizer, sources)
    expected = [tokenizer.decode(cut(ids, ends), skip_special_tokens=True).strip() for ids in generated]
    assert [greedy for [greedy], *_ in found] == expected
    assert expected[0] != tokenizer.decode(generated[0], skip_special_tokens=True).strip()
    for source, (_, _, beam) in zip(sources, found, strict=True):
        settings = {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": sorted(ends)}
        ids = plain.generate(
            torch.tensor([source]), attention_mask=torch.ones(1, len(source)), max_new_tokens=8, **settings
        )
        new = (ids[:, 1:] if kind == "t5" else ids[:, len(source) :]).tolist()
        assert beam == [tokenizer.decode(cut(row, ends), skip_special_tokens=True).strip() for row in new]


@pytest.mark.parametrize("attention", ["sdpa", "document"])
def test_samples_stop_there_too_and_not_before_the_fewest_tokens(attention: str, tokenizer: Any) -> None:
    """A sample is the one without these end tokens, cut; by the loop of transformers and by ours."""
    model, sources = build("llama", tokenizer, attention), tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]
    options: dict[str, Any] = {"decodings": [replace(DECODINGS[1], samples=20)]}
    whole = answers(model, tokenizer, sources, **options)
    model.generation_config.eos_token_id = list(range(20, 200))
    stopped = answers(model, tokenizer, sources, **options)
    pairs = [pair for sides in zip(whole, stopped, strict=True) for pair in zip(sides[0][0], sides[1][0], strict=True)]
    assert all(text.startswith(beginning) for text, beginning in pairs)
    assert sum(text != beginning for text, beginning in pairs) > len(pairs) / 2
    assert "" in dict(pairs).values()
    fewest = answers(model, tokenizer, sources, **options, min_new_tokens=3)
    assert all(text for [texts] in fewest for text in texts)


def test_every_place_that_generates_reads_the_list(tokenizer: Any) -> None:
    """The module's own evaluation batch, without a shared cache."""
    model = build("llama", tokenizer)
    (source,) = tokenizer(PROMPTS[:1], add_special_tokens=False)["input_ids"]
    ids = torch.tensor([source])
    options: dict[str, Any] = {"seeds": [0], "max_new_tokens": 8}
    [[[before]]] = answer_batch(model, tokenizer, ids, torch.ones_like(ids), [Decoding()], **options)
    first = tokenizer(before, add_special_tokens=False)["input_ids"][0]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(2, len(tokenizer))]
    [[[after]]] = answer_batch(model, tokenizer, ids, torch.ones_like(ids), [Decoding()], **options)
    assert (after, first in end_tokens(model, tokenizer)) == ("", True)


@pytest.mark.parametrize("ends", ["7", ["1", 7], [[1, 7]], 7.0, True], ids=str)
def test_an_end_that_is_no_token_is_named(ends: Any, tokenizer: Any) -> None:
    model = build("llama", tokenizer)
    model.generation_config.eos_token_id = ends
    with pytest.raises(ValueError, match="in eos_token_id, and answers end at ids of tokens: write a whole number"):
        end_tokens(model, tokenizer)


def test_missing_ends_leave_the_tokenizer_s(tokenizer: Any) -> None:
    model = build("llama", tokenizer)
    for ends in (None, [], [None]):
        model.generation_config.eos_token_id = ends
        assert end_tokens(model, tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_settings_of_generation_that_cannot_be_read_are_named(content: str, tokenizer: Any, tmp_path: Path) -> None:
    """transformers would go on without the list of end tokens in it."""
    folder = save_model("opt", tmp_path, len(tokenizer))
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"generation_config\.json: (not valid JSON|expected an object)"):
        load_pretrained(AutoModelForCausalLM, str(folder))


@pytest.mark.parametrize("attention", ["sdpa", "document"])
def test_an_answer_is_the_text_of_its_tokens(attention: str) -> None:
    """A tokenizer may have transformers join "1 , 2" to "1, 2", which the model was not trained to write."""
    tokenizer = t5()
    tokenizer.clean_up_tokenization_spaces = True
    space, comma = tokenizer.convert_tokens_to_ids(["▁", ","])
    assert tokenizer.decode([comma, space, comma]) == ",,"
    model = build("llama", tokenizer, attention)
    with torch.no_grad():  # after a comma a space is likeliest, and after a space a comma
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight.zero_()
        head[space], head[comma] = embeddings[comma], embeddings[space]
    options: dict[str, Any] = {"decodings": [Decoding()], "max_new_tokens": 4}
    assert answers(model, tokenizer, [[comma]], **options) == [[[", ,"]]]
    assert answers(model, tokenizer, [[comma]], **options, stop=[", ,"]) == [[[""]]]


def test_a_caller_s_end_token_ends_answers_too(tokenizer: Any) -> None:
    """That of a chat template, which the model's settings may lack."""
    model, sources = build("llama", tokenizer), tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]
    ends = list(range(20, 200))
    given = answers(model, tokenizer, sources, ends=ends)
    assert given != answers(model, tokenizer, sources)
    model.generation_config.eos_token_id = ends
    assert given == answers(model, tokenizer, sources)


PUBLISHED = [
    # As a chat model has it, with a temperature that greedy decoding contradicts.
    {"bos_token_id": 0, "eos_token_id": [1, 7, 9], "temperature": 0.6, "top_p": 0.9, "max_length": 77},
    {"eos_token_id": [9, 7], "do_sample": True, "top_k": 3, "repetition_penalty": 1.2},  # lacks the tokenizer's eos
    {"eos_token_id": 1, "pad_token_id": 5, "suppress_tokens": [4], "note": "kept"},
]
WITH_EOS = [[1, 7, 9], [9, 7, 1], 1]


def publish(folder: Path, fields: dict[str, Any]) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def exported(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "generation_config.json").read_text())
    fields.pop("transformers_version", None)
    return fields


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize(("fields", "ends"), list(zip(PUBLISHED, WITH_EOS, strict=True)))
def test_the_settings_that_came_with_a_model_are_exported_whole(
    fields: dict[str, Any], ends: Any, adapters: bool, toybench: Path, tmp_path: Path
) -> None:
    """By the callback at the end of training, from the checkpoint, and in a module loaded from the checkpoint."""
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    assert tokenizer.eos_token_id == 1
    pretrained = publish(save_model("llama", tmp_path, len(tokenizer)), fields)
    arguments: dict[str, Any] = {"pretrained": str(pretrained), "optimizer": {"learning_rate": 0.01, "warmup": 1}}
    if adapters:
        arguments["lora"] = {"r": 2, "alpha": 2, "target_modules": ["q_proj"]}
    module = {"class_path": "InstructionTuningModule", "init_args": arguments}
    recipe = write_recipe(tmp_path / "recipe.yaml", toybench, module, {})
    words = ["--trainer.callbacks+=HuggingFaceExport", f"--trainer.callbacks.folder={tmp_path / 'at_end'}"]
    run_trainer([*fit(recipe, "run"), *words])
    checkpoint = tmp_path / f"run/step={STEPS}.ckpt"
    expected = {**fields, "eos_token_id": ends}
    assert exported(tmp_path / "at_end") == expected
    export_checkpoint([str(checkpoint), str(tmp_path / "exported")])
    assert exported(tmp_path / "exported") == expected
    if adapters:
        export_checkpoint([str(checkpoint), str(tmp_path / "alone")], adapters="alone")
        assert exported(tmp_path / "alone") == expected
    else:
        loaded = InstructionTuningModule.load_from_checkpoint(checkpoint, weights_only=True)
        assert json.loads(loaded.language_model.generation_config.to_json_string()).items() >= expected.items()
        assert set(end_tokens(loaded.language_model, tokenizer)) == set(ends if isinstance(ends, list) else [ends])


@pytest.mark.parametrize("kind", ["llama", "opt", "t5"])
def test_random_weights_get_the_special_tokens_of_their_tokenizer(kind: str, toybench: Path, tmp_path: Path) -> None:
    """Not those of the architecture's published models: Llama's default eos is 2, which is a word here."""
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    folder = save_model(kind, tmp_path, len(tokenizer))
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(folder)
    set_generation_settings(model, tokenizer, None)
    model.save_pretrained(tmp_path / "saved")
    settings = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (settings.eos_token_id, settings.pad_token_id) == (1, 0)
    assert settings.bos_token_id is None
    assert settings.decoder_start_token_id == (model.config.decoder_start_token_id if kind == "t5" else None)
    assert end_tokens(model, tokenizer) == [1]


def test_random_weights_that_learn_a_chat_stop_at_its_end(tmp_path: Path) -> None:
    """As transformers generates from the export: the template ends an answer with <|end|>, documents with </s>."""
    tokenizer = llama()
    model = AutoModelForCausalLM.from_pretrained(save_model("llama", tmp_path, len(tokenizer)))
    set_generation_settings(model, tokenizer, None)
    model.save_pretrained(tmp_path / "saved")
    chat_end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id == [tokenizer.eos_token_id, chat_end]


def test_a_prefix_is_exported_with_the_settings_of_its_model(toybench: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    pretrained = publish(save_model("opt", tmp_path, len(tokenizer)), PUBLISHED[1])
    network, prefix = {"attention": "sdpa"}, {"virtual_tokens": 2}
    arguments: dict[str, Any] = {"pretrained": str(pretrained), "prefix": prefix, "network": network}
    module = {"class_path": "InstructionTuningModule", "init_args": arguments}
    recipe = write_recipe(tmp_path / "recipe.yaml", toybench, module, {"rows": {"packing": "one_per_row"}})
    words = ["--trainer.callbacks+=HuggingFaceExport", f"--trainer.callbacks.folder={tmp_path / 'at_end'}"]
    run_trainer([*fit(recipe, "run"), *words])
    export_checkpoint([str(tmp_path / f"run/step={STEPS}.ckpt"), str(tmp_path / "exported")])
    for folder in ("at_end", "exported"):
        assert exported(tmp_path / folder) == {**PUBLISHED[1], "eos_token_id": WITH_EOS[1]}, folder


def test_a_model_without_a_file_of_settings_keeps_those_of_its_configuration(toybench: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    folder = save_model("opt", tmp_path, len(tokenizer))
    (folder / "generation_config.json").unlink()
    model = AutoModelForCausalLM.from_pretrained(folder)
    set_generation_settings(model, tokenizer, str(folder))
    assert end_tokens(model, tokenizer) == [1, 2]  # OPT's own </s> is 2
    model.save_pretrained(tmp_path / "saved")
    assert exported(tmp_path / "saved")["eos_token_id"] == [2, 1]
