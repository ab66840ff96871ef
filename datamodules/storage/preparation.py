"""Preparation of one task: choose its training instances, render them as prompts, tokenize, and write the documents."""

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
from ..rendering.pretraining_objectives import (
    OBJECTIVE_STREAM,
    OBJECTIVE_VERSION,
    TOO_SHORT,
    TextDocuments,
    TextObjective,
    piece_count,
)
from ..rendering.prompts import ChatPrompt, PromptForm, rendering_rng
from ..rendering.skipped_examples import skip_reason
from ..rendering.special_tokens import encode, leading_tokens
from ..rendering.tokenization import tokenize_joint, tokenize_pair, tokenize_sources, tokenizer_fingerprint
from ..rendering.unknown_tokens import UnknownCounter
from ..schema import Example, Prompt, Task, TokenizedExample
from ..splits import EVALUATED, Instances, InstanceSplit, choose_prompts, prompt_keys
from .store import content_key, damage, folder_name, remove_damaged, write_task

DEMONSTRATED = 2
"""Version of few-shot documents, which is part of their folder's name: raise it when their rendering changes."""

Documents = Iterator[TokenizedExample | str]
"""Documents of a task; a string is the reason why an example is skipped."""

TOKENIZED_AT_ONCE = 1024  # texts handed to the tokenizer in one call, which it spreads over the cores


@dataclass(frozen=True)
class Preparation:
    """Renders and tokenizes the examples of tasks, and writes the training documents of each task to a folder.

    Equal settings give the same folders, so that nothing is tokenized twice.

    Args:
        benchmark: Source of tasks and examples.
        prompt: The format in which an example becomes a prompt (source, target).
        tokenizer: Tokenizer of the model.
        pair: True for an encoder-decoder model, whose source and target are tokenized apart; False for a decoder-only
            model, which reads them as one text.
        bos: Whether documents begin with the bos token; None for the tokenizer's default.
        instances: Numbers of instances for training, validation and test.
        seed: Seed of the renderings, and of the choice of training instances.
        folder: Root of the store.
        demonstrations: Settings of the demonstrations in training prompts; None for zero-shot prompts.
        chosen: Ids of examples that come first among the demonstrations of a task, by task.
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
        """Return the folder of a training task's tokenized examples, which may not exist yet.

        Its name is a digest of everything that decides the tokens, the contents of the task's data files included.

        Args:
            name: Name of the task.
            validated: Whether instances of it are held out for validation.
            tested: Whether instances of it are held out for test.
        """
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
        """Return the settings of a task's demonstrations, the path of the chosen ones excepted: its file may change."""
        if self.demonstrations is None:
            return {}
        settings = repr(replace(self.demonstrations, chosen=None)).replace(", chosen=None", "")
        return {"demonstrations": f"{DEMONSTRATED} {settings}"} | (
            {"chosen": " ".join(self.chosen[name])} if name in self.chosen else {}
        )

    def split_instances(
        self, name: str, examples: Iterable[Example], *, trained: bool, validated: bool, tested: bool
    ) -> InstanceSplit:
        """Split a task's prompts into training, validation and test.

        Args:
            name: Name of the task.
            examples: All examples of the task.
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
        """Return the counts and the seed that decide which instances of a task train."""
        counts: dict[str, float | None] = {**self.instances.held_out(name, validated=True, tested=True)}
        counts |= {"limit": self.instances.train_limit(name), "share": self.instances.held_out_share, "seed": self.seed}
        return {**counts, "every_prompt": True} if self.instances.every_prompt else counts

    def objective(self, name: str) -> TextObjective | None:
        """Return the pre-training objective (e.g. span corruption) of a task of text; None if the task has none.

        Raises:
            ValueError: The task has an objective, and the model is decoder-only.
        """
        objective = self.benchmark.objective(name)
        if objective is not None and not self.pair:
            raise ValueError(
                f"task {name!r} has the objective {type(objective).__name__}, which makes source and target for an "
                "encoder-decoder model: set rows.target_length, or leave out the objective for a decoder-only model"
            )
        return objective

    def render(self, task: Task, example: Example) -> Prompt:
        """Return the zero-shot prompt of an example."""
        return self._form(example)(task, example, rendering_rng(self.seed, task.name, example.id))

    def _form(self, example: Example) -> PromptForm:
        """Return the form of an example's prompt; the form of a conversation is always ``ChatPrompt``."""
        return ChatPrompt() if example.turns and not isinstance(self.prompt, ChatPrompt) else self.prompt

    def render_after(
        self,
        task: Task,
        example: Example,
        demonstrations: Sequence[Example],
        separator: str,
        *,
        suffix_loss: bool = False,
    ) -> Prompt:
        """Return the few-shot prompt of an example. In a conversation, demonstrations are its first turns.

        Args:
            task: The example's task.
            example: The example to solve.
            demonstrations: Solved examples, in order.
            separator: Text between two demonstrations.
            suffix_loss: Whether everything after the first demonstration's input is target, or the example's target
                alone.
        """
        form = self._form(example)

        def generator() -> random.Random:
            return rendering_rng(self.seed, task.name, example.id)

        if isinstance(form, ChatPrompt):
            return conversation_with_demonstrations(
                form, task, example, demonstrations, generator, separator, suffix_loss=suffix_loss
            )
        return with_demonstrations(form, task, example, demonstrations, generator, separator, suffix_loss=suffix_loss)

    def query(self, task: Task, example: Example) -> str:
        """Return the text with which the few-shot prompt of an example ends; empty for a conversation."""
        form = self._form(example)
        if isinstance(form, ChatPrompt):
            return ""
        return form.parts(task, example, rendering_rng(self.seed, task.name, example.id)).query

    def tokenize(self, prompts: list[Prompt]) -> list[TokenizedExample]:
        """Tokenize prompts with their targets, as for training; conversations are rendered by the chat template.

        Raises:
            ValueError: A prompt is a conversation, and the model is an encoder-decoder.
        """
        self._reject_pairs(prompts)
        tokenize = tokenize_pair if self.pair else tokenize_joint
        return _by_kind(
            prompts,
            chats=lambda chats: tokenize_chats(self.tokenizer, chats),
            texts=lambda texts: tokenize(self.tokenizer, texts, bos=self.bos),
        )

    def tokenize_sources(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Tokenize prompts without their targets, as for evaluation; the target of a conversation is its last answer.

        Raises:
            ValueError: A prompt is a conversation, and the model is an encoder-decoder.
        """
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
        """Tokenize pairs (source, answer) as for training, e.g. a question with each of its options."""
        return self.tokenize([Prompt(*pair) for pair in pairs]) if pairs else []

    def write(self, name: str, *, validated: bool, tested: bool, verified: bool = False) -> int | None:
        """Tokenize a training task to disk, and return the number of its documents; None if it is there already.

        A damaged folder is reported and written again.

        Args:
            name: Name of the task.
            validated: Whether instances of it are held out for validation.
            tested: Whether instances of it are held out for test.
            verified: Whether to read the files of an existing folder and compare their checksums, or their sizes alone.
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
        """Return the training examples of a task in the order in which they are stored, skipped ones included.

        Args:
            name: Name of the task.
            validated: Whether instances of it are held out for validation.
            tested: Whether instances of it are held out for test.
        """
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
        """Return a function from training examples of a task to their documents."""
        render, counter = self._training_renderer(task, examples), UnknownCounter(self.tokenizer)

        def documents_of(some: list[Example]) -> Documents:
            prompts = [render(example) for example in some]
            for prompt, document in zip(prompts, self.tokenize(prompts), strict=True):
                yield document._replace(unknown=counter.of_document(document, prompt.source, prompt.target))

        return documents_of

    def _text_documents(self, objective: TextObjective) -> Callable[[list[Example]], Documents]:
        """Return a function from texts to documents; the unknown tokens of a text are counted in its first document."""
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
        """Return the example that each stored document was made from; a long text makes several, a skipped one none.

        Args:
            task: The task.
            examples: Its training examples, in the order of the documents.
        """
        kept = [example for example in examples if skip_reason(task, example) is None]
        if (objective := self.objective(task.name)) is None:
            return kept
        ids = encode(self.tokenizer, [example.targets[0] for example in kept])
        counts = [piece_count(len(of_text), objective.length) for of_text in ids]
        return [example for example, count in zip(kept, counts, strict=True) for _ in range(count)]

    def pool(self, task: Task, examples: ExampleSubset) -> list[Example]:
        """Return a random sample of a task's training examples, from which its demonstrations are drawn."""
        drawn = examples.sample(POOL_SIZE, (self.seed, task.name))
        return [example for example in drawn if skip_reason(task, example) is None]

    def chosen_first(self, task: Task, examples: ExampleSubset) -> list[Example]:
        """Return the examples that were chosen as demonstrations of a training task (``chosen``); [] if none were.

        Args:
            task: The task.
            examples: Its training examples.
        """
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
    """Tokenize conversations by `chats` and other prompts by `texts`; return the results in the prompts' order."""
    kinds = [bool(prompt.turns) for prompt in prompts]
    parts = {
        kind: iter(tokenize([prompt for prompt in prompts if bool(prompt.turns) == kind]) if kind in kinds else [])
        for kind, tokenize in ((True, chats), (False, texts))
    }
    return [next(parts[kind]) for kind in kinds]
