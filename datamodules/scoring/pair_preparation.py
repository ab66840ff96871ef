"""Preparing a benchmark's task as scored pairs in the store: render, pair, label, tokenize, write; done once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..evaluation.lost_text import EQUAL_OPTIONS, are_equal
from ..rendering.prompts import rendering_rng
from ..rendering.tokenization import skip_reason
from ..rendering.unknown_tokens import UnknownCounter
from ..schema import Example, Task, TokenizedExample
from ..storage.preparation import TOKENIZED_AT_ONCE, Preparation
from ..storage.store import content_key, folder_name
from .pair_rows import PairFrame, tokenize_texts
from .pairs import (
    CorrectnessLabel,
    DistinctPairs,
    References,
    ScoredPair,
    correctness_as_released,
    correctness_of_responses,
)
from .samples import ModelSamples

PAIRS_VERSION = 2
"""Part of every folder's name; raise it when the same examples give other pairs."""

MISMATCHES = 1
"""Index of the random stream that draws mismatches; prompts have another one."""


@dataclass(frozen=True)
class ScoredPreparation(Preparation):
    """The settings that decide a task's pairs; equal preparations share their folders.

    Args:
        frame: The special tokens of a pair.
        samples: Responses of language models.
        label: Correctness of a sampled response.
        faithful: Whether mismatches are drawn as Cappy's released program draws them.
    """

    frame: PairFrame
    samples: ModelSamples
    label: CorrectnessLabel
    faithful: bool

    def task_folder(self, name: str, *, validated: bool, tested: bool) -> Path:
        """The folder of a training task's pairs."""
        examples = super().task_folder(name, validated=validated, tested=tested)
        key = content_key(
            examples=examples.name,
            pairs=PAIRS_VERSION,
            frame=self.frame,
            samples=self.samples.fingerprint(name),
            label=self._label_name() if self.samples.of(name) else None,
            faithful=self.faithful,
        )
        return examples.with_name(folder_name(name, key))

    def _label_name(self) -> str:
        name = f"{getattr(self.label, '__module__', '')}.{getattr(self.label, '__qualname__', '<')}"
        if "<" in name:
            raise ValueError(
                f"the label of samples must be a module's function, so that its name identifies the pairs, got {name}"
            )
        return name

    def pairs(self, task: Task, examples: Iterable[Example]) -> Iterator[ScoredPair | str]:
        """The training pairs of a task, each (instruction, response) once; a skipped example gives its reason."""
        examples = list(examples)
        samples = self.samples.of(task.name)
        if samples:
            self.samples.require_examples(task.name, {example.id for example in self.benchmark.examples(task.name)})
        references, distinct, counter = References(examples), DistinctPairs(), UnknownCounter(self.tokenizer)
        labelled = correctness_as_released if self.faithful else correctness_of_responses
        for place, example in enumerate(examples):
            if reason := skip_reason(task, example):
                yield reason
                continue
            instruction = self.render(task, example).source.strip()
            if not instruction:
                yield "empty instruction"
                continue
            rng = rendering_rng(self.seed, task.name, example.id, MISMATCHES)
            responses = labelled(example, references, samples.get(example.id, ()), rng, label=self.label)
            if isinstance(responses, str):
                yield responses
                continue
            if counter.loses_text and are_equal(self.answers([(instruction, response) for response in responses])):
                yield EQUAL_OPTIONS
                continue
            pairs = (ScoredPair(instruction, response, label, place) for response, label in responses.items())
            yield from filter(distinct.add, pairs)

    def tokenize_scored(self, pairs: list[ScoredPair]) -> list[TokenizedExample]:
        """Pairs as documents of any length; each distinct text is tokenized once."""
        ids = tokenize_texts(self.tokenizer, [text for pair in pairs for text in pair[:2]])
        return [
            self.frame.join(ids[pair.instruction], ids[pair.response], pair.correctness, pair.example) for pair in pairs
        ]

    def answers(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedExample]:
        """Documents of (instruction, possible response)."""
        return self.tokenize_scored([ScoredPair(source.strip(), text, 0.0) for source, text in pairs])

    def _documents(self, task: Task, examples: Iterable[Example]) -> Iterator[TokenizedExample | str]:
        pairs, counter = self.pairs(task, examples), UnknownCounter(self.tokenizer)
        while chunk := list(islice(pairs, TOKENIZED_AT_ONCE)):
            yield from (item for item in chunk if isinstance(item, str))
            scored = [item for item in chunk if not isinstance(item, str)]
            for pair, document in zip(scored, self.tokenize_scored(scored), strict=True):
                yield document._replace(unknown=counter.of_document(document, pair.instruction, pair.response))
