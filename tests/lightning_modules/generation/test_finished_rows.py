"""Rows that have ended are not read on, and answers stay those that transformers gives to each prompt alone."""

from typing import Any

import pytest
import torch
from host_waits import HostWaits
from small_generators import alone, answers, build, ending
from torch import Tensor

from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.generation.generate import answer_batch, can_replace

GREEDY, DRAWN = Decoding(), Decoding(sampling=True, samples=3, temperature=1.5)
NEW = 12


@pytest.fixture(scope="module")
def sources(tokenizer: Any) -> list[list[int]]:
    texts = ["Write the same numbers again. list: 7 3", "list:", "animal: cat dog Answer:", "Ann red", "red", "7 3 3 1"]
    texts += [f"Write the same numbers again. list: {n} {n + 1}" for n in range(5)]
    ids = [*tokenizer(texts, add_special_tokens=False)["input_ids"], [9]]
    return sorted(ids, key=len, reverse=True)


def rows_read(model: Any) -> list[int]:
    """Sequences in each forward of the decoder from now on, samples that are columns of a row included."""
    read: list[int] = []
    name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    model.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs[name].numel()), with_kwargs=True)
    return read


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_waiting_prompts_take_the_places_of_those_that_have_ended(
    kind: str, tokenizer: Any, sources: list[list[int]]
) -> None:
    model, plain = (ending(build(kind, tokenizer, attention), tokenizer, 9) for attention in ("document", "sdpa"))
    expected = [alone(plain, tokenizer, source, max_new_tokens=NEW) for source in sources]
    four = 4 * (len(sources[0]) + NEW)
    for budget in (1, four, 10**6):
        found = answers(model, tokenizer, sources, [GREEDY], max_new_tokens=NEW, budget=budget)
        assert [greedy for [greedy] in found] == expected

    read = rows_read(model)
    answers(model, tokenizer, sources, [GREEDY], max_new_tokens=NEW, budget=four)
    steps = sum(count <= 4 for count in read)  # more tokens than that are prompts
    read.clear()
    for start in range(0, len(sources), 4):
        answers(model, tokenizer, sources[start : start + 4], [GREEDY], max_new_tokens=NEW)
    assert steps < 0.9 * sum(count <= 4 for count in read)


def test_samples_and_stop_texts_do_not_depend_on_who_waits(tokenizer: Any, sources: list[list[int]]) -> None:
    model, plain = (ending(build("llama", tokenizer, attention), tokenizer) for attention in ("document", "sdpa"))
    four = 4 * 4 * (len(sources[0]) + NEW)
    for options in ({}, {"stop": ["a", "e"], "min_new_tokens": 3}):
        found = answers(model, tokenizer, sources, [GREEDY, DRAWN], max_new_tokens=NEW, budget=four, **options)
        assert found == answers(plain, tokenizer, sources, [GREEDY, DRAWN], max_new_tokens=NEW, budget=1, **options)
        assert len({text for _, drawn in found for text in drawn}) > 5


@pytest.mark.parametrize("kind", ["gpt2", "t5", "switch_transformers"])
def test_rows_that_have_ended_leave_the_batch_of_any_model(kind: str, tokenizer: Any, sources: list[list[int]]) -> None:
    model = ending(build(kind, tokenizer), tokenizer)
    assert not can_replace(model)
    expected = [alone(model, tokenizer, source, max_new_tokens=NEW) for source in sources]
    read = rows_read(model)
    found = answers(model, tokenizer, sources, [GREEDY], max_new_tokens=NEW)
    assert [greedy for [greedy] in found] == expected
    assert sum(count for count in read if count <= len(sources)) < 0.8 * NEW * len(sources)
    read.clear()
    sampled = answers(model, tokenizer, sources, [GREEDY, DRAWN], max_new_tokens=NEW, stop=["a"])
    assert 2 * read[-1] < 4 * len(sources)
    assert sampled == answers(model, tokenizer, sources, [GREEDY, DRAWN], max_new_tokens=NEW, stop=["a"], budget=1)


def test_a_model_that_forces_tokens_keeps_its_rows(tokenizer: Any, sources: list[list[int]]) -> None:
    model = ending(build("gpt2", tokenizer, "document"), tokenizer)
    model.generation_config.forced_eos_token_id = tokenizer.eos_token_id
    assert not can_replace(model)
    expected = [alone(model, tokenizer, source, max_new_tokens=NEW) for source in sources]
    assert [greedy for [greedy] in answers(model, tokenizer, sources, [GREEDY], max_new_tokens=NEW)] == expected


def test_a_greedy_step_reads_the_device_once(
    tokenizer: Any, sources: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads which rows have ended, in one copy; nothing else of a step waits for the device."""
    model, prompt = build("llama", tokenizer, "document"), torch.tensor([sources[1]] * 2)
    whole = Tensor.tolist
    counts = []
    for length in (3, 9):
        lists: list[int] = []
        monkeypatch.setattr(Tensor, "tolist", lambda tensor, lists=lists: lists.append(1) or whole(tensor))
        options: dict[str, Any] = {"seeds": [0, 1], "max_new_tokens": length, "min_new_tokens": length}
        with HostWaits() as waits:
            answer_batch(model, tokenizer, prompt, torch.ones_like(prompt), [GREEDY], share=True, **options)
        counts.append((len(waits.places), len(lists)))
    assert counts[1][0] == counts[0][0]
    assert counts[1][1] - counts[0][1] == 9 - 3
