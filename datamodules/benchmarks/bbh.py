"""BIG-Bench Hard (arXiv 2210.09261): 27 tasks of BIG-bench, a JSON file each, and the prompts its authors wrote.

::

    folder/bbh/navigate.json            {"canary": ..., "examples": [{"input": ..., "target": ...}, ...]}
    folder/cot-prompts/navigate.txt     canary, a line of dashes, description, three solved examples with rationales
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, get_args

from ..messages import kind
from ..schema import Demonstration
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Rendered
from .row_files import Row, json_rows, naming, text_lines

TASKS = """
boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies
geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects
logical_deduction_three_objects movie_recommendation multistep_arithmetic_two navigate object_counting
penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks
sports_understanding temporal_sequences tracking_shuffled_objects_five_objects
tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting
""".split()

Shown = Literal["nothing", "answers", "rationales"]

OUTSIDE = "the answer is none of the choices"
"""Three records of upstream's own files: movie_recommendation 163, ruin_names 99 and 144."""

STEP_BY_STEP = "Let's think step by step."


class SolvedPrompt(NamedTuple):
    """What a file of cot-prompts holds."""

    description: str
    solved: tuple[Demonstration, ...]


class BigBenchHard(Catalogue):
    """Reads BIG-Bench Hard.

    The three solved examples of a task's prompt file, where it is there, are the task's demonstrations, with their
    rationales as explanations. The hub's name is ``lukaemon/bbh``, which has no prompt files.

    Args:
        folder: Folder that holds bbh/ and cot-prompts/.
        sources: Where to read a task by its name instead; see ``Catalogue``.
        shown: What of the solved examples stands before each input: "nothing" (a question alone, for prompts that
            bring demonstrations of their own), "answers" (the paper's answer-only prompting), or "rationales" (its
            chain-of-thought prompting, where the answer follows "So the answer is").
    """

    name = "bbh"
    listed: ClassVar[Split | None] = "test"

    def __init__(self, folder: str = "", sources: dict[str, str] | None = None, shown: Shown = "nothing") -> None:
        if shown not in get_args(Shown):
            raise ValueError(f"shown must be one of {list(get_args(Shown))}, got {shown!r}")
        super().__init__(folder, sources, split="test")
        self.shown = shown

    def datasets(self) -> Mapping[str, Dataset]:
        return DATASETS

    def dataset(self, name: str) -> Dataset:
        plain = super().dataset(name)
        description = self._prompt(name).description
        layout = Layout(("input", "target"), self._renderer(name, description))
        return replace(plain, layouts=(layout,), definition=description)

    def demonstrations(self, name: str) -> tuple[Demonstration, ...]:
        return self._prompt(name).solved

    def settings(self) -> str:
        return self.shown

    def _renderer(self, name: str, description: str) -> Callable[[Row], Iterable[Rendered]]:
        head = description and description + "\n\n"

        def render(row: Row) -> Iterable[Rendered]:
            shown = "".join(_solved(solved, self.shown) for solved in self._solved(row, name))
            question, target = row.text("input").strip(), row.text("target").strip()
            tail = f" {STEP_BY_STEP}" if self.shown == "rationales" else ""
            options = _options(question)
            skipped = OUTSIDE if options and target not in options else ""
            answer = options.index(target) if options and not skipped else None
            yield Rendered(f"{head}{shown}Q: {question}\nA:{tail}", (target,), options, answer, skipped)

        return render

    def _solved(self, row: Row, name: str) -> tuple[Demonstration, ...]:
        if self.shown == "nothing":
            return ()
        solved = self._prompt(name).solved
        if not solved:
            raise row.error(f"no cot-prompts/{name}.txt in {self.folder}, which `shown: {self.shown}` needs")
        return solved

    def _prompt(self, name: str) -> SolvedPrompt:
        path = Path(self.folder) / f"cot-prompts/{name}.txt"
        if not self.folder or not path.is_file():
            return SolvedPrompt("", ())
        with naming(self.name, name):
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
        licence="MIT",
    )
    for name in TASKS
}


@lru_cache(maxsize=64)
def _parsed(path: Path, modified: int) -> SolvedPrompt:
    text = "\n".join(line for _, line in text_lines(path))
    _, dashes, body = text.partition("\n-----\n")
    description, *questions = re.split(r"\n\nQ: ", body)
    if not dashes or not questions:
        raise ValueError(f"{path}: expected a line of dashes, a description and solved questions, got {kind(text)}")
    return SolvedPrompt(description.strip(), tuple(_demonstration(path, question) for question in questions))


def _demonstration(path: Path, text: str) -> Demonstration:
    question, _, reply = text.partition(f"\nA: {STEP_BY_STEP}")
    answer = re.search(r"[Ss]o the answer is (.+?)\.?$", reply.strip())
    if not answer:
        raise ValueError(f"{path}: expected 'A: {STEP_BY_STEP}' and 'So the answer is' after {kind(text)}")
    return Demonstration(f"Q: {question.strip()}\nA:", answer.group(1), STEP_BY_STEP + reply.rstrip())


def _solved(demonstration: Demonstration, shown: Shown) -> str:
    reply = demonstration.explanation if shown == "rationales" else demonstration.output
    return f"{demonstration.input} {reply}\n\n"


def _options(question: str) -> tuple[str, ...]:
    """The choices that follow "Options:": their letters, "(A)", or their words.

    >>> _options("Pick.\\nOptions:\\n(A) a cat\\n(B) a dog"), _options("Is it?\\nOptions:\\n- Yes\\n- No ")
    (('(A)', '(B)'), ('Yes', 'No'))
    """
    _, found, listed = question.rpartition("Options:\n")
    lettered = tuple(re.findall(r"^(\([A-Z]\)) ", listed, flags=re.MULTILINE))
    worded = tuple(line.strip() for line in re.findall(r"^- (.+)$", listed, flags=re.MULTILINE))
    return (lettered or worded) if found else ()
