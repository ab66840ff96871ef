"""Prompt forms: an example becomes the text a model reads and the text it should write.

A form is a frozen dataclass that is called with a task, an example and a random generator. It is a pure
function of the three: with the generator of `rendering_rng`, an example reads the same in any order of calls.

The joint of source and target belongs to tokenization.py, which strips the spaces at a source's end. Here a
source ends as its paper prints it (Tk-Instruct's ends in a space); a target has no white space at its end.
"""

import hashlib
import json
import random
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import NamedTuple, TypeVar

from ..schema import Demonstration, Example, Prompt, Task

PROMPT_VERSION = 1
"""Part of every form's fingerprint: raise it when a form of this file comes to render differently."""

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

Choice = TypeVar("Choice")


class Pieces(NamedTuple):
    """A prompt in pieces, so that solved examples can stand between the first two.

    Args:
        instructions: What is said once, however many examples follow; empty where each brings its own.
        glue: What joins instructions and example where nothing stands between them.
        asked: The example, up to where its target begins.
        target: What the model should write.
    """

    instructions: str
    glue: str
    asked: str
    target: str

    @property
    def alone(self) -> str:
        """The source of a prompt without demonstrations."""
        return self.instructions + self.glue + self.asked


class PromptForm(ABC):
    """How an example is rendered; subclasses are frozen dataclasses, whose fields are their settings."""

    # A base class rather than a protocol: jsonargparse then finds forms by their short names, accepts one as
    # an argument's default, and writes it out in --print_config.

    @abstractmethod
    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        """Render the example; every random choice is drawn from `rng`."""

    def pieces(self, task: Task, example: Example, rng: random.Random) -> Pieces:
        """The same prompt in pieces; a form without them shows no demonstrations but its own.

        Raises:
            ValueError: The form has none.
        """
        raise ValueError(f"{type(self).__name__} has no place for demonstrations of other examples; use OptImlPrompt")

    def fingerprint(self) -> str:
        """SHA-256 of what decides how examples are rendered: the form's class and fields, and PROMPT_VERSION.

        A form of your own that comes to render differently says so in a field, e.g. ``version: int = 2``.
        """
        settings = repr(self)
        if not is_dataclass(self) or " at 0x" in settings:
            raise ValueError(
                "a prompt form must be a frozen dataclass whose fields print their values (text, numbers, "
                f"tuples), so that prepared examples are found again; got {settings}"
            )
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return hashlib.sha256(f"{PROMPT_VERSION} {name} {settings}".encode()).hexdigest()


@dataclass(frozen=True)
class OptImlPrompt(PromptForm):
    """The two-part form of OPT-IML (arXiv 2212.12017, section 2.4): instructions, delimiter, answer.

    A task-level benchmark shows its definition and then the input, both with field names that vary. An
    example of an instance-level benchmark brings its own instructions: its input is all the model reads. The
    delimiter is drawn per example, and left out where the instructions end with a colon. An example without
    input (dialogue, pre-training text) has an empty source.

    The paper does not say how field names were drawn. The shares are those of the ten prompts of
    Super-NaturalInstructions in its Appendix C: 3 definitions begin with "Instructions:", 1 with "Task:", and
    3 inputs with "Input:". Here definition and input are drawn independently.

    Args:
        delimiters: Texts between instructions and answer, drawn uniformly.
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
        if min(shares) < 0 or self.input_share > 1 or self.instructions_share + self.task_share > 1:
            raise ValueError(
                "shares must lie in [0, 1], and instructions_share + task_share too, "
                f"got {self.instructions_share}, {self.task_share} and input_share {self.input_share}"
            )

    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        pieces = self.pieces(task, example, rng)
        return Prompt(pieces.alone, pieces.target)

    def pieces(self, task: Task, example: Example, rng: random.Random) -> Pieces:
        """Definition, then input and delimiter; an instance's input that begins with its task's definition is cut."""
        # All four draws are made for every example, so that none depends on what the others found.
        definition_name, input_name = self._field_names(rng.random(), rng.random())
        delimiter = _choose(self.delimiters, rng)
        target = _drawn_target(example, rng)
        instructions, asked = "", example.input.strip()
        definition = task.definition.strip()
        if task.instruction_level == "task":
            instructions = definition_name + definition if definition else ""
            asked = input_name + asked if asked else ""
        elif definition and asked.startswith(definition) and asked != definition:
            instructions, asked = definition, asked.removeprefix(definition)
        text = asked.lstrip()
        # Between a definition and the rest of an instance's input stands what stood there.
        glue = asked[: len(asked) - len(text)] if task.instruction_level == "instance" else "\n"
        last = text or instructions
        if not last or last.endswith(":"):
            delimiter = ""
        return Pieces(instructions, glue if instructions and text else "", text + delimiter, target)

    def _field_names(self, definition_draw: float, input_draw: float) -> tuple[str, str]:
        definition_name = ""
        if definition_draw < self.instructions_share:
            definition_name = "Instructions: "
        elif definition_draw < self.instructions_share + self.task_share:
            definition_name = "Task: "
        return definition_name, "Input: " if input_draw < self.input_share else ""


@dataclass(frozen=True)
class TkInstructPrompt(PromptForm):
    """The form of Tk-Instruct (arXiv 2204.07705): definition, solved examples, then the input to complete.

    A line that does not end in punctuation gets a full stop; the target stays as it is. The definition is
    ``task.definition``, which readers set to the first where a file lists several.

    Args:
        positive_examples: Solved examples to show, as far as the task has them.
        negative_examples: Wrongly solved examples to show, as far as the task has them.
        explanations: Whether solved examples come with their explanations.
        definition: Whether the prompt begins with the task's definition.
        task_name: Whether the prompt begins with the task's name.
    """

    positive_examples: int = 2
    negative_examples: int = 0
    explanations: bool = False
    definition: bool = True
    task_name: bool = False

    def __post_init__(self) -> None:
        if min(self.positive_examples, self.negative_examples) < 0:
            raise ValueError(
                "positive_examples and negative_examples must be 0 or more, "
                f"got {self.positive_examples} and {self.negative_examples}"
            )

    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        return self.within(task, example, rng, fits=lambda source: True)

    def within(self, task: Task, example: Example, rng: random.Random, *, fits: Callable[[str], bool]) -> Prompt:
        """The prompt with as many solved examples as `fits` accepts, tried in order on the whole source.

        As in Tk-Instruct, the first positive example that does not fit ends the positive ones, and likewise
        the negative ones. Definition and input stay, also where they do not fit by themselves.
        """
        head = f"{task.name}. " if self.task_name else ""
        if self.definition and task.definition:
            head += sentence(f"Definition: {task.definition.strip()}") + "\n\n"
        asked = sentence(f"Input: {example.input.strip()}")
        tail = f"Now complete the following example -\n{asked}\nOutput: "
        shown = ""
        for kind, solved in (
            ("Positive", task.positive_examples[: self.positive_examples]),
            ("Negative", task.negative_examples[: self.negative_examples]),
        ):
            for number, demonstration in enumerate(solved, start=1):
                longer = shown + f" {kind} Example {number} -\n" + self._solved(demonstration)
                if not fits(head + longer + tail):
                    break
                shown = longer
        return Prompt(head + shown + tail, _drawn_target(example, rng))

    def _solved(self, demonstration: Demonstration) -> str:
        lines = [f"Input: {demonstration.input.strip()}", f" Output: {demonstration.output.strip()}"]
        if self.explanations and demonstration.explanation:
            lines.append(f" Explanation: {demonstration.explanation.strip()}")
        return "".join(sentence(line) + "\n" for line in lines) + "\n"


def rendering_rng(seed: int, task: str, example_id: str, rendering: int = 0) -> random.Random:
    """The random generator of one rendering of one example: a function of its arguments, in any process.

    >>> rendering_rng(0, "task1", "a").random() == rendering_rng(0, "task1", "a").random()
    True
    >>> rendering_rng(0, "task1", "a").random() == rendering_rng(0, "task1", "a", rendering=1).random()
    False
    """
    key = json.dumps([seed, task, example_id, rendering]).encode()
    return random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))


def _drawn_target(example: Example, rng: random.Random) -> str:
    references = [target for target in example.targets if target.strip()]
    if not references:
        raise ValueError(f"example {example.id!r} of task {example.task!r} has no reference; leave it out")
    return _choose(references, rng).rstrip()


def _choose(options: Sequence[Choice], rng: random.Random) -> Choice:
    # Of all methods of random.Random, only random() is promised to be the same in every version of Python.
    return options[int(rng.random() * len(options))]


def sentence(line: str) -> str:
    """A line that is not empty, with a full stop unless it ends in punctuation.

    >>> sentence("Input: a cat"), sentence("Input: a cat?")
    ('Input: a cat.', 'Input: a cat?')
    """
    return line if line[-1] in string.punctuation else line + "."
