"""How a row of each reasoning dataset becomes a question, its choices, a rationale and an answer.

The target is "<rationale>. The answer is <answer>" (OPT-IML, section 2.4 and appendix C), without a last full stop.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..messages import kind
from .catalogue import Rendered, chosen
from .row_files import Row, json_document, json_rows, jsonl_rows, table_rows, text_lines

NO_RATIONALE = "no rationale"
NO_ANSWER = "no answer"

LABELS = ("entailment", "neutral", "contradiction")
"""Of natural language inference, in the order of their numbers on the hub."""


def reasoned(rationale: str, answer: str) -> str:
    """The rationale, then the answer.

    >>> reasoned("Cats purr. ", "yes")
    'Cats purr. The answer is yes'
    """
    text = rationale.strip().rstrip(".").rstrip()
    return f"{text}{'' if text.endswith(('!', '?')) else '.'} The answer is {answer.strip()}"


def asked(
    row: Row, question: str, rationales: Sequence[str], answer: str, options: tuple[str, ...] = ()
) -> Iterable[Rendered]:
    """One question with as many references as it has rationales."""
    place = chosen(row, options, answer) if options else None
    listed = "".join(f"\n- {option}" for option in options)
    text = question.strip() + (f"\nOptions:{listed}" if options else "")
    given = [rationale for rationale in rationales if rationale.strip()]
    skipped = "" if given else NO_RATIONALE
    yield Rendered(
        text, tuple(dict.fromkeys(reasoned(rationale, answer) for rationale in given)), options, place, skipped
    )


def lettered(options: Sequence[str], letters: Sequence[str]) -> tuple[str, ...]:
    """
    >>> lettered(["a cat", "a dog"], "AB")
    ('(A) a cat', '(B) a dog')
    """
    return tuple(f"({letter}) {option.strip()}" for letter, option in zip(letters, options, strict=True))


def asked_by_letter(
    row: Row, question: str, rationale: str, answer: str, options: Sequence[str], letters: Sequence[str]
) -> Iterable[Rendered]:
    """A question answered by a letter; the options are the letters, "(A)"."""
    named = tuple(f"({letter})" for letter in letters)
    if len(options) != len(letters):
        raise row.error(f"expected a letter for each choice, got {len(letters)} for {len(options)}")
    listed = "".join(f"\n{option}" for option in lettered(options, letters))
    place = chosen(row, named, f"({answer})")
    skipped = "" if rationale.strip() else NO_RATIONALE
    yield Rendered(f"{question.strip()}\nOptions:{listed}", (reasoned(rationale, named[place]),), named, place, skipped)


def solved_text(row: Row) -> Iterable[Rendered]:
    """FLAN's chain-of-thought tables: question with its options, answer, explanation; a line end is written ``\\n``."""
    question, answer, rationale = (row.text(key).replace("\\n", "\n") for key in ("question", "answer", "explanation"))
    options = listed_options(question)
    place = chosen(row, options, answer) if options else None
    skipped = "" if rationale.strip() else NO_RATIONALE
    yield Rendered(question.strip(), (reasoned(rationale, answer),), options, place, skipped)


def listed_options(question: str) -> tuple[str, ...]:
    """The choices below "Options:", by their letters or words.

    >>> listed_options("Pick.\\nOptions:\\n(A) a cat\\n(B) a dog"), listed_options("Is it?\\nOptions:\\n- yes\\n- no")
    (('(A)', '(B)'), ('yes', 'no'))
    """
    _, found, listed = question.rpartition("Options:\n")
    lines = [line.strip().removeprefix("- ") for line in listed.splitlines() if line.strip()] if found else []
    parts = [re.match(r"\([A-Z]\)|Sentence [AB](?=:)|.+", line) for line in lines]
    return tuple(part.group().strip() for part in parts if part)


def sentences(facts: Iterable[str]) -> str:
    """
    >>> sentences(["Cats purr", "", "Dogs bark."])
    'Cats purr. Dogs bark.'
    """
    told = [fact.strip() for fact in facts if fact.strip()]
    return " ".join(fact if fact.endswith((".", "!", "?")) else f"{fact}." for fact in told)


def flan_rows(path: Path) -> Iterator[Row]:
    yield from table_rows(path, ("question", "answer", "explanation"))


def gsm8k(row: Row) -> Iterable[Rendered]:
    rationale, found, answer = row.text("answer").partition("####")
    if not found:
        raise row.error(f"expected '#### <number>' at the end of 'answer', got {kind(row.text('answer'))}")
    # <<48/2=24>> are the annotations of a calculator.
    yield from asked(row, row.text("question"), [re.sub(r"<<.*?>>", "", rationale)], answer.strip())


def strategyqa(row: Row) -> Iterable[Rendered]:
    answer = row.value("answer")
    if not isinstance(answer, bool):
        raise row.error(f"'answer' should be true or false, got {kind(answer)}")
    yield from asked(row, row.text("question"), [sentences(row.texts("facts"))], "yes" if answer else "no")


def aqua(row: Row) -> Iterable[Rendered]:
    parts = [re.fullmatch(r"([A-E])\s*\)(.*)", option.strip(), flags=re.DOTALL) for option in row.texts("options")]
    letters = [part.group(1) for part in parts if part]
    if len(letters) != len(parts):
        raise row.error(f"'options' should begin with A) to E), got {kind(row.value('options'))}")
    options = [part.group(2) for part in parts if part]
    yield from asked_by_letter(
        row, row.text("question"), row.text("rationale"), row.text("correct").strip(), options, letters
    )


def coqa(row: Row) -> Iterable[Rendered]:
    """A conversation is as many examples as it has questions; each shows the passage and what was said before."""
    story = row.text("story").strip()
    questions, answers = _coqa_turns(row)
    if len(questions) != len(answers):
        raise row.error(f"expected an answer for each of {len(questions)} questions, got {len(answers)}")
    said = ""
    for question, (answer, rationale) in zip(questions, answers, strict=True):
        known = rationale if answer.strip().lower() != "unknown" else ""
        yield from asked(row, f"{story}\n{said}Q: {question}", [known], answer)
        said += f"Q: {question}\nA: {answer}\n"


def _coqa_turns(row: Row) -> tuple[list[str], list[tuple[str, str]]]:
    questions, answers = row.value("questions"), row.value("answers")
    if isinstance(answers, Mapping):  # the hub's rows: lists, and the rationale as places in the story
        spans = zip(answers["answer_start"], answers["answer_end"], strict=True)
        story = row.text("story")
        rationales = [story[start:end] if start >= 0 else "" for start, end in spans]
        return list(questions), list(zip(answers["input_text"], rationales, strict=True))
    fields = [Row(answer, row.place) for answer in answers]
    turns = [(answer.text("input_text"), answer.text("span_text")) for answer in fields]
    return [Row(question, row.place).text("input_text") for question in questions], turns


def coqa_rows(path: Path) -> Iterator[Row]:
    yield from json_rows(path, "data")


def cos_e(row: Row) -> Iterable[Rendered]:
    yield from asked(
        row, row.text("question"), [row.text("abstractive_explanation")], row.text("answer"), row.texts("choices")
    )


def cos_e_rows(questions: Path, explanations: Path) -> Iterator[Row]:
    """CommonsenseQA's questions, each with the explanation of the same id."""
    found = {row.text("id"): Row(row.value("explanation"), row.place) for row in jsonl_rows(explanations)}
    for row in jsonl_rows(questions):
        if row.text("id") not in found:
            raise row.error(f"no explanation of id {row.text('id')!r} in {explanations}")
        stem, texts, letters = ai2_question(row)
        key = row.text("answerKey")
        if key not in letters:
            raise row.error(f"the answer {key!r} is none of the choices {letters}")
        explanation = found[row.text("id")].text("open-ended")
        yield Row(
            {
                "question": stem,
                "choices": texts,
                "answer": texts[letters.index(key)],
                "abstractive_explanation": explanation,
            },
            row.place,
        )


def ai2_question(row: Row) -> tuple[str, list[str], list[str]]:
    """Stem, choices and their letters of a question of AI2's format, or of the hub's."""
    question = row.value("question")
    if isinstance(question, str):
        choices = row.value("choices")
        return question, list(choices["text"]), list(choices["label"])
    fields = Row(question, row.place)
    choices = [Row(choice, row.place) for choice in fields.value("choices")]
    return (
        fields.text("stem"),
        [choice.text("text") for choice in choices],
        [choice.text("label") for choice in choices],
    )


def creak(row: Row) -> Iterable[Rendered]:
    question = f"Is the following claim true or false?\n{row.text('sentence')}"
    yield from asked(row, question, [row.text("explanation", "")], row.text("label"), ("true", "false"))


def ecqa(row: Row) -> Iterable[Rendered]:
    options = tuple(row.text(f"q_op{number}") for number in range(1, 6))
    yield from asked(row, row.text("q_text"), [row.text("taskB")], row.text("q_ans"), options)


def esnli(row: Row) -> Iterable[Rendered]:
    label = row.value("label")
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(LABELS):
        label = LABELS[label]
    premise, hypothesis = row.text("premise").strip(), row.text("hypothesis").strip()
    question = f"Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?"
    rationales = [row.text(f"explanation_{number}", "") for number in (1, 2, 3)]
    yield from asked(row, question, rationales, str(label), LABELS)


def esnli_table(row: Row) -> Iterable[Rendered]:
    """The columns of its CSV files, under the names of the hub's."""
    named = {"premise": row.value("Sentence1"), "hypothesis": row.value("Sentence2"), "label": row.value("gold_label")}
    rationales = {f"explanation_{n}": row.text(f"Explanation_{n}", "") for n in (1, 2, 3)}
    yield from esnli(Row(named | rationales, row.place))


ESNLI_COLUMNS = ("premise", "hypothesis", "label", "explanation_1", "explanation_2", "explanation_3")


def esnli_rows(*paths: Path) -> Iterator[Row]:
    """Parallel files of lines: premise, hypothesis, label, and up to three explanations."""
    files = [list(text_lines(path)) for path in paths]
    if len({len(lines) for lines in files}) != 1:
        counts = ", ".join(f"{len(lines)} in {path.name}" for path, lines in zip(paths, files, strict=True))
        raise ValueError(f"{paths[0].parent}: expected files of as many lines as each other, got {counts}")
    for lines in zip(*files, strict=True):
        values = [line for _, line in lines]
        yield Row(dict(zip(ESNLI_COLUMNS, values, strict=False)), f"{paths[0]}, line {lines[0][0]}")


def math(row: Row) -> Iterable[Rendered]:
    solution = row.text("solution")
    answer = last_boxed(solution)
    if answer is None:
        yield Rendered(row.text("problem").strip(), (), skipped=NO_ANSWER)
    else:
        yield from asked(row, row.text("problem"), [solution], answer)


def last_boxed(solution: str) -> str | None:
    """What stands in the last box of a solution in LaTeX.

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
    """A JSON file each problem, in a folder each subject."""
    for path in sorted(folder.rglob("*.json")):
        document = json_document(path)
        if not isinstance(document, dict):
            raise ValueError(f"{path}: expected an object with named fields, got {kind(document)}")
        yield Row(document, str(path))


def proofwriter(row: Row) -> Iterable[Rendered]:
    """A theory is as many examples as it has questions; the rationale reads the first proof aloud."""
    known = {**_texts(row, row.value("triples")), **_texts(row, row.value("rules"))}
    for name, fields in row.value("questions").items():
        question = Row(fields, f"{row.place}, question {name}")
        text = f"{row.text('theory').strip()}\nIs it true or false, or unknown: {question.text('question')}"
        proofs = question.fields.get("proofsWithIntermediates") or []
        rationale = _proof(question, proofs[0], known) if proofs else ""
        yield from asked(question, text, [rationale], str(question.value("answer")), ("True", "False", "Unknown"))


def _texts(row: Row, items: Mapping[str, Any]) -> dict[str, str]:
    return {name: Row(item, row.place).text("text") for name, item in items.items()}


def _proof(question: Row, proof: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """Facts, rule, conclusion, in the order in which the proof's expression names them."""
    steps = _texts(question, proof.get("intermediates") or {})
    named = re.findall(r"(?:triple|rule|int)\d+", proof["representation"])
    if unknown := [name for name in named if name not in known and name not in steps]:
        raise question.error(f"the proof names {unknown[0]!r}, which is no fact, rule or step")
    said = [f"So {_lowered(steps[name])}" if name in steps else known[name] for name in named]
    return " ".join(dict.fromkeys(said))


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:] if sentence.startswith(("The ", "If ", "All ")) else sentence


def qasc(row: Row) -> Iterable[Rendered]:
    stem, options, letters = ai2_question(row)
    rationale = sentences(row.text(key, "") for key in ("fact1", "fact2", "combinedfact"))
    answer = row.text("answerKey", "")
    if not answer:
        yield Rendered(stem, (), skipped=NO_ANSWER)  # the test split
    else:
        yield from asked_by_letter(row, stem, rationale, answer, options, letters)


def qed(row: Row) -> Iterable[Rendered]:
    """The rationale is the sentence that tells the answer, and which of its phrases the question's phrases mean."""
    text = f"{row.text('paragraph_text').strip()}\n{row.text('question_text').strip()}"
    annotation = Row(row.value("annotation"), row.place)
    if annotation.text("explanation_type") != "single_sentence":
        yield Rendered(text, (), skipped=NO_RATIONALE)
        return
    meant = [
        f'"{link["question_reference"]["string"]}" in the question is "{link["sentence_reference"]["string"]}".'
        for link in annotation.value("referential_equalities")
    ]
    answers = [answer["paragraph_reference"]["string"] for answer in annotation.value("answer")]
    rationale = " ".join([annotation.value("selected_sentence")["string"].strip(), *meant])
    yield from asked(row, text, [rationale], ", ".join(answers))


def sense_making(row: Row) -> Iterable[Rendered]:
    statements = tuple(row.text(key).strip() for key in ("sent0", "sent1"))
    rationales = [row.text(f"reason{number}", "") for number in (1, 2, 3)]
    answer = row.integer("label")
    if answer not in (0, 1):
        raise row.error(f"'label' should be 0 or 1, got {answer}")
    question = "Which of the two statements is against common sense?"
    yield from asked(row, question, rationales, statements[answer], statements)


def sense_making_rows(statements: Path, labels: Path, reasons: Path) -> Iterator[Row]:
    """Three tables joined by id; only that of the statements has a header."""
    label_of = {row.text("id"): row.text("label") for row in table_rows(labels, ("id", "label"))}
    columns = ("id", "reason1", "reason2", "reason3")
    reasons_of = {row.text("id"): row.fields for row in table_rows(reasons, columns)}
    for row in table_rows(statements):
        name = row.text("id")
        if name not in label_of or name not in reasons_of:
            raise row.error(f"no line of id {name!r} in {labels if name not in label_of else reasons}")
        yield Row({**reasons_of[name], **row.fields, "label": label_of[name]}, row.place)


WINOWHY = re.compile(r"The (.+?) is more likely to refer to (.+?) than (.+?) because (.+)", flags=re.DOTALL)


def winowhy(row: Row) -> Iterable[Rendered]:
    """A sentence, what its pronoun means, and a reason, which some rows give wrongly on purpose."""
    sentence, claim = row.text("wnli_sent1").strip(), row.text("wnli_sent2").strip()
    parts = WINOWHY.fullmatch(claim)
    if not parts:
        raise row.error(f"expected 'The ... is more likely to refer to ... than ... because ...', got {kind(claim)}")
    pronoun, answer, other, reason = (part.strip() for part in parts.groups())
    question = f'{sentence}\nWhat does "{pronoun}" refer to?'
    options = tuple(sorted((answer, other)))  # the right one stands first in every row
    if row.integer("label") == 1:
        yield from asked(row, question, [reason], answer, options)
    else:
        yield Rendered(question, (), options, skipped="its reason is a wrong one")


def json_lines(path: Path) -> Iterator[Row]:
    """JSONL whatever the suffix: several datasets name it .json or .jsonlines."""
    yield from jsonl_rows(path)
