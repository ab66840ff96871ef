"""Benchmark reader of BIG-Bench Hard (arXiv 2210.09261): 27 tasks of BIG-bench, and the authors' prompts.

::

    folder/bbh/navigate.json            {"canary": ..., "examples": [{"input": ..., "target": ...}, ...]}
    folder/cot-prompts/navigate.txt     canary, a line of dashes, description, three exemplars with rationales

``bigbench.py`` reads BIG-bench itself.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, get_args

from ..data_files import text_lines
from ..messages import kind
from ..schema import Demonstration
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, RenderedExample
from .rows.row import Row, error_prefix
from .rows.row_files import json_rows

TASKS = """
boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies
geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects
logical_deduction_three_objects movie_recommendation multistep_arithmetic_two navigate object_counting
penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks
sports_understanding temporal_sequences tracking_shuffled_objects_five_objects
tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting
""".split()

Prompting = Literal["zero_shot", "answer_only", "chain_of_thought"]
"""Exemplars in each input: none, three with answers, or three with rationales and answers."""

OUTSIDE = "the answer is none of the choices"
"""Reason for skipping three records of the published files: movie_recommendation 163, ruin_names 99 and 144."""

STEP_BY_STEP = "Let's think step by step."


class PromptFile(NamedTuple):
    """Instruction and solved questions of a task, from a file in BIG-Bench Hard's folder cot-prompts/.

    Args:
        description: Instruction of the task.
        exemplars: Three solved questions with rationales as explanations.
    """

    description: str
    exemplars: tuple[Demonstration, ...]


class BigBenchHard(Catalogue):
    """Reads the 27 tasks of BIG-Bench Hard (arXiv 2210.09261), zero-shot or behind the authors' three exemplars.

    The three exemplars of a task's prompt file, if there is one, are also its demonstrations, with rationales as
    explanations. The hub name is ``lukaemon/bbh``, which has no prompt files.

    Args:
        folder: Folder with bbh/ and cot-prompts/.
        sources: File or hub name of single tasks that are outside the folder, by task.
        prompting: Exemplars at the beginning of each input: ``zero_shot`` for none, ``answer_only`` for exemplars with
            answers, ``chain_of_thought`` for exemplars with rationales. With the last, a model writes its rationale and
            "So the answer is" before the answer.
    """

    name = "bbh"
    listed: ClassVar[Split | None] = "test"

    def __init__(
        self, folder: str = "", sources: dict[str, str] | None = None, prompting: Prompting = "zero_shot"
    ) -> None:
        if prompting not in get_args(Prompting):
            raise ValueError(f"prompting must be one of {list(get_args(Prompting))}, got {prompting!r}")
        super().__init__(folder, sources, split="test")
        self.prompting = prompting

    def datasets(self) -> Mapping[str, Dataset]:
        """Return the 27 tasks."""
        return DATASETS

    def dataset(self, name: str) -> Dataset:
        """Return a task with the description of its prompt file as definition."""
        plain = super().dataset(name)
        description = self._prompt_file(name).description
        layout = Layout(("input", "target"), self._renderer(name, description))
        return replace(plain, layouts=(layout,), definition=description)

    def demonstrations(self, name: str) -> tuple[Demonstration, ...]:
        """Return the three exemplars of the task's prompt file; none if the file is missing."""
        return self._prompt_file(name).exemplars

    def settings(self) -> str:
        """Return `prompting`, which changes the inputs."""
        return self.prompting

    def _renderer(self, name: str, description: str) -> Callable[[Row], Iterable[RenderedExample]]:
        head = description and description + "\n\n"

        def render(row: Row) -> Iterable[RenderedExample]:
            exemplars = "".join(_exemplar(exemplar, self.prompting) for exemplar in self._exemplars(row, name))
            question, target = row.text("input").strip(), row.text("target").strip()
            tail = f" {STEP_BY_STEP}" if self.prompting == "chain_of_thought" else ""
            options = _options(question)
            skipped = OUTSIDE if options and target not in options else ""
            answer = options.index(target) if options and not skipped else None
            yield RenderedExample(f"{head}{exemplars}Q: {question}\nA:{tail}", (target,), options, answer, skipped)

        return render

    def _exemplars(self, row: Row, name: str) -> tuple[Demonstration, ...]:
        if self.prompting == "zero_shot":
            return ()
        exemplars = self._prompt_file(name).exemplars
        if not exemplars:
            raise row.error(f"no cot-prompts/{name}.txt in {self.folder}, which `prompting: {self.prompting}` needs")
        return exemplars

    def _prompt_file(self, name: str) -> PromptFile:
        path = Path(self.folder) / f"cot-prompts/{name}.txt"
        if not self.folder or not path.is_file():
            return PromptFile("", ())
        with error_prefix(self.name, name):
            return _parsed(path, path.stat().st_mtime_ns)


def _examples(path: Path) -> Iterator[Row]:
    yield from json_rows(path, "examples")


DATASETS = {
    name: Dataset(
        name=name,
        category="BIG-Bench Hard",
        layouts=(),
        files={"test": (Files((f"bbh/{name}.json",), _examples),)},
        config=name,
        metric="exact_match",
        match="bbh",
        licence="MIT",
    )
    for name in TASKS
}


@lru_cache(maxsize=64)
def _parsed(path: Path, modified: int) -> PromptFile:
    """Return the content of a prompt file; `modified` is part of the cache's key."""
    text = "\n".join(line for _, line in text_lines(path))
    _, dashes, body = text.partition("\n-----\n")
    description, *questions = re.split(r"\n\nQ: ", body)
    if not dashes or not questions:
        raise ValueError(f"{path}: expected a line of dashes, a description and exemplars, got {kind(text)}")
    return PromptFile(description.strip(), tuple(_demonstration(path, question) for question in questions))


def _demonstration(path: Path, text: str) -> Demonstration:
    question, _, reply = text.partition(f"\nA: {STEP_BY_STEP}")
    answer = re.search(r"[Ss]o the answer is (.+?)\.?$", reply.strip())
    if not answer:
        raise ValueError(f"{path}: expected 'A: {STEP_BY_STEP}' and 'So the answer is' after {kind(text)}")
    return Demonstration(f"Q: {question.strip()}\nA:", answer.group(1), STEP_BY_STEP + reply.rstrip())


def _exemplar(demonstration: Demonstration, prompting: Prompting) -> str:
    reply = demonstration.explanation if prompting == "chain_of_thought" else demonstration.output
    return f"{demonstration.input} {reply}\n\n"


def _options(question: str) -> tuple[str, ...]:
    """Return the options listed below "Options:": their letters, "(A)", if they have some, else their texts.

    >>> _options("Pick.\\nOptions:\\n(A) a cat\\n(B) a dog"), _options("Is it?\\nOptions:\\n- Yes\\n- No ")
    (('(A)', '(B)'), ('Yes', 'No'))
    """
    _, heading, listed = question.rpartition("Options:\n")
    lettered = tuple(re.findall(r"^(\([A-Z]\)) ", listed, flags=re.MULTILINE))
    worded = tuple(line.strip() for line in re.findall(r"^- (.+)$", listed, flags=re.MULTILINE))
    return (lettered or worded) if heading else ()
