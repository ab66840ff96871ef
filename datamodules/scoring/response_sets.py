"""Examples with responses to rank: which responses are compared, and batches that keep an example's together."""

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
from ..packing.best_fit import Packing
from ..packing.budget_batches import budget_batches
from ..packing.replicas import Replicas
from ..rendering.prompts import rendering_rng
from ..schema import EvaluationExample, Example, Prompt, ScoredBatch, TokenizedExample
from .pair_preparation import ScoredPreparation
from .pair_rows import ScoredRows
from .pairs import References, ScoredPair, correctness_of_responses, right_responses, stripped

RESPONSES = 2
"""The rendering index of the generator that draws responses."""


class ResponseBatch(NamedTuple):
    """Examples to rank, with all responses of each. C responses of E examples.

    Args:
        pairs: Every response with its example's instruction, in packed rows.
        places: int64 [C], place among the scored pairs of each response, one example after the other.
        examples: What is sampled, E of them; none where a batch only keeps replicas in step.
        responses: Texts of each example's responses.
    """

    pairs: ScoredBatch
    places: Tensor
    examples: tuple[EvaluationExample, ...]
    responses: tuple[tuple[str, ...], ...]


class ResponseSet(NamedTuple):
    """The examples of one stage and their responses.

    Args:
        examples: What is sampled; ``examples[i].number == i``.
        responses: The pairs that are compared for each.
        skipped: Examples that cannot be ranked, by reason.
    """

    examples: list[EvaluationExample]
    responses: list[list[ScoredPair]]
    skipped: Mapping[str, int]


def responses_to_rank(
    example: Example, references: References, preparation: ScoredPreparation, *, mismatches: int
) -> dict[str, float] | str:
    """Responses of an example with their correctness, in random order; or the reason why they cannot be ranked.

    A classification example is ranked over its options. Others are ranked over their first reference, `mismatches`
    references of other examples of the task, and samples of language models where there are any.
    """
    rng = rendering_rng(preparation.seed, example.task, example.id, RESPONSES)
    if not example.options:
        example = replace(example, targets=tuple(right_responses(example)[:1]))
    found = correctness_of_responses(
        example,
        references,
        () if example.options else preparation.samples.of(example.task).get(example.id, ()),
        rng,
        label=preparation.label,
        mismatches=mismatches,
    )
    if isinstance(found, str):
        return found
    if example.options:
        # An option that is no reference of this example and not wrong is right for another one with its input.
        found = {option: found.get(option, 1.0) for option in stripped(example.options)}
        if 1.0 not in found.values():
            return "no right option"
    order = sorted(found, key=lambda _: rng.random())
    return {response: found[response] for response in order}


def read_responses(evaluation: EvaluationSet, preparation: ScoredPreparation, *, mismatches: int) -> ResponseSet:
    """Responses of every example of a stage; an example that cannot be ranked is counted by reason.

    Mismatches come from all references of a task, trained or not.

    Raises:
        ValueError: No example is left.
    """
    ranked = ResponseSet([], [], Counter(evaluation.skipped))
    prompted = zip(evaluation.examples, evaluation.prompts, strict=True)
    for name, members in groupby(prompted, key=lambda item: item[0].task):
        of_task = {example.id: example for example in preparation.benchmark.examples(name)}
        references = References(of_task.values())
        for sampled, prompt in members:
            found = responses_to_rank(of_task[sampled.id], references, preparation, mismatches=mismatches)
            if isinstance(found, str):
                ranked.skipped[found] += 1  # type: ignore[index]
                continue
            ranked.examples.append(sampled._replace(number=len(ranked.examples)))
            ranked.responses.append(_pairs(prompt, found))
    if not ranked.examples:
        raise ValueError(f"none of {len(evaluation.examples)} examples can be ranked: {dict(ranked.skipped)}")
    return ranked


def _pairs(prompt: Prompt, responses: Mapping[str, float]) -> list[ScoredPair]:
    return [ScoredPair(prompt.source.strip(), response, correctness) for response, correctness in responses.items()]


class ResponseLoader:
    """One replica's examples to rank, each exactly once over all replicas, and equally many batches on every replica.

    Where batches run out, a replica is given a row of padding that scores nothing: sharded strategies need every
    replica in every forward.

    Args:
        examples: What is sampled.
        responses: Texts of each example's responses.
        documents: The same as tokenized pairs.
        kind: Rows they are packed into.
        packing: How pairs share rows.
        budget: Most tokens in a batch; an example with more stands alone.
        replicas: Who else evaluates.
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
            arranged = [rows.row(r).tolist() for r in range(len(rows))]
        else:
            arranged = [[]]
        order = np.array([pair for row in arranged for pair in row], dtype=np.int64)
        return ResponseBatch(
            self.kind.collate([[pairs[i] for i in row] for row in arranged], step_targets=len(pairs)),
            torch.from_numpy(np.argsort(order)),
            tuple(self.examples[i] for i in batch),
            tuple(tuple(self.responses[i]) for i in batch),
        )


def _sizes(kind: ScoredRows, pairs: Sequence[TokenizedExample]) -> np.ndarray:
    lengths = np.array([len(pair.input_ids) for pair in pairs], dtype=np.int64)
    return kind.sizes(lengths, np.array([pair.n_source for pair in pairs], dtype=np.int64))


@dataclass(frozen=True)
class ResponseStage:
    """A stage that is evaluated by ranking responses.

    Args:
        name: "validation" or "test".
        evaluated: Its examples and their responses.
        preparation: How a response becomes a document.
        kind: Rows that pairs are packed into.
        packing: How pairs share rows.
        batch_tokens: Most tokens of a batch.
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
        """How many examples are not evaluated, by reason."""
        return self.evaluated.skipped

    def loader(self, here: Replicas, answered: Collection[int]) -> ResponseLoader:
        """The responses of all examples; an interrupted ranking starts again, so that none is `answered`."""
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
        """None: an interrupted ranking starts again."""

    def coverage(self, benchmark: Benchmark, scored: Collection[int]) -> None:
        """None: no table lists tasks whose responses are ranked."""
