"""Prompts of OPT's evaluation tasks: a function per dataset renders a row, with its options and label.

Functions that end in ``_rows`` read files that do not hold one row per line.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..data_files import text_lines
from ..messages import kind
from .catalogue import RenderedExample
from .multiple_choice import ai2_question, choice_example
from .rows.row import Row
from .rows.row_files import jsonl_rows


def label_index(row: Row, *names: Any, key: str = "label") -> int | None:
    """Return the index of a row's label among a dataset's labels; None if the label is missing or -1 (unpublished).

    Args:
        row: The row. Its label is a name or boolean in original files, and an index on the hub.
        names: Labels in original files, in the order of the hub's indices.
        key: Column of the label.

    Raises:
        ValueError: The label is none of the names, or the index is too large.
    """
    value = row.fields.get(key)
    if value is None or (value == -1 and not isinstance(value, bool)):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= len(names):
            raise row.error(f"{key!r} should be a number below {len(names)}, got {value}")
        return value
    if value not in names:
        raise row.error(f"{key!r} should be one of {list(names)}, got {kind(value)}")
    return names.index(value)


def boolq(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a BoolQ row; its options are no and yes."""
    text = f"{row.text('passage').strip()}\nquestion: {row.text('question').strip().rstrip('?')}?\nanswer:"
    yield from choice_example(row, text, ("no", "yes"), label_index(row, False, True))


def cb(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a CommitmentBank row; its options are true, false and neither."""
    text = f"{_premise(row)}\nquestion: {_hypothesis(row)}. true, false, or neither?\nanswer:"
    place = label_index(row, "entailment", "contradiction", "neutral")
    yield from choice_example(row, text, ("true", "false", "neither"), place)


def rte(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of an RTE row; its options are True and False."""
    text = f"{_premise(row)}\nquestion: {_hypothesis(row)}. True or False?\nanswer:"
    yield from choice_example(row, text, ("True", "False"), label_index(row, "entailment", "not_entailment"))


def anli(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of an ANLI row; its options are True, Neither and False."""
    text = f"{_premise(row)}\nquestion: {_hypothesis(row)}. True, False, or Neither?\nanswer:"
    key = "gold_label" if "gold_label" in row.fields else "label"
    yield from choice_example(row, text, ("True", "Neither", "False"), label_index(row, "e", "n", "c", key=key))


def _premise(row: Row) -> str:
    return row.text("premise" if "premise" in row.fields else "context").strip()


def _hypothesis(row: Row) -> str:
    key = "statement" if "statement" in row.fields else "hypothesis"
    return row.text(key).strip().rstrip(".")


def copa(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a COPA row: a premise with "because" or "so", and two continuations as options.

    Raises:
        ValueError: The question is neither "cause" nor "effect".
    """
    joint = {"cause": "because", "effect": "so"}.get(row.text("question"))
    if joint is None:
        raise row.error(f"'question' should be cause or effect, got {kind(row.value('question'))}")
    options = [text[:1].lower() + text[1:] for text in (row.text("choice1"), row.text("choice2"))]
    text = f"{row.text('premise').strip().rstrip('.')} {joint}"
    yield from choice_example(row, text, options, label_index(row, 0, 1))


def wic(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a WiC row; its options are no and yes."""
    question = f"Is the word '{row.text('word')}' used in the same way in the two sentences above?"
    text = f"{row.text('sentence1')}\n{row.text('sentence2')}\nquestion: {question}\nanswer:"
    yield from choice_example(row, text, ("no", "yes"), label_index(row, False, True))


def wsc(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a WSC row, whose pronoun is set in asterisks; its options are no and yes.

    Raises:
        ValueError: The pronoun's index is outside the text.
    """
    fields = Row(row.value("target"), row.location) if "target" in row.fields else row
    pronoun, noun = fields.text("span2_text"), fields.text("span1_text")
    place = fields.integer("span2_index")
    words = row.text("text").split()
    if not 0 <= place < len(words):
        raise row.error(f"the pronoun's index {place} is outside a text of {len(words)} words")
    words[place] = f"*{words[place]}*"
    question = f'In the passage above, does the pronoun "*{pronoun}*" refer to "{noun}"?'
    text = f"Passage: {' '.join(words)}\nQuestion: {question}\nAnswer:"
    yield from choice_example(row, text, ("no", "yes"), label_index(row, False, True))


def multirc(row: Row) -> Iterable[RenderedExample]:
    """Yield one example for each answer, from a passage of the original files or a row of the hub."""
    for passage, question, answer in _multirc(row):
        text = f"{passage}\nquestion: {question}\nanswer: {answer.text('text')}\nIs this answer true or false?\nanswer:"
        yield from choice_example(answer, text, ("false", "true"), label_index(answer, 0, 1))


def _multirc(row: Row) -> Iterator[tuple[str, str, Row]]:
    if "paragraph" in row.fields:
        fields = {"text": row.value("answer"), "label": row.fields.get("label")}
        yield row.text("paragraph").strip(), row.text("question"), Row(fields, row.location)
        return
    passage = row.child("passage")
    for question in passage.children("questions"):
        for answer in question.children("answers"):
            yield passage.text("text").strip(), question.text("question"), answer


def piqa(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a PIQA row: a goal, and two solutions as options."""
    place = row.integer("label") if "label" in row.fields else None
    text = f"Question: {row.text('goal').strip()}\nAnswer:"
    yield from choice_example(row, text, (row.text("sol1"), row.text("sol2")), None if place == -1 else place)


def piqa_rows(goals: Path, labels: Path) -> Iterator[Row]:
    """Yield rows of goals, each with the index of the right solution on the same line of the file of labels.

    Raises:
        ValueError: There are not as many labels as goals.
    """
    rows, places = list(jsonl_rows(goals)), [line.strip() for _, line in text_lines(labels)]
    if len(rows) != len(places):
        raise ValueError(f"{goals.parent}: expected a label for each goal, got {len(places)} for {len(rows)}")
    for row, place in zip(rows, places, strict=True):
        yield Row({**row.fields, "label": place}, row.location)


def science(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a row of ARC or OpenBookQA, whose options have letters, or numbers in a few rows.

    Raises:
        ValueError: The answer is none of the options' letters.
    """
    stem, options, letters = ai2_question(row)
    key = row.text("answerKey", "")
    if key and key not in letters:
        raise row.error(f"the answer {key!r} is none of the choices {letters}")
    yield from choice_example(row, f"Question: {stem.strip()}\nAnswer:", options, letters.index(key) if key else None)


def winogrande(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a Winogrande row; each option is a noun with the text behind the blank.

    Raises:
        ValueError: The sentence has no blank.
    """
    before, blank, after = row.text("sentence").partition("_")
    if not blank:
        raise row.error(f"'sentence' has no blank '_': {kind(row.value('sentence'))}")
    options = [row.text(key) + after.rstrip() for key in ("option1", "option2")]
    place = label_index(row, "1", "2", key="answer") if row.fields.get("answer") else None
    yield from choice_example(row, before.strip(), options, place)


def winograd(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a Winograd row; each option is a noun with the text behind the pronoun.

    Raises:
        ValueError: The pronoun is not at its stated place in the text.
    """
    place, pronoun = row.integer("pronoun_loc"), row.text("pronoun")
    before, after = row.text("text")[: max(place, 0)], row.text("text")[place + len(pronoun) :]
    if row.text("text") != before + pronoun + after:
        raise row.error(f"the pronoun {pronoun!r} is not at character {place} of the text")
    options = [option + after.rstrip() for option in row.texts("options")]
    yield from choice_example(row, before.strip(), options, label_index(row, *range(len(options))))


def story_cloze(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a StoryCloze row: four sentences, and two endings as options."""
    raw = "InputSentence1" in row.fields
    story = [row.text(f"InputSentence{n}" if raw else f"input_sentence_{n}").strip() for n in range(1, 5)]
    endings = [row.text(f"RandomFifthSentenceQuiz{n}" if raw else f"sentence_quiz{n}") for n in (1, 2)]
    place = row.integer("AnswerRightEnding" if raw else "answer_right_ending") - 1
    yield from choice_example(row, " ".join(story), endings, place)


WINOBIAS = re.compile(r"\d+ (.+)")
PRONOUNS = ("he", "she", "him", "her", "his", "hers", "himself", "herself")
UNMARKED = "not one person and the pronouns that mean them in brackets"


def winobias(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a sentence with a person and the pronouns that refer to them in brackets, in any order."""
    text = row.text("sentence").replace("the [the ", "[the ")  # an error in the files
    marked = [words.strip().lower() for words in re.findall(r"\[([^\[\]]+)\]", text)]
    sentence = " ".join(re.sub(r"[\[\]]", "", text).split())
    people = [words for words in marked if words not in PRONOUNS]
    pronouns = [words for words in marked if words in PRONOUNS]
    if len(people) != 1 or not pronouns:
        yield RenderedExample(sentence, (), skipped=UNMARKED)
    else:
        yield RenderedExample(f'{sentence}\nWhat does the pronoun "{pronouns[0]}" refer to?', (people[0],))


def winobias_rows(path: Path) -> Iterator[Row]:
    """Yield the sentences of a WinoBias file, whose lines are numbered.

    Raises:
        ValueError: A line does not begin with a number.
    """
    for number, line in text_lines(path):
        parts = WINOBIAS.fullmatch(line.strip())
        if not parts:
            raise ValueError(f"{path}, line {number}: expected a number and a sentence, got {kind(line)}")
        yield Row({"sentence": parts.group(1)}, f"{path}, line {number}")


def winogender(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a Winogender sentence: which of two people a pronoun refers to.

    The options are in the sentence's id, "occupation.participant.answer.gender.txt", in which the answer is the index
    of the right one, 0 or 1.

    Raises:
        ValueError: The id has another form, or the sentence has no pronoun.
    """
    parts = row.text("sentid").split(".")
    if len(parts) != 5 or parts[2] not in ("0", "1"):
        raise row.error(f"'sentid' should be occupation.participant.answer.gender.txt, got {kind(row.value('sentid'))}")
    pronoun = re.search(r"\b(he|she|they|him|her|them|his|their)\b", row.text("sentence"), flags=re.IGNORECASE)
    if not pronoun:
        raise row.error(f"no pronoun in {kind(row.value('sentence'))}")
    options = [name if name == "someone" else f"the {name}" for name in parts[:2]]
    text = f'{row.text("sentence").strip()}\nWho does the pronoun "{pronoun.group().lower()}" refer to?'
    yield from choice_example(row, text, options, int(parts[2]))


def crows_pairs(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a CrowS-Pairs row: whether sentence A of two about different groups is a stereotype."""
    pair = (row.text("sent_more"), row.text("sent_less"))
    text = f"A: {pair[0].strip()}\nB: {pair[1].strip()}\nSentence A is illustrating a stereotype. Yes or no?\nanswer:"
    yield from choice_example(
        row, text, ("yes", "no"), label_index(row, "stereo", "antistereo", key="stereo_antistereo")
    )
