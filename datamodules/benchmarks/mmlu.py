"""Benchmark reader of MMLU (arXiv 2009.03300): multiple choice in 57 subjects, from the CSV files of its archive.

::

    folder/test/anatomy_test.csv, folder/val/anatomy_val.csv, folder/dev/anatomy_dev.csv      no header:
        question, A, B, C, D, answer

Prompts are those of the paper (hendrycks/test, evaluate.py), except that there is one space before the subject where
that program prints two. Subjects are parts of the task "mmlu".
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from ..messages import kind
from ..schema import Demonstration
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, RenderedExample
from .rows.row import Row, error_prefix
from .rows.row_files import table_rows

LETTERS = ("A", "B", "C", "D")

SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics
econometrics electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology
high_school_chemistry high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics high_school_microeconomics
high_school_physics high_school_psychology high_school_statistics high_school_us_history high_school_world_history
human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning management marketing
medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory professional_accounting
professional_law professional_medicine professional_psychology public_relations security_studies sociology
us_foreign_policy virology world_religions
""".split()

FOLDERS: Mapping[Split, str] = {"train": "dev", "validation": "val", "test": "test"}
"""Folder of each split."""


class MMLU(Catalogue):
    """Reads the multiple-choice questions of MMLU (arXiv 2009.03300); each of the 57 subjects is a task.

    The mean over subjects is the score of "mmlu". The five questions of a subject's dev file, if there is one, are the
    task's demonstrations. Every input begins with the task's definition, which few-shot prompts print once. The hub
    name is ``cais/mmlu``.

    Args:
        folder: Folder with test/, val/ and dev/.
        sources: File or hub name of single subjects that are outside the folder, by subject.
        split: ``test``, ``validation`` (val/), or ``train`` (dev/, which reads the demonstrations as examples).
    """

    name = "mmlu"
    listed: ClassVar[Split | None] = "test"

    def __init__(self, folder: str = "", sources: dict[str, str] | None = None, split: Split = "test") -> None:
        super().__init__(folder, sources, split)

    def datasets(self) -> Mapping[str, Dataset]:
        """Return the 57 subjects."""
        return _datasets()

    def demonstrations(self, name: str) -> tuple[Demonstration, ...]:
        """Return the questions of the subject's dev file with their letters; none if the file is missing."""
        path = Path(self.folder) / f"dev/{name}_dev.csv"
        if not self.folder or not path.is_file():
            return ()
        with error_prefix(self.name, name):
            questions = [(_question(row), LETTERS[_answer(row, row.text("answer"))]) for row in _csv_rows(path)]
        return tuple(Demonstration(question, answer) for question, answer in questions)


@lru_cache(maxsize=1)
def _datasets() -> dict[str, Dataset]:
    return {subject: _dataset(subject) for subject in SUBJECTS}


def _dataset(subject: str) -> Dataset:
    head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."

    def from_csv(row: Row) -> Iterable[RenderedExample]:
        place = _answer(row, row.text("answer"))
        yield RenderedExample(f"{head}\n\n{_question(row)}", (LETTERS[place],), LETTERS, place)

    def from_hub(row: Row) -> Iterable[RenderedExample]:
        choices, place = row.texts("choices"), row.integer("answer")
        if len(choices) != len(LETTERS) or not 0 <= place < len(LETTERS):
            raise row.error(f"expected 4 choices and the index of one, got {len(choices)} and {place}")
        named = Row({"question": row.value("question"), **dict(zip(LETTERS, choices, strict=True))}, row.location)
        yield RenderedExample(f"{head}\n\n{_question(named)}", (LETTERS[place],), LETTERS, place)

    return Dataset(
        name=subject,
        category="Question Answering",
        layouts=(Layout(("question", *LETTERS, "answer"), from_csv), Layout(("question", "choices"), from_hub)),
        files={split: (Files((f"{folder}/{subject}_{folder}.csv",), _csv_rows),) for split, folder in FOLDERS.items()},
        config=subject,
        hub_splits={"train": "dev"},
        definition=head,
        metric="accuracy",
        parent="mmlu",
        sources=("mmlu",),
        licence="MIT",
    )


def _csv_rows(path: Path) -> Iterator[Row]:
    yield from table_rows(path, ("question", *LETTERS, "answer"))


def _question(row: Row) -> str:
    choices = "".join(f"\n{letter}. {row.text(letter)}" for letter in LETTERS)
    return f"{row.text('question').strip()}{choices}\nAnswer:"


def _answer(row: Row, letter: str) -> int:
    if letter not in LETTERS:
        raise row.error(f"'answer' should be one of A, B, C, D, got {kind(letter)}")
    return LETTERS.index(letter)
