"""A file of answers that grows while they are generated, so that an interrupted command resumes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datamodules.atomic_files import naming, whole_file
from ...datamodules.data_files import decoded, parse_json
from .prompt_file import Question

REMOVE = "remove the file, or name another output"


def is_result(line: Any) -> bool:
    """Return whether a line of an ``AnswerFile`` has the fields of an answer, or of a reason why there is none."""
    return (
        isinstance(line, dict)
        and type(line.get("line")) is int
        and set(line) <= {"line", "id", "answer", "skipped"}
        and isinstance(line.get("answer", line.get("skipped")), str)
    )


class AnswerFile:
    """Answers to a file of prompts, written to ``<output>.part`` until all are there; an interrupted command resumes.

    Args:
        path: Output file, which must not exist yet.
        settings: Everything that determines the answers, such as model, decoding and prompts, as plain values. They are
            the first line of the ``.part``.

    Raises:
        ValueError: There is a ``.part`` with other settings, or it holds something else than answers.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.results: dict[int, dict[str, Any]] = {}
        """The result of each question, by its line: its answer, or the reason why it has none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.loads(json.dumps(dict(settings)))
        if self.part.exists():
            self._resume(header)
        with naming(self.part):
            self._file = open(self.part, "a", encoding="utf-8")  # noqa: SIM115 - closed by finish
            if not self.part.stat().st_size:
                self._write(header)

    def _resume(self, header: Mapping[str, Any]) -> None:
        """Read the complete lines of a ``.part``; the last line of a killed process is dropped."""
        content = self.part.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with open(self.part, "r+b") as file:
                file.truncate(len(whole))
        if not whole:
            return
        # An answer may hold other ends of lines (U+2028), which JSON does not escape.
        texts = decoded(whole, str(self.part)).split("\n")[:-1]
        lines = [parse_json(text, f"{self.part}, line {number}", REMOVE) for number, text in enumerate(texts, start=1)]
        if not isinstance(lines[0], dict):
            raise ValueError(f"{self.part} holds no answers of an interrupted command; {REMOVE}")
        if lines[0] != header:
            changed = [name for name in {**lines[0], **header} if lines[0].get(name) != header.get(name)]
            raise ValueError(
                f"{self.part} holds answers of an interrupted command with another {', '.join(changed)}: "
                "remove it, or name another output"
            )
        for number, line in enumerate(lines[1:], start=2):
            if not is_result(line):
                raise ValueError(f"{self.part}, line {number}: no answer of an interrupted command; {REMOVE}")
        self.results = {line["line"]: line for line in lines[1:]}

    def missing(self, questions: Sequence[Question]) -> list[Question]:
        """Return the questions that have neither an answer nor a reason for none yet.

        Raises:
            ValueError: The ``.part`` has an answer to a line that is none of the questions.
        """
        if others := sorted(set(self.results) - {question.line for question in questions}):
            raise ValueError(f"{self.part} has an answer to line {others[0]}, which is no question; {REMOVE}")
        return [question for question in questions if question.line not in self.results]

    def add(self, question: Question, result: Mapping[str, Any]) -> None:
        """Append the answer to a question to the ``.part``: `result` is {"answer": text} or {"skipped": reason}."""
        line = {"line": question.line, **({} if question.id is None else {"id": question.id}), **result}
        self.results[question.line] = line
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        with naming(self.part):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()

    def finish(self, questions: Sequence[Question]) -> None:
        """Write the output with a line for every question, in their order, and remove the ``.part``."""
        self._file.close()
        assert {question.line for question in questions} == set(self.results)
        with whole_file(self.path) as file:
            for question in questions:
                line = {**self.results[question.line], "messages": question.messages}
                line |= {"references": question.references} if question.references else {}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.part.unlink()
