"""Examples whose options are ranked, dealt to replicas without repeats."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..packing.budget_batches import budget_batches
from ..packing.replicas import Replicas
from ..schema import EvaluationExample, TokenizedExample
from .option_batches import OptionRows, RankBatch, RankedExample
from .options import Tree, tree_columns
from .prompt_loader import unanswered


class RankLoader:
    """One replica's examples to rank, each exactly once over all replicas, and equally many batches on every replica.

    Batches are the same whoever ranks them, and so are their scores. Where batches run out, a replica is given a row of
    padding that ranks nothing: sharded strategies need every replica in every forward.

    Args:
        examples: What is asked; their options are the options.
        documents: Each example's options, from ``tokenize_options``.
        rows: How they become rows of the model.
        budget: Most tokens in a batch; an example with more stands alone.
        replicas: Who else evaluates.
        unconditional: The document of every option after a prompt that says nothing, by its text; empty where nobody
            compares with it.
        answered: Numbers of examples that are answered already, read whenever iteration begins.

    Raises:
        ValueError: A option is longer than the model reads; names its task and example.
    """

    def __init__(
        self,
        examples: Sequence[EvaluationExample],
        documents: Sequence[Sequence[TokenizedExample]],
        *,
        rows: OptionRows,
        budget: int,
        replicas: Replicas,
        unconditional: Mapping[str, TokenizedExample] | None = None,
        answered: Collection[int] = (),
    ) -> None:
        self.examples, self.rows, self.replicas, self.answered = examples, rows, replicas, answered
        self.trees = [_trees(rows, *each) for each in zip(examples, documents, strict=True)]
        self.unconditional = {text: rows.trees([document]) for text, document in (unconditional or {}).items()}
        self._batches = budget_batches([tree_columns(trees) for trees in self.trees], budget)

    def __len__(self) -> int:
        return len(self._mine())

    def __iter__(self) -> Iterator[RankBatch]:
        return map(self._collate, self._mine())

    def _mine(self) -> list[list[int]]:
        return self.replicas.equal_share(unanswered(self._batches, self.examples, self.answered))

    def _collate(self, batch: Sequence[int]) -> RankBatch:
        examples = [self.examples[i] for i in batch]
        texts = [tuple(option.strip() for option in example.options) for example in examples]
        n_exemplars = sum(map(len, texts))
        alone = dict.fromkeys(text for group in texts for text in group if self.unconditional)
        place_of = {text: n_exemplars + place for place, text in enumerate(alone)}
        ranked, first = [], 0
        for example, group in zip(examples, texts, strict=True):
            ranked.append(RankedExample(example, first, tuple(place_of[text] for text in group if place_of)))
            first += len(group)
        return self.rows.collate(
            [*(self.trees[i] for i in batch), *(self.unconditional[text] for text in alone)], ranked
        )


def _trees(rows: OptionRows, example: EvaluationExample, documents: Sequence[TokenizedExample]) -> list[Tree]:
    try:
        return rows.trees(documents)
    except ValueError as error:
        raise ValueError(f"task {example.task}, example {example.id!r}: {error}") from error
