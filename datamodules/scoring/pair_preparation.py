"""Preparation of a task for the scorer: render instructions, pair them with responses, label and tokenize the pairs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..evaluation.lossy_tokenization import EQUAL_OPTIONS, are_equal
from ..rendering.prompts import ChatPrompt, rendering_rng
from ..rendering.skipped_examples import skip_reason
from ..rendering.unknown_tokens import UnknownCounter
from ..rouge import ROUGE_L, cannot_score
from ..schema import Example, Task, TokenizedExample
from ..storage.preparation import TOKENIZED_AT_ONCE, Preparation
from ..storage.store import Remark, content_key, folder_name
from .pair_rows import PairFrame, tokenize_texts
from .pairs import (
    NO_MISMATCH,
    CorrectnessLabel,
    DistinctPairs,
    References,
    ScoredPair,
    UnlabelledExample,
    correct_responses,
    correctness_of_responses,
    pairs_as_released,
)
from .samples import ModelSamples

PAIRS_VERSION = 3
"""Version of the pairs, which is part of folders' names: raise it when the same examples give other pairs."""

MISMATCHES = 1
"""Index of the random stream that draws mismatches; prompts are rendered from another one."""

UNUSED_SAMPLES = Remark("examples with options, whose samples are not trained on (augmentation.option_samples)")

SEVERAL_MESSAGES = "conversations of several messages, while a pair in a chat template holds one and its answer"

UNREAD_REFERENCES = Remark(
    "examples with samples whose references ROUGE-L cannot read (augmentation.label: "
    "crosstask.datamodules.rouge.unicode_rouge_l reads all scripts)"
)


@dataclass(frozen=True)
class ScoredPreparation(Preparation):
    """Makes and stores a scorer's training documents: (instruction, response) pairs with a correctness in [0, 1].

    Equal settings give the same folders in the store. The arguments of ``Preparation``, the settings of rendering and
    tokenization, come first.

    Args:
        frame: Special tokens of a pair.
        samples: Responses sampled from language models, which train beside the references.
        label: Function (response, references) -> correctness in [0, 1] that labels a sampled response.
        option_samples: Whether sampled responses to an example with options are trained on, too.
        faithful: Whether pairs are drawn and labelled as in Cappy's released program (``pairs_as_released``).
    """

    frame: PairFrame
    samples: ModelSamples
    label: CorrectnessLabel
    option_samples: bool
    faithful: bool

    def task_folder(self, name: str, *, validated: bool, tested: bool) -> Path:
        """Return the folder of a training task's pairs, which may not exist yet.

        Its name is a digest of everything that decides the pairs: data files, samples, and settings.

        Args:
            name: Name of the task.
            validated: Whether instances of it are held out for validation.
            tested: Whether instances of it are held out for test.
        """
        examples = super().task_folder(name, validated=validated, tested=tested)
        key = content_key(
            examples=examples.name,
            pairs=PAIRS_VERSION,
            frame=self.frame,
            samples=self.samples.fingerprint(name),
            label=(self._label_name(), self.option_samples) if self.samples.of(name) else None,
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
        """Yield the training pairs of a task, and a string for each skipped example: the reason.

        Each (instruction, response) occurs once. If `faithful`, equal references of equal instructions are several
        pairs. A string that is a ``Remark`` is about an example's samples, and the example is not skipped.

        Args:
            task: The task.
            examples: Its training examples.

        Raises:
            ValueError: There are samples of examples that the task does not have.
        """
        examples = list(examples)
        if self.samples.of(task.name):
            self.samples.require_examples(task.name, {example.id for example in self.benchmark.examples(task.name)})
        references, distinct, counter = References(examples), DistinctPairs(), UnknownCounter(self.tokenizer)
        labelled = self._as_released if self.faithful else self._one_by_one
        for item in labelled(task, examples, references):
            if isinstance(item, str):
                yield item
            elif counter.loses_text and are_equal(self.answers(list(dict.fromkeys(pair[:2] for pair in item)))):
                yield EQUAL_OPTIONS
            else:
                yield from item if self.faithful else filter(distinct.add, item)

    def _one_by_one(
        self, task: Task, examples: Sequence[Example], references: References
    ) -> Iterator[list[ScoredPair] | str]:
        """Yield the pairs of each example; every instruction has a wrong response beside a right one."""
        for item in self._unlabelled(task, examples):
            if isinstance(item, str):
                yield item
                continue
            place, one = item
            responses = correctness_of_responses(one.example, references, one.samples, one.rng, label=self.label)
            if isinstance(responses, str):
                yield responses + (", which `faithful: true` does without" if responses == NO_MISMATCH else "")
                continue
            yield [ScoredPair(one.instruction, text, label, place) for text, label in responses.items()]

    def _as_released(
        self, task: Task, examples: Sequence[Example], references: References
    ) -> Iterator[list[ScoredPair] | str]:
        """Yield the pairs of each example, labelled as in Cappy's released program over the whole task."""
        items = list(self._unlabelled(task, examples))
        yield from (item for item in items if isinstance(item, str))
        left = [item for item in items if not isinstance(item, str)]
        labelled = pairs_as_released([one for _, one in left], references, label=self.label)
        for (place, one), responses in zip(left, labelled, strict=True):
            yield [ScoredPair(one.instruction, text, label, place) for text, label in responses]

    def _unlabelled(self, task: Task, examples: Sequence[Example]) -> Iterator[tuple[int, UnlabelledExample] | str]:
        """Yield (index, rendered example with its samples), reasons of skipped examples, and remarks on samples."""
        samples = self.samples.of(task.name)
        rouge = next((name for name, label in ROUGE_L.items() if label is self.label), None)
        for place, example in enumerate(examples):
            reason = skip_reason(task, example) or self.pair_problem(example)
            instruction = "" if reason else self.render(task, example).source.strip()
            if not instruction:
                yield reason or "empty instruction"
                continue
            sampled = samples.get(example.id, ())
            if sampled and example.options and not self.option_samples:
                sampled = ()
                yield UNUSED_SAMPLES
            if sampled and rouge and cannot_score(correct_responses(example), rouge):
                yield UNREAD_REFERENCES
            yield (
                place,
                UnlabelledExample(
                    example, instruction, sampled, rendering_rng(self.seed, task.name, example.id, MISMATCHES)
                ),
            )

    def pair_problem(self, example: Example) -> str | None:
        """Return the reason why the pairs of an example cannot hold it, or None."""
        return SEVERAL_MESSAGES if isinstance(self.prompt, ChatPrompt) and len(example.turns) > 2 else None

    def tokenize_scored(self, pairs: list[ScoredPair]) -> list[TokenizedExample]:
        """Tokenize pairs of instruction and response without truncation; each distinct text is tokenized once."""
        ids = tokenize_texts(self.tokenizer, [text for pair in pairs for text in pair[:2]])
        return [
            self.frame.join(ids[pair.instruction], ids[pair.response], pair.correctness, pair.example) for pair in pairs
        ]

    def answers(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedExample]:
        """Tokenize pairs (instruction, response) whose label does not matter; it is 0. Nothing is truncated."""
        return self.tokenize_scored([ScoredPair(source.strip(), text, 0.0) for source, text in pairs])

    def _documents(self, task: Task, examples: Iterable[Example]) -> Iterator[TokenizedExample | str]:
        pairs, counter = self.pairs(task, examples), UnknownCounter(self.tokenizer)
        while chunk := list(islice(pairs, TOKENIZED_AT_ONCE)):
            yield from (item for item in chunk if isinstance(item, str))
            scored = [item for item in chunk if not isinstance(item, str)]
            for pair, document in zip(scored, self.tokenize_scored(scored), strict=True):
                yield document._replace(unknown=counter.of_document(document, pair.instruction, pair.response))
