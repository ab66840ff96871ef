"""From a benchmark's task to its folder in the store: choose instances, render, tokenize, write. Done once."""

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..benchmarks import Benchmark
from ..rendering.chat import tokenize_chat_sources, tokenize_chats
from ..rendering.chosen_demonstrations import Chosen, chosen_examples
from ..rendering.demonstrations import (
    DEMONSTRATION_STREAM,
    POOL_SIZE,
    Demonstrations,
    choose_demonstrations,
    conversation_with_demonstrations,
    with_demonstrations,
    without_example,
)
from ..rendering.example_cache import ExampleCache, ExampleSubset
from ..rendering.prompts import ChatPrompt, PromptForm, rendering_rng
from ..rendering.skipped_examples import skip_reason
from ..rendering.special_tokens import encode, leading_tokens
from ..rendering.text_objectives import (
    OBJECTIVE_STREAM,
    OBJECTIVE_VERSION,
    TOO_SHORT,
    TextDocuments,
    TextObjective,
    piece_count,
)
from ..rendering.tokenization import tokenize_joint, tokenize_pair, tokenize_sources, tokenizer_fingerprint
from ..rendering.unknown_tokens import UnknownCounter
from ..schema import Example, Prompt, Task, TokenizedExample
from ..splits import EVALUATED, Instances, InstanceSplit, choose_prompts, prompt_keys
from .store import content_key, damage, folder_name, remove_damaged, write_task

DEMONSTRATED = 2
"""Part of the key of documents with demonstrations: raise it when they are to be rendered differently."""

Documents = Iterator[TokenizedExample | str]

TOKENIZED_AT_ONCE = 1024  # texts handed to the tokenizer in one call, which it spreads over the cores


@dataclass(frozen=True)
class Preparation:
    """Settings that decide the training documents of a task; equal preparations share their folders.

    Args:
        benchmark: Source of tasks and examples.
        prompt: The form they are rendered in.
        tokenizer: Turns text into ids.
        pair: Whether source and target are tokenized apart, for an encoder-decoder model.
        bos: Whether the bos token begins a document; None for what the tokenizer adds by itself.
        instances: Numbers of instances for training, validation and test.
        seed: Decides renderings and which instances train.
        folder: Root of the store.
        demonstrations: Demonstrations in training prompts; None for none.
        chosen: Those that come first, by task.
    """

    benchmark: Benchmark
    prompt: PromptForm
    tokenizer: PreTrainedTokenizerBase
    pair: bool
    bos: bool | None
    instances: Instances
    seed: int
    folder: Path
    demonstrations: Demonstrations | None = field(default=None, kw_only=True)
    chosen: Chosen = field(default_factory=dict, kw_only=True)

    def task_folder(self, name: str, *, validated: bool, tested: bool) -> Path:
        """The folder of a training task's documents, which may not exist yet."""
        objective = self.objective(name)
        key = content_key(
            task=self.benchmark.fingerprint(name),
            prompt=self.prompt.fingerprint(),
            tokenizer=tokenizer_fingerprint(self.tokenizer),
            pair=self.pair,
            leading=leading_tokens(self.tokenizer, self.bos),
            counts=self._counts(name),
            validated=validated,
            tested=tested,
            **self._demonstrated(name),
            **({"objective": f"{OBJECTIVE_VERSION} {objective!r}"} if objective else {}),
        )
        return self.folder / folder_name(name, key)

    def _demonstrated(self, name: str) -> dict[str, str]:
        """What decides the demonstrations of a task; not the folder's name, whose contents may change."""
        if self.demonstrations is None:
            return {}
        settings = repr(replace(self.demonstrations, chosen=None)).replace(", chosen=None", "")
        return {"demonstrations": f"{DEMONSTRATED} {settings}"} | (
            {"chosen": " ".join(self.chosen[name])} if name in self.chosen else {}
        )

    def split_instances(
        self, name: str, examples: Iterable[Example], *, trained: bool, validated: bool, tested: bool
    ) -> InstanceSplit:
        """The split of a task's prompts into training, validation and test.

        Args:
            name: Task.
            examples: All its examples.
            trained: Whether it is a training task.
            validated: Whether it is a validation task.
            tested: Whether it is a test task.
        """
        return choose_prompts(
            name,
            prompt_keys(examples),
            trained=trained,
            **self.instances.held_out(name, validated=validated, tested=tested),
            held_out_share=self.instances.held_out_share,
            limit=self.instances.train_limit(name),
            validation_prompts=self.instances.validation_prompts,
            every_prompt=self.instances.every_prompt,
            seed=self.seed,
        )

    def _counts(self, name: str) -> dict[str, float | None]:
        """Counts and seed that decide which instances of a task train."""
        counts: dict[str, float | None] = {**self.instances.held_out(name, validated=True, tested=True)}
        counts |= {"limit": self.instances.train_limit(name), "share": self.instances.held_out_share, "seed": self.seed}
        return {**counts, "every_prompt": True} if self.instances.every_prompt else counts

    def objective(self, name: str) -> TextObjective | None:
        """The objective of a task's text; None for other tasks.

        Raises:
            ValueError: The model is decoder-only, and learns all of a text.
        """
        objective = self.benchmark.objective(name)
        if objective is not None and not self.pair:
            raise ValueError(
                f"task {name!r} has the objective {type(objective).__name__}, which makes source and target for an "
                "encoder-decoder model: set rows.target_length, or leave out the objective for a decoder-only model"
            )
        return objective

    def render(self, task: Task, example: Example) -> Prompt:
        """The prompt of an example by itself."""
        return self._form(example)(task, example, rendering_rng(self.seed, task.name, example.id))

    def _form(self, example: Example) -> PromptForm:
        """The form of an example's prompt: a conversation is one in every form."""
        return ChatPrompt() if example.turns and not isinstance(self.prompt, ChatPrompt) else self.prompt

    def render_after(
        self, task: Task, example: Example, shown: Sequence[Example], separator: str, *, suffix_loss: bool = False
    ) -> Prompt:
        """The prompt of an example after solved ones, which are earlier turns of a conversation."""
        form = self._form(example)

        def generator() -> random.Random:
            return rendering_rng(self.seed, task.name, example.id)

        if isinstance(form, ChatPrompt):
            return conversation_with_demonstrations(
                form, task, example, shown, generator, separator, suffix_loss=suffix_loss
            )
        return with_demonstrations(form, task, example, shown, generator, separator, suffix_loss=suffix_loss)

    def tokenize(self, prompts: list[Prompt]) -> list[TokenizedExample]:
        """Documents of prompts; conversations in the tokenizer's chat template."""
        self._reject_pairs(prompts)
        tokenize = tokenize_pair if self.pair else tokenize_joint
        return _by_kind(
            prompts,
            chats=lambda chats: tokenize_chats(self.tokenizer, chats),
            texts=lambda texts: tokenize(self.tokenizer, texts, bos=self.bos),
        )

    def tokenize_sources(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids up to where the targets of prompts begin; of a conversation, its last answer."""
        self._reject_pairs(prompts)
        return _by_kind(
            prompts,
            chats=lambda chats: tokenize_chat_sources(self.tokenizer, chats),
            texts=lambda texts: tokenize_sources(
                self.tokenizer, [prompt.source for prompt in texts], pair=self.pair, bos=self.bos
            ),
        )

    def _reject_pairs(self, prompts: Sequence[Prompt]) -> None:
        if self.pair and any(prompt.turns for prompt in prompts):
            raise ValueError(
                "an encoder-decoder model reads no conversations: tune a decoder-only model on them, or save each "
                "conversation as a prompt and its completion"
            )

    def answers(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedExample]:
        """Documents of (source, possible answer)."""
        return self.tokenize([Prompt(*pair) for pair in pairs]) if pairs else []

    def write(self, name: str, *, validated: bool, tested: bool, verified: bool = False) -> int | None:
        """Prepare one training task and return its number of documents; None if the store holds it.

        A damaged folder is reported and written again; with `verified`, all of its files are read for this.
        """
        folder = self.task_folder(name, validated=validated, tested=tested)
        if folder.exists():
            problem = damage(folder, fully=verified)
            if problem is None:
                return None
            warnings.warn(f"{problem}; writing it again", stacklevel=2)
            remove_damaged(folder)
        task = self.benchmark.task(name)
        examples, chosen = self._chosen(name, validated=validated, tested=tested)
        return write_task(
            folder,
            chain([EVALUATED] * len(chosen.repeated), self._documents(task, examples.subset(chosen.train))),
            vocabulary=len(self.tokenizer),
            about={
                "task": task.name,
                "category": task.category,
                "benchmark": task.benchmark,
                "reduced": chosen.reduced,
            },
        )

    def training_examples(self, name: str, *, validated: bool, tested: bool) -> ExampleSubset:
        """The training examples of a task in the order of its documents, with those that are skipped."""
        examples, chosen = self._chosen(name, validated=validated, tested=tested)
        return examples.subset(chosen.train)

    def _chosen(self, name: str, *, validated: bool, tested: bool) -> tuple[ExampleCache, InstanceSplit]:
        examples = ExampleCache(lambda: self.benchmark.examples(name))
        return examples, self.split_instances(name, examples, trained=True, validated=validated, tested=tested)

    def _documents(self, task: Task, examples: ExampleSubset) -> Documents:
        objective = self.objective(task.name)
        documents_of = self._text_documents(objective) if objective else self._prompt_documents(task, examples)
        remaining = iter(examples)
        while chunk := list(islice(remaining, TOKENIZED_AT_ONCE)):
            reasons = [skip_reason(task, example) for example in chunk]
            yield from (reason for reason in reasons if reason)
            if kept := [example for example, reason in zip(chunk, reasons, strict=True) if not reason]:
                yield from documents_of(kept)

    def _prompt_documents(self, task: Task, examples: ExampleSubset) -> Callable[[list[Example]], Documents]:
        """A function that makes the documents of some of a task's training examples."""
        render, counter = self._training_renderer(task, examples), UnknownCounter(self.tokenizer)

        def documents_of(some: list[Example]) -> Documents:
            prompts = [render(example) for example in some]
            for prompt, document in zip(prompts, self.tokenize(prompts), strict=True):
                yield document._replace(unknown=counter.of_document(document, prompt.source, prompt.target))

        return documents_of

    def _text_documents(self, objective: TextObjective) -> Callable[[list[Example]], Documents]:
        """A function that makes the documents of texts; the unknown tokens of a text count at its first piece."""
        pieces, counter = TextDocuments(objective, self.tokenizer, self.bos), UnknownCounter(self.tokenizer)

        def documents_of(some: list[Example]) -> Documents:
            texts = [example.targets[0] for example in some]
            for example, text, ids in zip(some, texts, encode(self.tokenizer, texts), strict=True):
                rng = rendering_rng(self.seed, example.task, example.id, OBJECTIVE_STREAM)
                documents = pieces.documents(ids, rng)
                if documents:
                    lost = counter.of_document(TokenizedExample(np.array(ids), 0), "", text)
                    yield documents[0]._replace(unknown=lost)
                    yield from documents[1:]
                else:
                    yield TOO_SHORT

        return documents_of

    def document_examples(self, task: Task, examples: Iterable[Example]) -> list[Example]:
        """The example that each document of some training examples is made of; a long text has several documents."""
        kept = [example for example in examples if skip_reason(task, example) is None]
        if (objective := self.objective(task.name)) is None:
            return kept
        ids = encode(self.tokenizer, [example.targets[0] for example in kept])
        counts = [piece_count(len(of_text), objective.length) for of_text in ids]
        return [example for example, count in zip(kept, counts, strict=True) for _ in range(count)]

    def pool(self, task: Task, examples: ExampleSubset) -> list[Example]:
        """The training examples of a task that its demonstrations are drawn from."""
        drawn = examples.sample(POOL_SIZE, (self.seed, task.name))
        return [example for example in drawn if skip_reason(task, example) is None]

    def chosen_first(self, task: Task, examples: ExampleSubset) -> list[Example]:
        """The chosen demonstrations of a training task, among its training examples."""
        return chosen_examples(self.chosen, task.name, list(examples)) if task.name in self.chosen else []

    def _training_renderer(self, task: Task, examples: ExampleSubset) -> Callable[[Example], Prompt]:
        settings = self.demonstrations
        if settings is None:
            return lambda example: self.render(task, example)
        pool, first = self.pool(task, examples), self.chosen_first(task, examples)
        rest = [example for example in pool if example not in first]

        def render(example: Example) -> Prompt:
            rng = rendering_rng(self.seed, task.name, example.id, DEMONSTRATION_STREAM)
            number, chosen = settings.draw_number(rng), without_example(first, example)
            drawn = choose_demonstrations(rest, example, max(number - len(chosen), 0), rng)
            shown = [*chosen, *drawn][:number]
            return self.render_after(task, example, shown, settings.separator, suffix_loss=settings.suffix_loss)

        return render


Tokens = TypeVar("Tokens")


def _by_kind(
    prompts: Sequence[Prompt],
    *,
    chats: Callable[[list[Prompt]], list[Tokens]],
    texts: Callable[[list[Prompt]], list[Tokens]],
) -> list[Tokens]:
    """The tokens of conversations and of other prompts, in the order of the prompts."""
    kinds = [bool(prompt.turns) for prompt in prompts]
    parts = {
        kind: iter(tokenize([prompt for prompt in prompts if bool(prompt.turns) == kind]) if kind in kinds else [])
        for kind, tokenize in ((True, chats), (False, texts))
    }
    return [next(parts[kind]) for kind in kinds]
