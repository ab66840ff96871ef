"""Answers of language models: greedy, sampled, or by beam search; one or several; the same whatever the batch.

Decoding stands on ``generate`` of transformers, which keeps the cache and knows the architectures. What it is given is
ours: a sampled token is the inverse of the cumulative distribution at a number that belongs to (prompt, decoding,
sample, step) alone. So a sample does not depend on the batch it is drawn in, on the number of processes, or on where a
run was resumed. One thing is left: a model's logits differ in their last bits with the shape of a batch, so that a
number that lies within such a difference of the border between two tokens may pick the other one.

Sampled rows of all decodings are drawn in one call, and a decoder-only prompt is read once for all its samples.
"""

# R rows, V vocabulary, T generated tokens, L columns

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import BaseModelOutput

from ...datamodules.evaluation.prompt_loader import pad_prompts, token_budget_batches
from ..prefixes import virtual_tokens

NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""What a model's own generation_config would decide in silence; the tokens it forces or suppresses stay its own."""


@dataclass(frozen=True)
class Decoding:
    """One way to answer a prompt; the default is greedy.

    Args:
        samples: Answers to each prompt: draws, or the best ones of the beam.
        sampling: Draw tokens from the model's distribution instead of taking the most probable one.
        temperature: Divides logits before drawing; below 1 the probable gets more probable.
        top_k: Draw from so many most probable tokens; 0 is all.
        top_p: Draw from the most probable tokens that together have this probability (nucleus sampling).
        beams: Width of beam search.
    """

    samples: int = 1
    sampling: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1 or self.beams < 1:
            raise ValueError(f"decoding needs at least one sample and one beam, got {self}")
        if self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"a temperature above 0, a top_k of 0 or more and a top_p in (0, 1] are needed, got {self}"
            )
        if self.sampling and self.beams > 1:
            raise ValueError(f"decoding draws tokens or searches by beam, not both, got {self}")
        if not self.sampling and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise ValueError(f"temperature, top_k and top_p need sampling: true, got {self}")
        if not self.sampling and self.samples > self.beams:
            raise ValueError(
                f"{self.samples} answers without sampling would be the same one: set sampling: true, or beams to "
                f"{self.samples} at least"
            )

    @property
    def rows(self) -> int:
        """Sequences that are held for each prompt."""
        return max(self.samples, self.beams)

    def warped(self, logits_RV: Tensor) -> Tensor:
        """Logits after temperature, top-k and nucleus, in this order; what cannot be drawn is -inf."""
        if self.temperature != 1.0:
            logits_RV = TemperatureLogitsWarper(self.temperature)(None, logits_RV)
        if self.top_k:
            logits_RV = TopKLogitsWarper(self.top_k)(None, logits_RV)
        if self.top_p < 1.0:
            logits_RV = TopPLogitsWarper(self.top_p)(None, logits_RV)
        return logits_RV

    def numbers(self, seed: int, length: int) -> NDArray[np.float64]:
        """Numbers [samples, length] in [0, 1) of one prompt, each sample's its own, whatever else is drawn."""
        digest = hashlib.sha256(repr((seed, self.temperature, self.top_k, self.top_p)).encode()).digest()
        stem = int.from_bytes(digest[:8], "little")
        return np.stack([np.random.default_rng([stem, sample]).random(length) for sample in range(self.samples)])


def prompt_seed(seed: int, task: str, example: str) -> int:
    """The seed of one prompt, a function of the run's seed and the example's name."""
    digest = hashlib.sha256(repr((seed, "answer", task, example)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    decodings: Sequence[Decoding],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    min_new_tokens: int = 0,
    stop: Sequence[str] = (),
    budget: int = 32_768,
) -> Iterator[tuple[int, list[list[str]]]]:
    """Answers of every prompt, in batches of similar length, the longest first: what does not fit shows at once.

    Args:
        model: Causal or encoder-decoder; it answers on its own device.
        tokenizer: Its tokenizer, with eos and padding tokens.
        sources: Token ids of each prompt.
        decodings: How each prompt is answered.
        seeds: Of each prompt, e.g. from ``prompt_seed``.
        max_new_tokens: Longest answer in tokens.
        min_new_tokens: Tokens before which eos cannot come.
        stop: Texts that end an answer; neither they nor what follows are part of it.
        budget: Most tokens of a batch, all sequences with their answers counted.

    Yields:
        (place of the prompt, answers): for each decoding ``decoding.samples`` texts, as soon as they are there.

    Raises:
        ValueError: A prompt is empty, or there are not as many seeds as prompts.
    """
    if len(seeds) != len(sources):
        raise ValueError(f"every prompt needs a seed, got {len(seeds)} for {len(sources)} prompts")
    if empty := [place for place, source in enumerate(sources) if not len(source)]:
        raise ValueError(f"{len(empty)} prompts have no token to continue, e.g. prompt {empty[0]}: give it a bos token")
    drawn = sum(decoding.rows for decoding in decodings if decoding.beams == 1)
    rows = max([drawn, *(decoding.rows for decoding in decodings)])
    for batch in token_budget_batches([rows * (len(source) + max_new_tokens) for source in sources], budget):
        input_ids, mask = pad_prompts(
            [sources[place] for place in batch], tokenizer.pad_token_id, left=not model.config.is_encoder_decoder
        )
        answers = answer_batch(
            model,
            tokenizer,
            input_ids.to(model.device),
            mask.to(model.device),
            decodings,
            seeds=[seeds[place] for place in batch],
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            stop=stop,
        )
        yield from zip(batch, answers, strict=True)


@torch.no_grad()
def answer_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    attention_mask: Tensor,
    decodings: Sequence[Decoding],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    min_new_tokens: int = 0,
    stop: Sequence[str] = (),
) -> list[list[list[str]]]:
    """Answers of a padded batch: for each prompt, for each decoding, its texts; arguments as those of ``generate``."""
    prompts = _Prompts(model, input_ids, attention_mask)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        # A model's own min_length counts the prompt in, so that it is set wherever nothing else is asked for.
        **({"min_new_tokens": min_new_tokens} if min_new_tokens else {"min_length": 0}),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    enders = [StopTexts(tokenizer, stop, prompts.width)] if stop else []
    answers: list[list[list[str]]] = [[[] for _ in decodings] for _ in seeds]

    def add(places: Sequence[int], ids: Tensor) -> None:
        texts = [cut_at(text, stop).strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        of_row = [place for place in places for _ in range(decodings[place].samples)]
        for row, text in enumerate(texts):
            prompt, sequence = divmod(row, len(of_row))
            answers[prompt][of_row[sequence]].append(text)

    together = [place for place, decoding in enumerate(decodings) if decoding.beams == 1]
    if together:
        draw = DrawTokens([decodings[place] for place in together], seeds, max_new_tokens, prompts.width)
        add(together, prompts.continued(draw.rows, processors=[draw], enders=enders, **options))
    for place in sorted(set(range(len(decodings))) - set(together)):
        beam = decodings[place]
        search: dict[str, Any] = {"num_beams": beam.beams, "num_return_sequences": beam.samples}
        add([place], prompts.continued(1, enders=enders, **options, **search))
    return answers


class _Prompts:
    """A padded batch of prompts, read once however often it is continued.

    An encoder's states and a decoder's cache serve every continuation. The cache leaves out each prompt's last token,
    which a continuation reads again to get its logits.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        self.model, self.input_ids, self.attention_mask = model, input_ids, attention_mask
        self.two_stacks = model.config.is_encoder_decoder
        # Where an answer begins: an encoder-decoder's stands alone, behind its start token.
        self.width = 1 if self.two_stacks else input_ids.shape[1]
        self._read: Any = None

    def continued(
        self, rows: int, *, processors: Sequence[Any] = (), enders: Sequence[Any] = (), **options: Any
    ) -> Tensor:
        """New token ids: `rows` sequences (or those of the beam) of a prompt after those of the one before it."""
        settings = {**NEUTRAL, **options}
        if self.two_stacks:
            settings["decoder_start_token_id"] = self.model.config.decoder_start_token_id
        ids = self.model.generate(  # type: ignore[operator]
            self.input_ids.repeat_interleave(rows, dim=0),
            attention_mask=self.attention_mask.repeat_interleave(rows, dim=0),
            generation_config=GenerationConfig(**settings),
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(enders),
            **self._states(rows, settings["num_beams"]),
        )
        return ids[:, self.width :]

    def _states(self, rows: int, beams: int) -> dict[str, Any]:
        """What ``generate`` need not compute again."""
        if self.two_stacks:
            if self._read is None:
                encoder: Any = self.model.get_encoder()
                self._read = encoder(self.input_ids, attention_mask=self.attention_mask).last_hidden_state
            return {"encoder_outputs": BaseModelOutput(self._read.repeat_interleave(rows, dim=0))}
        if rows * beams == 1 or self.width == 1 or virtual_tokens(self.model):  # a prefix fills an empty cache alone
            return {}
        if self._read is None:
            # One token of the prompts without their last: the public way to a cache with the right positions.
            self._read = self.model.generate(  # type: ignore[operator]
                self.input_ids[:, :-1],
                attention_mask=self.attention_mask[:, :-1],
                generation_config=GenerationConfig(
                    **NEUTRAL, pad_token_id=0, max_new_tokens=1, return_dict_in_generate=True
                ),
            ).get("past_key_values")
        if not isinstance(self._read, DynamicCache):  # a state-space model keeps something else
            return {}
        cache = copy.deepcopy(self._read)
        cache.batch_repeat_interleave(rows * beams)  # generate repeats prompts for its beams, but no cache
        return {"past_key_values": cache}


class DrawTokens(LogitsProcessor):
    """Makes the greedy choice of ``generate`` a draw, or leaves it, row by row.

    Rows are grouped by prompt, then by decoding, then by sample. Of a row that samples, the only token left is the one
    at whose place the cumulative distribution passes the row's number of this step.

    Args:
        decodings: Of a prompt's rows, none of them a beam.
        seeds: Of each prompt.
        max_new_tokens: Steps that numbers are needed for.
        width: Columns before the first generated token.
    """

    def __init__(self, decodings: Sequence[Decoding], seeds: Sequence[int], max_new_tokens: int, width: int) -> None:
        self.rows = sum(decoding.samples for decoding in decodings)
        self.width = width
        self.groups: list[tuple[Decoding, Tensor, Tensor]] = []  # a sampling decoding, its rows, its numbers [rows, T]
        first = 0
        for decoding in decodings:
            if decoding.sampling:
                own = torch.arange(first, first + decoding.samples)
                rows = (torch.arange(len(seeds))[:, None] * self.rows + own).flatten()
                numbers = np.concatenate([decoding.numbers(seed, max_new_tokens) for seed in seeds])
                self.groups.append((decoding, rows, torch.from_numpy(numbers)))
            first += decoding.samples

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.width
        for decoding, rows_R, numbers_RT in self.groups:
            rows_R = rows_R.to(scores.device)
            warped_RV = decoding.warped(scores[rows_R])
            # In float64: the distribution of 50,000 tokens is summed, and a token without probability cannot be drawn.
            cumulative_RV = warped_RV.double().softmax(dim=-1).cumsum(dim=-1)
            number_R1 = numbers_RT[:, step, None].to(scores.device) * cumulative_RV[:, -1:]
            token_R1 = torch.searchsorted(cumulative_RV, number_R1, right=True).clamp(max=scores.shape[1] - 1)
            scores[rows_R] = torch.full_like(warped_RV, -torch.inf).scatter(1, token_R1, 0.0)
        return scores


class StopTexts(StoppingCriteria):
    """Ends a sequence once its answer contains one of some texts.

    Args:
        tokenizer: Turns tokens back into text.
        stop: The texts.
        width: Columns before the first generated token; a text that begins in the prompt does not count.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], width: int) -> None:
        if any(not text for text in stop):
            raise ValueError(f"a text that ends answers cannot be empty, got {list(stop)}")
        self.tokenizer, self.stop, self.width = tokenizer, tuple(stop), width
        # A token writes a byte at least; a few more, since some tokenizers strip what stands first.
        self.tail = max(len(text.encode()) for text in stop) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        first = max(self.width, input_ids.shape[1] - self.tail)
        texts = self.tokenizer.batch_decode(input_ids[:, first:], skip_special_tokens=True)
        ended = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first of some texts in it.

    >>> cut_at("4. Q: and 3 + 3?", ["Q:", "."])
    '4'
    """
    return text[: min([text.find(each) for each in stop if each in text], default=len(text))]
