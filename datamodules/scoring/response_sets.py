"""Evaluation of a scorer: the responses to rank for each evaluated example, their batches, and the stage."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..benchmarks import Benchmark
from ..evaluation.evaluation_set import EvaluationSet
from ..evaluation.lossy_tokenization import are_equal, equal_options_reason
from ..packing.best_fit import Packing
from ..packing.budget_batches import budget_batches
from ..packing.replicas import Replicas
from ..rendering.prompts import rendering_rng
from ..rendering.unknown_tokens import UnknownCounter
from ..schema import EvaluationExample, Example, Prompt, ScoredBatch, TokenizedExample
from .pair_preparation import ScoredPreparation
from .pair_rows import ScoredRows
from .pairs import References, ScoredPair, correct_responses, correctness_of_responses, stripped

RESPONSES = 2
"""Index of the random stream that draws and orders responses."""


class ResponseBatch(NamedTuple):
    """Batch of E examples with C responses to rank.

    Args:
        pairs: Pairs of instruction and response in packed rows.
        places: int64 [C], index of each response's score among those of `pairs`, example after example.
        examples: The E examples; none in a filler batch, which keeps replicas at the same number of batches.
        responses: Texts of each example's responses.
    """

    pairs: ScoredBatch
    places: Tensor
    examples: tuple[EvaluationExample, ...]
    responses: tuple[tuple[str, ...], ...]


class ResponseSet(NamedTuple):
    """The examples of validation or test, with the responses that a scorer ranks.

    Args:
        examples: The evaluated examples; ``examples[i].number == i``.
        responses: (instruction, response) pairs of each example, with the correctness of the responses.
        skipped: Number of examples that cannot be ranked, by reason.
    """

    examples: list[EvaluationExample]
    responses: list[list[ScoredPair]]
    skipped: Mapping[str, int]


def responses_to_rank(
    example: Example, references: References, preparation: ScoredPreparation, *, mismatches: int
) -> dict[str, float] | str:
    """Return the responses to rank with their correctness, in random order, or the reason why they cannot be ranked.

    The responses of an example with options are its options. Those of another example are its first reference,
    references of other examples of the task, and the sampled responses, if any.

    Args:
        example: The evaluated example.
        references: References of its task.
        preparation: Settings of rendering, with samples and their label.
        mismatches: Number of references of other examples.
    """
    rng = rendering_rng(preparation.seed, example.task, example.id, RESPONSES)
    if not example.options:
        example = replace(example, targets=tuple(correct_responses(example)[:1]))
    responses = correctness_of_responses(
        example,
        references,
        () if example.options else preparation.samples.of(example.task).get(example.id, ()),
        rng,
        label=preparation.label,
        mismatches=mismatches,
    )
    if isinstance(responses, str):
        return responses
    if example.options:
        # An option without a label is a reference of another example with the same input, so it is right.
        responses = {option: responses.get(option, 1.0) for option in stripped(example.options)}
        if 1.0 not in responses.values():
            return "no right option"
    order = sorted(responses, key=lambda _: rng.random())
    return {response: responses[response] for response in order}


def read_responses(evaluation: EvaluationSet, preparation: ScoredPreparation, *, mismatches: int) -> ResponseSet:
    """Choose the responses to rank for every example of validation or test; count unusable examples by reason.

    Args:
        evaluation: The examples of validation or test, and their prompts.
        preparation: Settings of rendering, with samples and their label.
        mismatches: Number of wrong responses to an example without options, drawn from all references of its task.

    Raises:
        ValueError: No example can be ranked.
    """
    skipped = Counter(evaluation.skipped)
    ranked = ResponseSet([], [], skipped)
    counter = UnknownCounter(preparation.tokenizer)
    prompted = zip(evaluation.examples, evaluation.prompts, strict=True)
    for name, members in groupby(prompted, key=lambda item: item[0].task):
        of_task = {example.id: example for example in preparation.benchmark.examples(name)}
        references = References(of_task.values())
        for example, prompt in members:
            one = of_task[example.id]
            responses = preparation.pair_problem(one) or responses_to_rank(
                one, references, preparation, mismatches=mismatches
            )
            if isinstance(responses, str):
                skipped[responses] += 1
                continue
            pairs = _pairs(prompt, responses)
            if counter.loses_text and are_equal(preparation.tokenize_scored(pairs)):
                skipped[equal_options_reason(name)] += 1
                continue
            ranked.examples.append(example._replace(number=len(ranked.examples)))
            ranked.responses.append(pairs)
    if not ranked.examples:
        raise ValueError(f"none of {len(evaluation.examples)} examples can be ranked: {dict(ranked.skipped)}")
    return ranked


def _pairs(prompt: Prompt, responses: Mapping[str, float]) -> list[ScoredPair]:
    return [ScoredPair(prompt.source.strip(), response, correctness) for response, correctness in responses.items()]


class ResponseLoader:
    """Iterable of one replica's batches of examples with responses to rank.

    Every example is evaluated exactly once over all replicas. All replicas have the same number of batches, since
    sharded models need every process in every forward pass. A filler batch is a row of padding.

    Args:
        examples: The evaluated examples.
        responses: Texts of each example's responses.
        documents: Tokenized pairs of each example's responses.
        kind: Builds the rows of a batch.
        packing: Function that packs pairs into rows.
        budget: Maximum number of tokens of a batch; a larger example is a batch by itself.
        replicas: This process's replica.
    """

    def __init__(
        self,
        examples: Sequence[EvaluationExample],
        responses: Sequence[Sequence[str]],
        documents: Sequence[Sequence[TokenizedExample]],
        *,
        kind: ScoredRows,
        packing: Packing,
        budget: int,
        replicas: Replicas,
    ) -> None:
        self.examples, self.responses, self.documents = examples, responses, documents
        self.kind, self.packing = kind, packing
        totals = [int(_sizes(kind, pairs).sum()) for pairs in documents]
        self._mine = replicas.equal_share(budget_batches(totals, budget))

    def __len__(self) -> int:
        return len(self._mine)

    def __iter__(self) -> Iterator[ResponseBatch]:
        return map(self._collate, self._mine)

    def _collate(self, batch: Sequence[int]) -> ResponseBatch:
        pairs = [pair for i in batch for pair in self.documents[i]]
        if pairs:
            rows = self.packing(_sizes(self.kind, pairs), self.kind.capacity, np.random.default_rng(0))
            places = [rows.row(r).tolist() for r in range(len(rows))]
        else:
            places = [[]]
        order = np.array([pair for row in places for pair in row], dtype=np.int64)
        return ResponseBatch(
            self.kind.collate([[pairs[i] for i in row] for row in places], step_targets=len(pairs)),
            torch.from_numpy(np.argsort(order)),
            tuple(self.examples[i] for i in batch),
            tuple(tuple(self.responses[i]) for i in batch),
        )


def _sizes(kind: ScoredRows, pairs: Sequence[TokenizedExample]) -> np.ndarray:
    lengths = np.array([len(pair.input_ids) for pair in pairs], dtype=np.int64)
    return kind.sizes(lengths, np.array([pair.n_source for pair in pairs], dtype=np.int64))


@dataclass(frozen=True)
class ResponseStage:
    """Validation or test of a scorer: its examples with the responses to rank, and their batches.

    Args:
        name: ``validation`` or ``test``.
        evaluated: The examples and their responses.
        preparation: Settings of rendering and tokenization.
        kind: Builds the rows of a batch.
        packing: Function that packs pairs into rows.
        batch_tokens: Maximum number of tokens of a batch.
    """

    name: str
    evaluated: ResponseSet
    preparation: ScoredPreparation
    kind: ScoredRows
    packing: Packing
    batch_tokens: int

    @property
    def examples(self) -> Sequence[EvaluationExample]:
        """The evaluated examples, by number."""
        return self.evaluated.examples

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of examples that are not evaluated, by reason."""
        return self.evaluated.skipped

    def loader(self, here: Replicas, answered: Collection[int]) -> ResponseLoader:
        """Return one replica's batches of all examples.

        Args:
            here: This process's replica.
            answered: Not used, since an interrupted ranking starts again.
        """
        documents = [self.preparation.tokenize_scored(pairs) for pairs in self.evaluated.responses]
        lengths = [len(document.input_ids) for pairs in documents for document in pairs]
        longest = self.kind.pair_length
        if cut := sum(length > longest for length in lengths):
            rank_zero_info(f"{cut} of {len(lengths)} {self.name} pairs are cut to {longest} tokens")
        return ResponseLoader(
            self.evaluated.examples,
            [[pair.response for pair in pairs] for pairs in self.evaluated.responses],
            documents,
            kind=self.kind,
            packing=self.packing,
            budget=self.batch_tokens,
            replicas=here,
        )

    validation_loader = loader

    def fingerprint(self) -> None:
        """Return None, since an interrupted ranking does not resume; stages that resume return digests."""

    def coverage(self, benchmark: Benchmark, scored: Collection[int]) -> None:
        """Return None: no published table has tasks whose responses are ranked."""
