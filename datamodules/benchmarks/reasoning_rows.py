"""Prompts of the reasoning datasets: a function per dataset renders a row as question, rationale and answer.

Functions that end in ``_rows`` read files that do not hold one row per line. ``reasoning.py`` lists the datasets.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data_files import read_json, text_lines
from ..folder_files import files_below
from ..messages import kind
from .catalogue import RenderedExample
from .multiple_choice import ai2_question
from .rationales import NO_RATIONALE, lettered_rationale_example, rationale_example, sentences
from .rows.row import Row
from .rows.row_files import json_rows, jsonl_rows, table_rows

NO_ANSWER = "no answer"

LABELS = ("entailment", "neutral", "contradiction")
"""Labels of natural language inference, in the order of their indices on the hub."""


def gsm8k(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a GSM8K row, without its calculator annotations.

    Raises:
        ValueError: The answer does not end in "#### " and a number.
    """
    rationale, separator, answer = row.text("answer").partition("####")
    if not separator:
        raise row.error(f"expected '#### <number>' at the end of 'answer', got {kind(row.text('answer'))}")
    # <<48/2=24>> is a calculator annotation.
    yield from rationale_example(row, row.text("question"), [re.sub(r"<<.*?>>", "", rationale)], answer.strip())


def strategyqa(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a StrategyQA row; its rationale is the facts, its answer yes or no.

    Raises:
        ValueError: The answer is neither true nor false.
    """
    answer = row.value("answer")
    if not isinstance(answer, bool):
        raise row.error(f"'answer' should be true or false, got {kind(answer)}")
    yield from rationale_example(row, row.text("question"), [sentences(row.texts("facts"))], "yes" if answer else "no")


def aqua(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of an AQuA row, whose answer is the letter of one of five options.

    Raises:
        ValueError: The options do not begin with A) to E).
    """
    parts = [re.fullmatch(r"([A-E])\s*\)(.*)", option.strip(), flags=re.DOTALL) for option in row.texts("options")]
    letters = [part.group(1) for part in parts if part]
    if len(letters) != len(parts):
        raise row.error(f"'options' should begin with A) to E), got {kind(row.value('options'))}")
    options = [part.group(2) for part in parts if part]
    yield from lettered_rationale_example(
        row, row.text("question"), row.text("rationale"), row.text("correct").strip(), options, letters
    )


def coqa(row: Row) -> Iterable[RenderedExample]:
    """Yield an example for each question of a conversation; its prompt holds the passage and the earlier turns.

    Raises:
        ValueError: There are not as many answers as questions.
    """
    story = row.text("story").strip()
    questions, answers = _coqa_turns(row)
    if len(questions) != len(answers):
        raise row.error(f"expected an answer for each of {len(questions)} questions, got {len(answers)}")
    history = ""
    for question, (answer, rationale) in zip(questions, answers, strict=True):
        evidence = rationale if answer.strip().lower() != "unknown" else ""
        yield from rationale_example(row, f"{story}\n{history}Q: {question}", [evidence], answer)
        history += f"Q: {question}\nA: {answer}\n"


def _coqa_turns(row: Row) -> tuple[list[str], list[tuple[str, str]]]:
    if isinstance(row.value("answers"), Mapping):  # the hub's rows: lists, with rationales as spans of the story
        answers, story = row.child("answers"), row.text("story")
        texts, starts, ends = answers.texts("input_text"), answers.value("answer_start"), answers.value("answer_end")
        if not len(texts) == len(starts) == len(ends):
            raise answers.error(f"expected a span for each of {len(texts)} answers, got {len(starts)} and {len(ends)}")
        spans = [story[start:end] if start >= 0 else "" for start, end in zip(starts, ends, strict=True)]
        return list(row.texts("questions")), list(zip(texts, spans, strict=True))
    turns = [(answer.text("input_text"), answer.text("span_text")) for answer in row.children("answers")]
    return [question.text("input_text") for question in row.children("questions")], turns


def coqa_rows(path: Path) -> Iterator[Row]:
    """Yield the conversations of a CoQA file."""
    yield from json_rows(path, "data")


def cos_e(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a CoS-E row: a CommonsenseQA question with an explanation."""
    yield from rationale_example(
        row, row.text("question"), [row.text("abstractive_explanation")], row.text("answer"), row.texts("choices")
    )


def cos_e_rows(questions: Path, explanations: Path) -> Iterator[Row]:
    """Yield CommonsenseQA's questions, each with the explanation of the same id.

    Raises:
        ValueError: A question has no explanation, or its answer is none of its options' letters.
    """
    explanation_of = {row.text("id"): Row(row.value("explanation"), row.location) for row in jsonl_rows(explanations)}
    for row in jsonl_rows(questions):
        if row.text("id") not in explanation_of:
            raise row.error(f"no explanation of id {row.text('id')!r} in {explanations}")
        stem, texts, letters = ai2_question(row)
        key = row.text("answerKey")
        if key not in letters:
            raise row.error(f"the answer {key!r} is none of the choices {letters}")
        explanation = explanation_of[row.text("id")].text("open-ended")
        yield Row(
            {
                "question": stem,
                "choices": texts,
                "answer": texts[letters.index(key)],
                "abstractive_explanation": explanation,
            },
            row.location,
        )


def creak(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a CREAK row: a claim that is true or false."""
    question = f"Is the following claim true or false?\n{row.text('sentence')}"
    yield from rationale_example(row, question, [row.text("explanation", "")], row.text("label"), ("true", "false"))


def ecqa(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of an ECQA row: a CommonsenseQA question with a longer explanation."""
    options = tuple(row.text(f"q_op{number}") for number in range(1, 6))
    yield from rationale_example(row, row.text("q_text"), [row.text("taskB")], row.text("q_ans"), options)


def esnli(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of an e-SNLI row, with a reference for each explanation."""
    label = row.value("label")
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(LABELS):
        label = LABELS[label]
    premise, hypothesis = row.text("premise").strip(), row.text("hypothesis").strip()
    question = f"Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?"
    rationales = [row.text(f"explanation_{number}", "") for number in (1, 2, 3)]
    yield from rationale_example(row, question, rationales, str(label), LABELS)


def esnli_table(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a row of e-SNLI's CSV files, with a reference for each explanation."""
    named = {"premise": row.value("Sentence1"), "hypothesis": row.value("Sentence2"), "label": row.value("gold_label")}
    rationales = {f"explanation_{n}": row.text(f"Explanation_{n}", "") for n in (1, 2, 3)}
    yield from esnli(Row(named | rationales, row.location))


ESNLI_COLUMNS = ("premise", "hypothesis", "label", "explanation_1", "explanation_2", "explanation_3")


def esnli_rows(*paths: Path) -> Iterator[Row]:
    """Yield rows of parallel files, line by line: premise, hypothesis, label, and up to three explanations.

    Raises:
        ValueError: The files have different numbers of lines.
    """
    files = [list(text_lines(path)) for path in paths]
    if len({len(lines) for lines in files}) != 1:
        counts = ", ".join(f"{len(lines)} in {path.name}" for path, lines in zip(paths, files, strict=True))
        raise ValueError(f"{paths[0].parent}: expected files with equal numbers of lines, got {counts}")
    for lines in zip(*files, strict=True):
        values = [line for _, line in lines]
        yield Row(dict(zip(ESNLI_COLUMNS, values, strict=False)), f"{paths[0]}, line {lines[0][0]}")


def math(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a MATH problem; its answer is the last boxed expression of the solution."""
    solution = row.text("solution")
    answer = last_boxed(solution)
    if answer is None:
        yield RenderedExample(row.text("problem").strip(), (), skipped=NO_ANSWER)
    else:
        yield from rationale_example(row, row.text("problem"), [solution], answer)


def last_boxed(solution: str) -> str | None:
    """Return the content of the last \\boxed{} of a solution in LaTeX; None without one.

    >>> last_boxed(r"So $x = \\boxed{\\frac{1}{2}}$."), last_boxed("So $x = 2$.")
    ('\\\\frac{1}{2}', None)
    """
    start = max(solution.rfind("\\boxed{"), solution.rfind("\\fbox{"))
    if start < 0:
        return None
    start = solution.index("{", start)
    depth = 0
    for place in range(start, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if not depth:
            return solution[start + 1 : place]
    return None


def math_rows(folder: Path) -> Iterator[Row]:
    """Yield the problems of a folder with a folder for each subject and a JSON file for each problem.

    Raises:
        ValueError: A file is not a JSON object.
    """
    for path in (file for file in files_below(folder) if file.suffix == ".json"):
        document = read_json(path)
        if not isinstance(document, dict):
            raise ValueError(f"{path}: expected an object with named fields, got {kind(document)}")
        yield Row(document, str(path))


def proofwriter(row: Row) -> Iterable[RenderedExample]:
    """Yield an example for each question of a theory; the rationale is the first proof in sentences."""
    texts = {**_texts(row, row.value("triples")), **_texts(row, row.value("rules"))}
    for name, fields in row.value("questions").items():
        question = Row(fields, f"{row.location}, question {name}")
        text = f"{row.text('theory').strip()}\nIs it true or false, or unknown: {question.text('question')}"
        proofs = question.fields.get("proofsWithIntermediates") or []
        rationale = _proof(question, proofs[0], texts) if proofs else ""
        yield from rationale_example(
            question, text, [rationale], str(question.value("answer")), ("True", "False", "Unknown")
        )


def _texts(row: Row, items: Mapping[str, Any]) -> dict[str, str]:
    return {name: Row(item, row.location).text("text") for name, item in items.items()}


def _proof(question: Row, proof: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Return the sentences of facts, rules and conclusions, in the order of the proof's expression."""
    steps = _texts(question, proof.get("intermediates") or {})
    named = re.findall(r"(?:triple|rule|int)\d+", proof["representation"])
    if unknown := [name for name in named if name not in texts and name not in steps]:
        raise question.error(f"the proof names {unknown[0]!r}, which is not a fact, rule or step")
    lines = [f"So {_lowered(steps[name])}" if name in steps else texts[name] for name in named]
    return " ".join(dict.fromkeys(lines))


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:] if sentence.startswith(("The ", "If ", "All ")) else sentence


def qasc(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a QASC row; its rationale is the facts, its answer a letter."""
    stem, options, letters = ai2_question(row)
    rationale = sentences(row.text(key, "") for key in ("fact1", "fact2", "combinedfact"))
    answer = row.text("answerKey", "")
    if not answer:
        yield RenderedExample(stem, (), skipped=NO_ANSWER)  # the test split
    else:
        yield from lettered_rationale_example(row, stem, rationale, answer, options, letters)


def qed(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a QED row: a paragraph and a question about it.

    The example's rationale is the sentence with the answer, then sentences that say which phrases of that sentence and
    of the question mean the same. Rows whose answer is not explained by a single sentence are skipped.
    """
    text = f"{row.text('paragraph_text').strip()}\n{row.text('question_text').strip()}"
    annotation = Row(row.value("annotation"), row.location)
    if annotation.text("explanation_type") != "single_sentence":
        yield RenderedExample(text, (), skipped=NO_RATIONALE)
        return
    links = [
        f'"{link["question_reference"]["string"]}" in the question is "{link["sentence_reference"]["string"]}".'
        for link in annotation.value("referential_equalities")
    ]
    answers = [answer["paragraph_reference"]["string"] for answer in annotation.value("answer")]
    rationale = " ".join([annotation.value("selected_sentence")["string"].strip(), *links])
    yield from rationale_example(row, text, [rationale], ", ".join(answers))


def sense_making(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a SenseMaking row: which of two statements is against common sense.

    Raises:
        ValueError: The label is neither 0 nor 1.
    """
    statements = tuple(row.text(key).strip() for key in ("sent0", "sent1"))
    rationales = [row.text(f"reason{number}", "") for number in (1, 2, 3)]
    answer = row.integer("label")
    if answer not in (0, 1):
        raise row.error(f"'label' should be 0 or 1, got {answer}")
    question = "Which of the two statements is against common sense?"
    yield from rationale_example(row, question, rationales, statements[answer], statements)


def sense_making_rows(statements: Path, labels: Path, reasons: Path) -> Iterator[Row]:
    """Yield the rows of three tables joined by id; only the table of statements has a header.

    Raises:
        ValueError: A statement has no line in one of the other tables.
    """
    label_of = {row.text("id"): row.text("label") for row in table_rows(labels, ("id", "label"))}
    columns = ("id", "reason1", "reason2", "reason3")
    reasons_of = {row.text("id"): row.fields for row in table_rows(reasons, columns)}
    for row in table_rows(statements):
        name = row.text("id")
        if name not in label_of or name not in reasons_of:
            raise row.error(f"no line of id {name!r} in {labels if name not in label_of else reasons}")
        yield Row({**reasons_of[name], **row.fields, "label": label_of[name]}, row.location)


WINOWHY = re.compile(r"The (.+?) is more likely to refer to (.+?) than (.+?) because (.+)", flags=re.DOTALL)


def winowhy(row: Row) -> Iterable[RenderedExample]:
    """Yield an example about the referent of a pronoun, with a reason; rows with a wrong reason are skipped.

    Raises:
        ValueError: The sentence has another form.
    """
    sentence, claim = row.text("wnli_sent1").strip(), row.text("wnli_sent2").strip()
    parts = WINOWHY.fullmatch(claim)
    if not parts:
        raise row.error(f"expected 'The ... is more likely to refer to ... than ... because ...', got {kind(claim)}")
    pronoun, answer, other, reason = (part.strip() for part in parts.groups())
    question = f'{sentence}\nWhat does "{pronoun}" refer to?'
    options = tuple(sorted((answer, other)))  # the right one is first in every row
    if row.integer("label") == 1:
        yield from rationale_example(row, question, [reason], answer, options)
    else:
        yield RenderedExample(question, (), options, skipped="its reason is a wrong one")


def json_lines(path: Path) -> Iterator[Row]:
    """Yield the rows of JSONL files with another suffix (.json, .jsonlines)."""
    yield from jsonl_rows(path)
