"""Decoding: how the next token is chosen, and where an answer ends.

A token is drawn by inverting the cumulative distribution at a random number that depends on (prompt, decoding, sample,
step) only. A sample therefore does not depend on its batch, on the number of processes, or on where a run resumed. One
exception remains: logits differ in their last bits with the shape of a batch, so a random number at the border between
two tokens may select the other one.
"""

# R rows, V vocabulary, T generated tokens, N nodes

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LogitsProcessor,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Decoding:
    """Settings for generating answers to a prompt; greedy by default.

    Args:
        samples: Number of answers to each prompt: independent draws, or the best sequences of beam search.
        sampling: Draw tokens from the model's distribution instead of taking the most probable one.
        temperature: Divides logits before drawing; below 1, probable tokens become more probable.
        top_k: Draw among this many most probable tokens; 0 for all.
        top_p: Draw among the most probable tokens that together have this probability (nucleus sampling); 1 for all.
        beams: Width of beam search; 1 for none.
        stop: Texts that end an answer, besides the model's end tokens. A stop text and what follows it are not part of
            the answer.
        compile: Compile the steps that generate tokens, on a cache of fixed size (``compiled_decoding.py``); made for
            CUDA. For decoder-only models with document attention whose weights are whole in every process.
    """

    samples: int = 1
    sampling: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 1
    stop: tuple[str, ...] = ()
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        if not all(self.stop):
            raise ValueError(f"decoding.stop cannot hold an empty text, got {list(self.stop)}")
        if self.samples < 1 or self.beams < 1:
            raise ValueError(f"decoding needs at least one sample and one beam, got {self}")
        if not 0 < self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"a temperature above 0, a top_k of 0 or more and a top_p in (0, 1] are needed, got {self}"
            )
        if self.compile and self.beams > 1:
            raise ValueError(f"a beam search is not compiled: leave out compile or beams, got {self}")
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
        """Number of sequences in memory for each prompt."""
        return max(self.samples, self.beams)

    def warped(self, logits_RV: Tensor) -> Tensor:
        """Return logits [R, V] after temperature, top-k and nucleus, in this order; excluded tokens are -inf."""
        if self.temperature != 1.0:
            logits_RV = TemperatureLogitsWarper(self.temperature)(None, logits_RV)
        if self.top_k:
            logits_RV = TopKLogitsWarper(self.top_k)(None, logits_RV)
        if self.top_p < 1.0:
            logits_RV = TopPLogitsWarper(self.top_p)(None, logits_RV)
        return logits_RV

    def numbers(self, seed: int, length: int) -> NDArray[np.float64]:
        """Return the numbers in [0, 1), [samples, length], with which a prompt's tokens are drawn, one per step.

        They depend only on the prompt's seed and the decoding; those of a sample do not depend on how many there are.
        """
        digest = hashlib.sha256(repr((seed, self.temperature, self.top_k, self.top_p)).encode()).digest()
        stem = int.from_bytes(digest[:8], "little")
        return np.stack([np.random.default_rng([stem, sample]).random(length) for sample in range(self.samples)])


def prompt_seed(seed: int, task: str, example: str) -> int:
    """Return the seed of one prompt, from the run's seed and the names of task and example.

    Args:
        seed: Seed of the run.
        task: Name of the task.
        example: Id of the example.
    """
    digest = hashlib.sha256(repr((seed, "answer", task, example)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


class DrawTokens(LogitsProcessor):
    """Logits processor that turns the greedy choice of ``generate`` into a draw, for the rows that sample.

    Rows are ordered by prompt, then decoding, then sample. In a row that samples, all tokens but one are excluded: the
    one at which the cumulative distribution exceeds the row's random number of this step.

    Args:
        decodings: Decodings of each prompt, without beam search.
        seeds: Seed of each prompt.
        max_new_tokens: Number of generation steps.
        width: Number of columns before the first generated token.
    """

    def __init__(self, decodings: Sequence[Decoding], seeds: Sequence[int], max_new_tokens: int, width: int) -> None:
        self.rows = sum(decoding.samples for decoding in decodings)
        self.width, self.decodings, self.max_new_tokens = width, tuple(decodings), max_new_tokens
        self.draws = any(decoding.sampling for decoding in decodings)
        self._decoding_R = torch.zeros(0, dtype=torch.int64)
        self._numbers_RT = torch.zeros(0, max_new_tokens if self.draws else 0, dtype=torch.float64)
        self.add(seeds)

    def add(self, seeds: Sequence[int]) -> None:
        """Add the rows of further prompts, behind those that exist; `seeds` has one seed per prompt."""
        if not self.draws:
            return
        place = [place for place, decoding in enumerate(self.decodings) for _ in range(decoding.samples)]
        numbers = [
            decoding.numbers(seed, self.max_new_tokens)
            if decoding.sampling
            else np.zeros((decoding.samples, self.max_new_tokens))
            for seed in seeds
            for decoding in self.decodings
        ]
        self._decoding_R = torch.cat([self._decoding_R, torch.tensor(place * len(seeds), dtype=torch.int64)])
        self._numbers_RT = torch.cat([self._numbers_RT, *map(torch.from_numpy, numbers)])

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (int64 indices), which are numbered from 0 again; the others have left the batch."""
        if self.draws:
            self._decoding_R, self._numbers_RT = self._decoding_R[rows.cpu()], self._numbers_RT[rows.cpu()]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.draws:
            return scores
        every = torch.arange(len(scores), device=scores.device)
        token_R = self.choose(input_ids.shape[1] - self.width, scores, every, every)
        for place, decoding in enumerate(self.decodings):
            if decoding.sampling:
                rows = (self._decoding_R == place).nonzero().flatten().to(scores.device)
                scores[rows] = torch.full_like(scores[rows], -torch.inf).scatter(1, token_R[rows, None], 0.0)
        return scores

    def choose(self, step: Tensor | int, logits_NV: Tensor, node_R: Tensor, row_R: Tensor) -> Tensor:
        """Return token ids [R] for the rows `row_R`, drawn from the logits [N, V] of their nodes.

        Args:
            step: Number of tokens generated so far, of each row [R] or of all.
            logits_NV: Logits of each node. Rows with the same text so far share a node.
            node_R: Index of each row's node.
            row_R: Index of each row in the batch.
        """
        token_R = logits_NV.argmax(dim=-1)[node_R]
        if not self.draws:
            return token_R
        decoding_R = self._decoding_R.to(row_R.device)[row_R]
        for place, decoding in enumerate(self.decodings):
            members = (decoding_R == place).nonzero().flatten()
            if not decoding.sampling or not len(members):
                continue
            nodes, of_member = node_R[members].unique(return_inverse=True)
            # In float64, since 50,000 probabilities are summed, and a token of probability 0 must not be drawn.
            cumulative_NV = decoding.warped(logits_NV[nodes]).double().softmax(dim=-1).cumsum(dim=-1)
            steps = step[members].cpu() if isinstance(step, Tensor) else step
            numbers_R1 = self._numbers_RT[row_R[members].cpu(), steps, None].to(logits_NV.device)
            cumulative_RV = cumulative_NV[of_member]
            place_R1 = torch.searchsorted(cumulative_RV, numbers_R1 * cumulative_RV[:, -1:], right=True)
            token_R[members] = place_R1[:, 0].clamp(max=logits_NV.shape[1] - 1)
        return token_R


class StopTexts(StoppingCriteria):
    """Stopping criterion that ends a sequence once its answer contains a stop text.

    Args:
        tokenizer: Decodes tokens.
        stop: Stop texts.
        width: Number of columns before the first generated token. A stop text that begins in the prompt does not count.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], width: int) -> None:
        if any(not text for text in stop):
            raise ValueError(f"a text that ends answers cannot be empty, got {list(stop)}")
        self.tokenizer, self.stop, self.width = tokenizer, tuple(stop), width
        # A token has at least one byte; a few tokens more, since some tokenizers strip leading white space.
        self.tail = max(len(text.encode()) for text in stop) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        first = max(self.width, input_ids.shape[1] - self.tail)
        return self._ended(input_ids[:, first:].tolist(), input_ids.device)

    def ended(self, ids_RT: Tensor, length_R: Tensor) -> Tensor:
        """Return whether each answer, the first `length_R` tokens of its row, ends with a complete stop text: bool [R].

        Args:
            ids_RT: int64 [R, T], generated tokens of each row.
            length_R: int64 [R], number of tokens of each answer, so far.
        """
        column_RT = (length_R - self.tail)[:, None] + torch.arange(self.tail, device=ids_RT.device)
        tails = ids_RT.gather(1, column_RT.clamp(min=0)).tolist()
        rows = [tail[-length:] for tail, length in zip(tails, length_R.tolist(), strict=True)]
        return self._ended(rows, ids_RT.device)

    def _ended(self, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        texts = texts_of_tokens(self.tokenizer, rows)
        return torch.tensor([any(stop in text for stop in self.stop) for text in texts], device=device)


def shared_stop(decodings: Sequence[Decoding]) -> tuple[str, ...]:
    """Return the stop texts that all of these decodings have, since their samples are generated in one call.

    Raises:
        ValueError: The decodings have different stop texts.
    """
    stops = {decoding.stop for decoding in decodings}
    if len(stops) > 1:
        raise ValueError(f"decodings that generate together must have the same stop texts, got {sorted(stops)}")
    return stops.pop() if stops else ()


def are_compiled(decodings: Sequence[Decoding]) -> bool:
    """Return whether decodings that generate in one call, those without beam search, are compiled.

    Raises:
        ValueError: Some are, and others are not.
    """
    choices = {decoding.compile for decoding in decodings if decoding.beams == 1}
    if len(choices) > 1:
        raise ValueError("decodings that generate together are compiled all or none: set compile for each, or for none")
    return choices == {True}


def texts_of_tokens(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of generated tokens, without special tokens.

    Spaces before punctuation stay. transformers would remove them for some T5 models, so that "1 , 2" would differ from
    the reference that the model was trained to generate.
    """
    return tokenizer.batch_decode(list(map(list, rows)), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def before_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """Return the tokens before the first end token, which need not be special to the tokenizer.

    >>> before_end([7, 8, 2, 0, 0], ends=[1, 2])
    [7, 8]
    """
    return list(takewhile(lambda token: token not in ends, ids))


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop text in it.

    >>> cut_at_stop("4. Q: and 3 + 3?", ["Q:", "."])
    '4'
    """
    return text[: min([text.find(ending) for ending in stop if ending in text], default=len(text))]
