"""Samples of chat models: what they read and what likelihoods they report, as transformers itself computes both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstask.commands.samples import write_samples
from crosstask.datamodules.scoring.sampled_examples import SampledExamples, SampledPrompt
from crosstask.datamodules.scoring.samples import Sample, read_samples
from crosstask.lightning_modules.generation.decoding import Decoding

CHAT = "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content }}\n{% endfor %}assistant\n"
TURNS = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}{% if add_generation_prompt %}answer: {% endif %}"
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
GREEDY = Decoding()


@dataclass
class ChatModel:
    """A small model with a chat template, in transformers.

    Args:
        model: Random weights.
        tokenizer: Has the template.
        folder: Where both are saved.
    """

    model: Any
    tokenizer: Any
    folder: Path

    def save(self) -> None:
        self.model.save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)

    def sampled(self, examples: SampledExamples, output: Path, decoding: Decoding = GREEDY) -> dict[str, Sample]:
        """The last sample with text that the command writes for each example, by the example's id."""
        settings: dict[str, Any] = {"decodings": {"drawn": decoding}, "max_new_tokens": 5}
        write_samples(examples, str(output), str(self.folder), chat=True, **settings)
        return {key[1]: sample for key, sample in read_samples(output.glob("*.jsonl")) if sample.response}

    def source(self, prompt: SampledPrompt) -> list[int]:
        """Token ids of a prompt in the template, to where the answer begins."""
        message = [{"role": "user", "content": prompt.source}]
        return self.tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"]

    def log_likelihood(self, source: list[int], answer: list[int]) -> float:
        """Log-likelihood in nats of an answer's tokens behind a source."""
        with torch.no_grad():
            logits: Tensor = self.model(torch.tensor([source + answer])).logits
        logs = logits.log_softmax(-1)[0, len(source) - 1 : -1]
        return float(logs.gather(1, torch.tensor(answer)[:, None]).sum())


@pytest.fixture
def chat_model(generators: Path, tmp_path: Path) -> ChatModel:
    """Without a template yet, and not saved."""
    model = AutoModelForCausalLM.from_pretrained(generators / "causal").eval()
    tokenizer = AutoTokenizer.from_pretrained(generators / "causal")
    tokenizer.bos_token = tokenizer.eos_token
    return ChatModel(model, tokenizer, tmp_path / "chat")


def test_a_chat_model_is_evaluated_in_its_template_and_answers_right_behind_it(
    chat_model: ChatModel, generators: Path, examples: SampledExamples, tmp_path: Path
) -> None:
    """As transformers itself would: no space stands between the template and the answer, and bos is there once."""
    model, tokenizer = chat_model.model, chat_model.tokenizer
    tokenizer.chat_template = CHAT
    chat_model.save()
    samples = chat_model.sampled(examples, tmp_path / "out")
    for prompt in examples.prompts():
        source, sample = chat_model.source(prompt), samples[prompt.example.id]
        assert source.count(tokenizer.bos_token_id) == 1
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        greedy = model.generate(torch.tensor([source]), do_sample=False, max_new_tokens=5, **ends)
        assert sample.response == tokenizer.decode(greedy[0, len(source) :], skip_special_tokens=True).strip()
        answer = [*tokenizer(sample.response)["input_ids"], tokenizer.eos_token_id]
        assert sample.log_likelihood == pytest.approx(chat_model.log_likelihood(source, answer), abs=1e-3)
    with pytest.raises(ValueError, match="adds bos itself"):
        write_samples(examples, str(tmp_path / "out"), str(chat_model.folder), chat=True, bos=True)
    with pytest.raises(ValueError, match="cannot be cut: set cut to middle"):
        write_samples(examples, str(tmp_path / "end"), str(chat_model.folder), chat=True, cut="end")
    with pytest.raises(ValueError, match="has no chat template, which conversations are rendered by"):
        write_samples(examples, str(tmp_path / "none"), str(generators / "causal"), chat=True)


def test_a_chat_answer_ends_with_the_template_s_token(
    chat_model: ChatModel, examples: SampledExamples, tmp_path: Path
) -> None:
    """Not with the tokenizer's eos, neither in its likelihood nor when it is generated."""
    model, tokenizer = chat_model.model, chat_model.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = TURNS
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("a")["input_ids"]])).logits[0, -1]
        model.lm_head.weight[turn] = 0.9 * model.lm_head.weight[logits.argmax()]  # it is often the best token
    chat_model.save()
    samples = chat_model.sampled(examples, tmp_path / "out", Decoding(sampling=True, samples=4))
    assert samples
    for prompt in examples.prompts():
        if (sample := samples.get(prompt.example.id)) is None:
            continue
        source, answer = chat_model.source(prompt), [*tokenizer(sample.response)["input_ids"], turn]
        assert sample.log_likelihood == pytest.approx(chat_model.log_likelihood(source, answer), abs=1e-3)


def test_a_space_before_the_answer_is_part_of_its_likelihood(
    chat_model: ChatModel, examples: SampledExamples, tmp_path: Path
) -> None:
    """Llama 2's template writes one, and the model generates it; another template's answers begin without."""
    tokenizer = chat_model.tokenizer
    tokenizer.chat_template = LLAMA_2
    chat_model.save()
    samples = chat_model.sampled(examples, tmp_path / "out")
    prompt = next(iter(examples.prompts()))
    sample, source = samples[prompt.example.id], chat_model.source(prompt)
    answer = [*tokenizer(f" {sample.response}")["input_ids"], tokenizer.eos_token_id]
    assert sample.log_likelihood == pytest.approx(chat_model.log_likelihood(source, answer), abs=1e-3)
