"""Steps of one shape: texts are those of uncompiled decoding, and lengths of prompts and answers compile nothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from host_waits import HostWaits
from small_generators import alone, answers, build, ending
from torch import Tensor

from crosstask.lightning_modules import InstructionTuningModule
from crosstask.lightning_modules.generation import compiled_decoding
from crosstask.lightning_modules.generation.compiled_decoding import STEPS, fixed_shape
from crosstask.lightning_modules.generation.decoding import Decoding, are_compiled
from crosstask.lightning_modules.generation.generate import answer_batch

GREEDY, DRAWN = Decoding(compile=True), Decoding(compile=True, sampling=True, samples=3, temperature=1.5)
NEW = 20
WORDS = ["list:", "animal: cat dog Answer:", "Ann red", "red", "7 3 3 1", "Write the same numbers again. list: 7 3"]


@pytest.fixture(scope="module")
def sources(tokenizer: Any) -> list[list[int]]:
    texts = [*WORDS, *(f"Write the same numbers again. list: {n} {n + 1}" for n in range(5))]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [*ids, [9]]


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """(rows, columns of the cache) of each compilation, by a backend that runs graphs as they are."""
    torch._dynamo.reset()
    compiled: list[tuple[int, int]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        rows, _, columns, _ = next(part.shape for part in inputs if isinstance(part, Tensor) and part.dim() > 3)
        compiled.append((rows, columns))
        return graph.forward

    step = torch.compile(compiled_decoding.decode_step, fullgraph=True, dynamic=False, backend=backend)
    monkeypatch.setattr(compiled_decoding, "compiled_step", lambda device: step)
    yield compiled
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_compiled_answers_are_those_of_transformers_to_each_prompt_alone(
    kind: str, tokenizer: Any, sources: list[list[int]], shapes: list[tuple[int, int]]
) -> None:
    """Rows end at many lengths, and waiting prompts take their places; 4 rows of 64 columns serve them all."""
    model, plain = (ending(build(kind, tokenizer, attention), tokenizer, 9) for attention in ("document", "sdpa"))
    for new in (1, 5, NEW):
        expected = [alone(plain, tokenizer, source, max_new_tokens=new) for source in sources]
        found = answers(model, tokenizer, sources, [GREEDY], max_new_tokens=new, budget=4 * 64)
        assert [greedy for [greedy] in found] == expected
    assert len({len(tokenizer(text)["input_ids"]) for [text] in expected}) > 4
    assert shapes == [(4, 64)]


def test_lengths_and_numbers_of_prompts_compile_nothing_within_powers_of_two(
    tokenizer: Any, sources: list[list[int]], shapes: list[tuple[int, int]]
) -> None:
    model, full = build("llama", tokenizer, "document"), 64 - len(sources[0])  # answers that fill the cache
    for prompts, new in ((8, 5), (5, 9), (7, 40), (8, 1), (6, full)):
        batch = torch.tensor([sources[0] * (1 + prompts % 3)] * prompts)
        options: dict[str, Any] = {"seeds": range(prompts), "max_new_tokens": new, "share": True}
        compiled = answer_batch(model, tokenizer, batch, torch.ones_like(batch), [GREEDY], **options)
        assert compiled == answer_batch(model, tokenizer, batch, torch.ones_like(batch), [Decoding()], **options)
    assert shapes == [(8, 64)]
    longer = [source * 20 for source in sources[:1]]
    assert answers(model, tokenizer, longer, [GREEDY]) == answers(model, tokenizer, longer, [Decoding()])
    assert shapes == [(8, 64), fixed_shape(1, 20 * len(sources[0]) + 6)]


def test_compiled_samples_and_stop_texts_are_those_of_uncompiled_decoding(
    tokenizer: Any, sources: list[list[int]], shapes: list[tuple[int, int]]
) -> None:
    model = ending(build("llama", tokenizer, "document"), tokenizer, 9)
    decodings = [GREEDY, DRAWN]
    uncompiled = [replace(decoding, compile=False) for decoding in decodings]
    for options in ({}, {"stop": ["a", "e"], "min_new_tokens": 3}):
        found = answers(model, tokenizer, sources, decodings, max_new_tokens=NEW, budget=16 * 64, **options)
        assert found == answers(model, tokenizer, sources, uncompiled, max_new_tokens=NEW, **options)
        assert len({text for _, drawn in found for text in drawn}) > 5
    assert shapes == [(16, 64)]


def test_greedy_steps_read_the_device_once_in_eight(
    tokenizer: Any, sources: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run uncompiled here, where operations can be counted."""
    monkeypatch.setattr(compiled_decoding, "compiled_step", lambda device: compiled_decoding.decode_step)
    model, prompt = build("llama", tokenizer, "document"), torch.tensor([sources[1]] * 2)
    whole = Tensor.tolist
    counts = []
    for length in (STEPS, 4 * STEPS):
        lists: list[int] = []
        monkeypatch.setattr(Tensor, "tolist", lambda tensor, lists=lists: lists.append(1) or whole(tensor))
        options: dict[str, Any] = {"seeds": [0, 1], "max_new_tokens": length, "min_new_tokens": length}
        with HostWaits() as waits:
            answer_batch(model, tokenizer, prompt, torch.ones_like(prompt), [GREEDY], share=True, **options)
        counts.append((len(waits.places), len(lists)))
    assert counts[1][0] == counts[0][0]
    assert counts[1][1] - counts[0][1] == 3


def test_what_cannot_be_compiled_is_rejected(tokenizer: Any, sources: list[list[int]]) -> None:
    for kind, attention in (("t5", "sdpa"), ("llama", "sdpa")):
        with pytest.raises(ValueError, match=r"cannot be compiled: .* decoder-only model with network.attention doc"):
            answers(build(kind, tokenizer, attention), tokenizer, sources, [GREEDY])
    model, prompt = build("llama", tokenizer, "document"), torch.tensor([sources[0]])
    with pytest.raises(ValueError, match="needs whole weights in every process"):
        answer_batch(model, tokenizer, prompt, torch.ones_like(prompt), [GREEDY], seeds=[0], max_new_tokens=3)
    with pytest.raises(ValueError, match="a beam search is not compiled"):
        Decoding(beams=2, compile=True)
    with pytest.raises(ValueError, match="compiled all or none"):
        are_compiled([GREEDY, Decoding(sampling=True)])
    assert are_compiled([GREEDY, Decoding(beams=2)])
    assert not are_compiled([Decoding(beams=2)])


def test_a_module_rejects_compiled_decoding_before_it_trains(toybench: Path) -> None:
    fields: dict[str, Any] = {"model_type": "t5", "d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2}
    fields |= {"num_layers": 1, "decoder_start_token_id": 0}
    module = InstructionTuningModule(str(toybench / "tokenizer"), config=fields, decoding=Decoding(compile=True))
    with pytest.raises(ValueError, match="the steps of T5ForConditionalGeneration cannot be compiled"):
        module.configure_model()
