"""Prompt forms: each renders an example as a source, which the model reads, and a target, which it should write.

A form is a frozen dataclass that is called with a task, an example and a random generator. It is a pure function of the
three: with the generator of ``rendering_rng``, an example has the same prompt in any order of calls.

tokenization.py joins source and target, and strips the spaces at the source's end. Here a source ends as its paper
prints it (Tk-Instruct's ends in a space); a target has no white space at its end.
"""

import hashlib
import json
import random
import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Literal, NamedTuple, TypeVar

from ..schema import Demonstration, Example, Prompt, Task, Turn

PROMPT_VERSION = 2
"""Part of every form's fingerprint: raise it when a form of this file renders differently."""

OPT_IML_DELIMITERS = (
    "\nAnswer:",
    " Answer:",
    "\nA:",
    " A:",
    "\nOutput:",
    " Output:",
    "\nanswer:",
    "\noutput:",  # printed as "\output:" in the paper's footnote; its Appendix C shows a newline
)
"""Texts between instructions and answer in OPT-IML (arXiv 2212.12017, section 2.4)."""

Choice = TypeVar("Choice")


class PromptParts(NamedTuple):
    """A rendered example in parts, so that few-shot prompts can insert demonstrations between instructions and query.

    Args:
        instructions: Text that a few-shot prompt has only once; empty if every example has its own instructions.
        joint: Text between instructions and query in a prompt without demonstrations.
        query: The example up to where its target begins.
        target: Text that the model should write.
    """

    instructions: str
    joint: str
    query: str
    target: str

    @property
    def source(self) -> str:
        """The source of a prompt without demonstrations."""
        return self.instructions + self.joint + self.query


class PromptForm(ABC):
    """Base class of prompt formats: a subclass renders an example as source (read by the model) and target (trained).

    A subclass is a frozen dataclass whose fields are its settings.
    """

    # A base class rather than a protocol: jsonargparse then finds forms by their short names, accepts one as an
    # argument's default, and prints it in --print_config.

    @abstractmethod
    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        """Return the prompt of an example; every random choice is drawn from `rng`."""

    def parts(self, task: Task, example: Example, rng: random.Random) -> PromptParts:
        """Return the prompt of an example in parts, so that few-shot prompts can insert demonstrations between them.

        Args:
            task: The example's task.
            example: The example to render.
            rng: Generator of every random choice.

        Raises:
            ValueError: The format has no place for demonstrations of other examples.
        """
        raise ValueError(f"{type(self).__name__} has no place for demonstrations of other examples; use OptImlPrompt")

    def fingerprint(self) -> str:
        """Return a SHA-256 of class, fields and PROMPT_VERSION; tokenized prompts on disk are reused if it is equal.

        If you change the code of your own subclass so that it renders differently, change a field, e.g.
        ``version: int = 2``.

        Raises:
            ValueError: The class is not a dataclass, or a field does not print its value.
        """
        settings = repr(self)
        if not is_dataclass(self) or " at 0x" in settings:
            raise ValueError(
                "a prompt form must be a frozen dataclass whose fields print their values (text, numbers, "
                f"tuples), because they identify prepared data; got {settings}"
            )
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return hashlib.sha256(f"{PROMPT_VERSION} {name} {settings}".encode()).hexdigest()


@dataclass(frozen=True)
class OptImlPrompt(PromptForm):
    """Renders prompts in OPT-IML's format (arXiv 2212.12017, section 2.4): instructions, delimiter, answer.

    If one instruction serves the whole task, the source is the task's definition, then the input, both with field names
    that vary. If each example has its own instructions, its input is the whole source. The delimiter is drawn per
    example, and omitted if the instructions end with a colon. An example without input (dialogue, pre-training text)
    has an empty source.

    The paper does not state how it drew field names. The default shares are those of the ten prompts of
    Super-NaturalInstructions in its Appendix C: 3 definitions begin with "Instructions:", 1 with "Task:", and 3 inputs
    with "Input:". Definition and input are drawn independently.

    Args:
        delimiters: Texts between instructions and answer, drawn uniformly; ``[""]`` inserts nothing.
        instructions_share: Share of examples whose definition begins with "Instructions: ".
        task_share: Share of examples whose definition begins with "Task: "; the others have no field name.
        input_share: Share of examples whose input begins with "Input: ".
    """

    delimiters: tuple[str, ...] = OPT_IML_DELIMITERS
    instructions_share: float = 0.3
    task_share: float = 0.1
    input_share: float = 0.3

    def __post_init__(self) -> None:
        if not self.delimiters:
            raise ValueError('delimiters must name at least one text; use [""] to insert nothing')
        shares = (self.instructions_share, self.task_share, self.input_share)
        if not all(0 <= share <= 1 for share in (*shares, self.instructions_share + self.task_share)):
            raise ValueError(
                "shares must lie in [0, 1], and instructions_share + task_share too, "
                f"got {self.instructions_share}, {self.task_share} and input_share {self.input_share}"
            )

    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        parts = self.parts(task, example, rng)
        return Prompt(parts.source, parts.target)

    def parts(self, task: Task, example: Example, rng: random.Random) -> PromptParts:
        """Return the definition as instructions, and input and delimiter as query.

        If the input has its own instructions and begins with the task's definition, the definition is split off from
        it.
        """
        # All four draws are made for every example, so that no draw depends on the result of another.
        definition_name, input_name = self._field_names(rng.random(), rng.random())
        delimiter = _choose(self.delimiters, rng)
        target = _drawn_target(example, rng)
        instructions, query = "", example.input.strip()
        definition = task.definition.strip()
        if task.instruction_level == "task":
            instructions = definition_name + definition if definition else ""
            query = input_name + query if query else ""
        elif definition and query.startswith(definition) and query != definition:
            instructions, query = definition, query.removeprefix(definition)
        text = query.lstrip()
        # An instance-level input keeps its own white space behind the definition.
        joint = query[: len(query) - len(text)] if task.instruction_level == "instance" else "\n"
        last = text or instructions
        if not last or last.endswith(":"):
            delimiter = ""
        return PromptParts(instructions, joint if instructions and text else "", text + delimiter, target)

    def _field_names(self, definition_draw: float, input_draw: float) -> tuple[str, str]:
        definition_name = ""
        if definition_draw < self.instructions_share:
            definition_name = "Instructions: "
        elif definition_draw < self.instructions_share + self.task_share:
            definition_name = "Task: "
        return definition_name, "Input: " if input_draw < self.input_share else ""


@dataclass(frozen=True)
class TkInstructPrompt(PromptForm):
    """Renders prompts in Tk-Instruct's format (arXiv 2204.07705): definition, demonstrations, the input to complete.

    A line that does not end in punctuation gets a full stop; the target is unchanged. The definition is
    ``task.definition``, which is the first one if a task's file lists several. A demonstration that would reveal the
    example's answer is replaced by the task's next one.

    Args:
        positive_examples: Number of demonstrations with right answers; fewer if the task has fewer.
        negative_examples: Number of demonstrations with wrong answers; fewer if the task has fewer.
        explanations: Whether demonstrations include their explanations.
        definition: Whether the prompt begins with the task's definition.
        task_name: Whether the prompt begins with the task's name.
        demonstrations_first: Whether the demonstrations precede the definition. In instruction optimization, a learned
            exemplar has this place in training.
    """

    positive_examples: int = 2
    negative_examples: int = 0
    explanations: bool = False
    definition: bool = True
    task_name: bool = False
    demonstrations_first: bool = False

    def __post_init__(self) -> None:
        if min(self.positive_examples, self.negative_examples) < 0:
            raise ValueError(
                "positive_examples and negative_examples must be 0 or more, "
                f"got {self.positive_examples} and {self.negative_examples}"
            )

    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        name = f"{task.name}. " if self.task_name else ""
        definition = ""
        if self.definition and task.definition:
            definition = with_full_stop(f"Definition: {task.definition.strip()}") + "\n\n"
        before, after = (name, definition) if self.demonstrations_first else (name + definition, "")
        query = with_full_stop(f"Input: {example.input.strip()}")
        body = self._solved_texts("Positive", _of_others(task.positive_examples, example)[: self.positive_examples])
        body += self._solved_texts("Negative", _of_others(task.negative_examples, example)[: self.negative_examples])
        source = f"{before}{body}{after}Now complete the following example -\n{query}\nOutput: "
        return Prompt(source, _drawn_target(example, rng))

    def _solved_texts(self, kind: str, demonstrations: Sequence[Demonstration]) -> str:
        return "".join(
            f" {kind} Example {number} -\n" + self._solved_text(demonstration)
            for number, demonstration in enumerate(demonstrations, start=1)
        )

    def _solved_text(self, demonstration: Demonstration) -> str:
        lines = [f"Input: {demonstration.input.strip()}", f" Output: {demonstration.output.strip()}"]
        if self.explanations and demonstration.explanation:
            lines.append(f" Explanation: {demonstration.explanation.strip()}")
        return "".join(with_full_stop(line) + "\n" for line in lines) + "\n"


PLAIN = OptImlPrompt(delimiters=("",), instructions_share=0.0, task_share=0.0, input_share=0.0)
"""Prompt form with definition and input, without field names and delimiter."""


@dataclass(frozen=True)
class ChatPrompt(PromptForm):
    """Renders every example as a conversation in the tokenizer's chat template.

    An example that is not a conversation becomes a user's message and its answer.

    Args:
        form: Format of the user's message of an example that is not a conversation.
        loss_on: Answers that are trained: ``all_assistant_turns``, or ``last_assistant_turn`` alone.
    """

    form: PromptForm = PLAIN
    loss_on: Literal["all_assistant_turns", "last_assistant_turn"] = "all_assistant_turns"

    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        if example.turns:
            all_turns = self.loss_on == "all_assistant_turns"
            return Prompt(example.input, example.targets[0], example.turns, all_turns)
        prompt = self.form(task, example, rng)
        return self._exchange(prompt.source, prompt.target)

    def after_others(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        """Render an example as further turns of a conversation whose earlier turns are demonstrations of its task.

        The first demonstration has the task's instructions, which are not repeated here.
        """
        if example.turns:
            return self(task, example, rng)
        parts = self.form.parts(task, example, rng)
        return self._exchange(parts.query or parts.source, parts.target)

    def _exchange(self, source: str, target: str) -> Prompt:
        """Return one message and its answer as a prompt."""
        return Prompt(source, target, (Turn("user", source), Turn("assistant", target)))


def rendering_rng(seed: int, task: str, example_id: str, rendering: int = 0) -> random.Random:
    """Return the random generator of one rendering of one example, which is the same in every process.

    >>> rendering_rng(0, "task1", "a").random() == rendering_rng(0, "task1", "a").random()
    True
    >>> rendering_rng(0, "task1", "a").random() == rendering_rng(0, "task1", "a", rendering=1).random()
    False

    Args:
        seed: Seed of the run.
        task: Name of the task.
        example_id: Id of the example.
        rendering: Number that separates generators of one example that must be independent.
    """
    key = json.dumps([seed, task, example_id, rendering]).encode()
    return random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))


def _of_others(demonstrations: Sequence[Demonstration], example: Example) -> list[Demonstration]:
    """Return the demonstrations with another input than the example, or another output than its references."""
    words, answers = example.input.split(), [target.split() for target in example.targets]
    return [d for d in demonstrations if d.input.split() != words or d.output.split() not in answers]


def _drawn_target(example: Example, rng: random.Random) -> str:
    references = [target for target in example.targets if target.strip()]
    if not references:
        raise ValueError(f"example {example.id!r} of task {example.task!r} has no reference; leave it out")
    return _choose(references, rng).rstrip()


def _choose(options: Sequence[Choice], rng: random.Random) -> Choice:
    # Of all methods of random.Random, only random() is promised to be the same in every version of Python.
    return options[int(rng.random() * len(options))]


def with_full_stop(line: str) -> str:
    """Return the line, with a full stop appended unless it ends in punctuation.

    >>> with_full_stop("Input: a cat"), with_full_stop("Input: a cat?")
    ('Input: a cat.', 'Input: a cat?')
    """
    return line if line[-1] in string.punctuation else line + "."
