"""Decoding: what transformers would answer, the distributions samples are drawn from, and independence of the batch."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from host_waits import HostWaits
from jsonargparse import ArgumentParser
from small_generators import CAUSAL, alone, answers, build
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.lightning_modules import InstructionTuningModule
from crosstask.lightning_modules.generation.decoding import Decoding, DrawTokens, cut_at_stop, prompt_seed
from crosstask.lightning_modules.generation.generate import answer_batch, generate
from crosstask.lightning_modules.generation.prompt_cache import can_share_cache

GREEDY, BEAM = Decoding(), Decoding(beams=3, samples=2)
NUCLEUS, HOT = Decoding(sampling=True, samples=3, top_p=0.9), Decoding(sampling=True, samples=2, temperature=1.5)
PROMPTS = ["Write the same numbers again. list: 7 3", "list:", "animal: cat dog Answer:", "Ann red"]


@pytest.fixture(scope="module")
def sources(tokenizer: Any) -> list[list[int]]:
    return tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2", "t5", "switch_transformers"])
def test_a_batch_is_answered_as_transformers_answers_each_prompt_alone(
    kind: str, tokenizer: Any, sources: list[list[int]]
) -> None:
    model = build(kind, tokenizer)
    found = answers(model, tokenizer, sources, [GREEDY, NUCLEUS, BEAM])
    for source, (greedy, _, beam) in zip(sources, found, strict=True):
        assert greedy == alone(model, tokenizer, source)
        assert beam == alone(model, tokenizer, source, num_beams=3, num_return_sequences=2)
    assert len({text for greedy, *_ in found for text in greedy}) > 1


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
def test_what_prompts_begin_with_is_read_once(kind: str, tokenizer: Any) -> None:
    model, plain = build(kind, tokenizer, "document"), build(kind, tokenizer)
    said = "Write the same numbers again. Write the same numbers again. list:"
    texts = [f"{said} {rest}" for rest in ("7 3", "3", "5 1 4")]
    sources = tokenizer(texts, add_special_tokens=False)["input_ids"]
    read: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True)
    found = answers(model, tokenizer, sources, [GREEDY, NUCLEUS, BEAM])
    shared = next(i for i, tokens in enumerate(zip(*sources, strict=False)) if len(set(tokens)) > 1)
    longest = max(map(len, sources))
    assert read[:3] == [shared, 3 * (longest - 1 - shared), 3]
    assert all(count <= 3 * 4 for count in read[3:8])
    for source, own, seed in zip(sources, found, range(3), strict=True):
        assert own[0] == alone(plain, tokenizer, source)
        assert own[2] == alone(plain, tokenizer, source, num_beams=3, num_return_sequences=2)
        assert own[1] == answers(plain, tokenizer, [source], [NUCLEUS], seeds=[seed])[0][0]
    with_itself = answers(model, tokenizer, [sources[0]] * 2, [GREEDY])  # all but the last token is shared
    assert with_itself == [[found[0][0]]] * 2


def test_only_different_samples_that_have_not_ended_are_passed_to_the_model(
    tokenizer: Any, sources: list[list[int]]
) -> None:
    model, plain = build("llama", tokenizer, "document"), build("llama", tokenizer)
    for each in (model, plain):
        with torch.no_grad():
            each.lm_head.weight[tokenizer.eos_token_id] = 2 * each.lm_head.weight.mean(dim=0)
    decodings = [GREEDY, replace(HOT, samples=40), replace(NUCLEUS, samples=20)]
    read: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True)
    options: dict[str, Any] = {"max_new_tokens": 9}
    found = answers(model, tokenizer, sources, decodings, **options)
    assert found == answers(plain, tokenizer, sources, decodings, **options)
    whole = sum(read)
    assert read[-9] == len(sources) < read[-8] < read[-1] <= 61 * len(sources)  # a node a prompt, then some, then more
    read.clear()
    stopped = answers(model, tokenizer, sources, decodings, stop=["a", "e"], **options)
    assert stopped == answers(plain, tokenizer, sources, decodings, stop=["a", "e"], **options)
    assert sum(read) < 0.6 * whole  # what has ended is not read on
    options["min_new_tokens"] = 3
    assert answers(model, tokenizer, sources, decodings, **options) == answers(
        plain, tokenizer, sources, decodings, **options
    )


def test_where_a_cached_token_is_not_worth_the_same_in_any_column_nothing_is_shared(tokenizer: Any) -> None:
    assert can_share_cache(build("llama", tokenizer, "document"))
    assert not can_share_cache(build("llama", tokenizer))  # its positions may be those of columns
    fields = {
        **CAUSAL["llama"],
        "sliding_window": 4,
        "layer_types": ["sliding_attention"] * 2,
        "use_sliding_window": True,
    }
    window = AutoConfig.for_model("qwen2", **fields, num_key_value_heads=2, attn_implementation="document")
    assert not can_share_cache(AutoModelForCausalLM.from_config(window, attn_implementation="document"))


@pytest.mark.parametrize(
    "published",
    [
        {"cache_implementation": "static", "use_cache": False},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
        {"stop_strings": ["e"], "max_length": 3, "min_length": 9},
        {"guidance_scale": 3.0, "repetition_penalty": 1.7, "temperature": 0.3},
        {"prompt_lookup_num_tokens": 2, "return_dict_in_generate": True, "output_scores": True},
    ],
    ids=lambda published: next(iter(published)),
)
@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("llama", "document"), ("t5", "sdpa")])
def test_published_settings_of_a_decoding_do_not_change_ours(
    published: dict[str, Any], kind: str, attention: str, tokenizer: Any, sources: list[list[int]]
) -> None:
    model, decodings = build(kind, tokenizer, attention), [GREEDY, NUCLEUS, Decoding(beams=2)]
    plain = answers(model, tokenizer, sources, decodings)
    for name, value in published.items():
        setattr(model.generation_config, name, value)
    assert answers(model, tokenizer, sources, decodings) == plain
    assert all(getattr(model.generation_config, name) == value for name, value in published.items())  # for the export


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_samples_depend_on_their_prompt_alone(kind: str, tokenizer: Any, sources: list[list[int]]) -> None:
    model = build(kind, tokenizer)
    together = answers(model, tokenizer, sources, [GREEDY, HOT, NUCLEUS])
    by_itself = [answers(model, tokenizer, [source], [NUCLEUS], seeds=[seed])[0] for seed, source in enumerate(sources)]
    assert [found[2] for found in together] == [found[0] for found in by_itself]
    assert answers(model, tokenizer, sources, [GREEDY, HOT, NUCLEUS], budget=1) == together
    assert len({text for found in together for text in found[2]}) > 4  # samples, seeds and prompts differ
    other = answers(model, tokenizer, sources, [NUCLEUS], seeds=[9, 8, 7, 6])
    assert [found[0] for found in other] != [found[2] for found in together]


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        (Decoding(sampling=True), [0.5, 0.25, 0.15, 0.1]),
        (Decoding(sampling=True, top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Decoding(sampling=True, top_p=0.7), [2 / 3, 1 / 3, 0, 0]),
        (Decoding(sampling=True, temperature=0.5), [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
    ],
)
def test_tokens_are_drawn_from_the_warped_distribution(decoding: Decoding, expected: list[float]) -> None:
    """20,000 draws: frequencies are within 4 standard errors of the probabilities."""
    draws = 20_000
    scores = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().repeat(draws, 1)
    chosen = DrawTokens([decoding], range(draws), 1, width=3)(torch.zeros(draws, 3), scores).argmax(dim=1)
    counts = Counter(chosen.tolist())
    for token, probability in enumerate(expected):
        error = (probability * (1 - probability) / draws) ** 0.5
        assert abs(counts[token] / draws - probability) <= 4 * error, (token, counts)


def test_greedy_rows_stand_unchanged_beside_sampled_ones() -> None:
    scores = torch.randn(6, 5)
    kept = scores.clone()
    drawn = DrawTokens([GREEDY, Decoding(sampling=True, samples=2)], [0, 1], 1, width=3)(torch.zeros(6, 3), scores)
    assert torch.equal(drawn[[0, 3]], kept[[0, 3]])
    assert (drawn[[1, 2, 4, 5]] == -torch.inf).sum(dim=1).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("attention", ["sdpa", "document"])
def test_a_greedy_token_is_read_once(attention: str, tokenizer: Any, sources: list[list[int]]) -> None:
    """The loop of transformers reads at each token whether all rows have ended, and nothing else reads one."""
    model, prompt = build("llama", tokenizer, attention), torch.tensor([sources[1]] * 2)
    counts = []
    for length in (3, 9):
        options: dict[str, Any] = {"seeds": [0, 1], "max_new_tokens": length, "min_new_tokens": length}
        with HostWaits() as waits:
            answer_batch(model, tokenizer, prompt, torch.ones_like(prompt), [GREEDY], **options)
        counts.append(len(waits.places))
    assert counts[1] - counts[0] == 9 - 3


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_answer_ends_before_a_stop_text(kind: str, tokenizer: Any, sources: list[list[int]]) -> None:
    model = build(kind, tokenizer)
    [[whole]] = answers(model, tokenizer, sources[:1], [GREEDY], max_new_tokens=12)
    stop = whole[0].split()[2]
    [[cut]] = answers(model, tokenizer, sources[:1], [GREEDY], max_new_tokens=12, stop=[stop, "never"])
    assert cut == [whole[0][: whole[0].index(stop)].strip()]
    steps: list[int] = []
    model.register_forward_hook(lambda *_: steps.append(1))
    list(generate(model, tokenizer, sources[:1], [GREEDY], seeds=[0], max_new_tokens=12, stop=[stop]))
    assert len(steps) < 12  # it is not only cut: nothing is written after it


def test_an_answer_has_as_many_tokens_as_asked_for(tokenizer: Any, sources: list[list[int]]) -> None:
    model = build("llama", tokenizer)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
        model.lm_head.weight[:] *= 0.01
    bias = torch.zeros(len(tokenizer), dtype=torch.float64)
    bias[tokenizer.eos_token_id] = 5.0
    model.lm_head.register_forward_hook(lambda _, __, logits: logits + bias)
    assert answers(model, tokenizer, sources[:1], [GREEDY]) == [[[""]]]
    assert answers(model, tokenizer, sources[:1], [GREEDY], min_new_tokens=3) != [[[""]]]


def test_a_models_own_settings_do_not_decide(tokenizer: Any, sources: list[list[int]]) -> None:
    model = build("llama", tokenizer)
    before = answers(model, tokenizer, sources, [GREEDY, BEAM])
    model.generation_config.update(repetition_penalty=3.0, length_penalty=-5.0, num_beams=2, top_k=1, do_sample=True)
    assert answers(model, tokenizer, sources, [GREEDY, BEAM]) == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0}, "at least one sample"),
        ({"samples": 2}, "without sampling would be the same one"),
        ({"temperature": 0.5}, "need sampling: true"),
        ({"sampling": True, "temperature": 0.0}, "temperature above 0"),
        ({"sampling": True, "top_p": 1.5}, r"top_p in \(0, 1\]"),
        ({"sampling": True, "beams": 4}, "not both"),
    ],
)
def test_a_decoding_that_means_nothing_is_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoding(**fields)


def test_bad_prompts_and_stops_are_rejected(tokenizer: Any, sources: list[list[int]]) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **CAUSAL["llama"]))
    with pytest.raises(ValueError, match="1 prompt has no token to continue"):
        answers(model, tokenizer, [sources[0], []], [GREEDY])
    with pytest.raises(ValueError, match="every prompt needs a seed, got 1 for 4"):
        answers(model, tokenizer, sources, [GREEDY], seeds=[1])
    with pytest.raises(ValueError, match="cannot be empty"):
        answers(model, tokenizer, sources, [GREEDY], stop=[""])


def test_seeds_and_cuts() -> None:
    assert prompt_seed(0, "task", "1") == prompt_seed(0, "task", "1")
    assert len({prompt_seed(0, "task", "1"), prompt_seed(1, "task", "1"), prompt_seed(0, "task", "2")}) == 3
    assert cut_at_stop("a b", []) == "a b"
    assert cut_at_stop("a. b", [".", "a"]) == ""


def test_a_recipe_says_how_prompts_are_answered(
    toybench: Path, tiny_model: dict[str, Any], make_datamodule: Callable[..., InstructionTuningDataModule]
) -> None:
    def answered(**decoding: Any) -> list[str]:
        torch.manual_seed(0)
        parser = ArgumentParser()
        parser.add_class_arguments(InstructionTuningModule, "model")
        fields = {"tokenizer": str(toybench / "tokenizer"), "config": {**tiny_model, "initializer_range": 0.5}}
        parsed = parser.parse_object({"model": {**fields, "row_length": 128, **decoding}})
        module = parser.instantiate(parsed).model
        module.configure_model()
        module.model.eval()
        return [answer.prediction for answer in module.answer(batch)]

    data = make_datamodule()
    data.prepare_data()
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    greedy, drawn = answered(), answered(decoding={"sampling": True, "top_k": 40})
    assert greedy != drawn == answered(decoding={"sampling": True, "top_k": 40, "samples": 3})
    assert drawn != answered(decoding={"sampling": True, "top_k": 40}, seed=1)
    assert all("a" not in text for text in answered(decoding={"stop": ["a"]}))
    assert any("a" in text for text in greedy)
