import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks.multiple_choice import UNLABELLED
from crosstask.datamodules.benchmarks.opt_evaluation import DATASETS, OptEvaluation
from crosstask.datamodules.benchmarks.opt_evaluation_rows import UNMARKED
from crosstask.datamodules.schema import Example

SCIENCE = {
    "question": {"stem": "What is hot?", "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}]},
    "answerKey": "B",
}
SCIENCE_OF_HUB = {
    "question": "What is hot?",
    "choices": {"text": ["ice", "fire"], "label": ["1", "2"]},
    "answerKey": "2",
}
NLI = {"premise": "Cats purr.", "hypothesis": "Cats talk."}
MULTIRC = {
    "passage": {
        "text": "Ann ran.",
        "questions": [{"question": "Who?", "answers": [{"text": "Tom", "label": 0}, {"text": "Ann", "label": 1}]}],
    }
}
SPANS = {"span1_text": "the cat", "span2_text": "it", "span2_index": 4}
STORY = {f"InputSentence{n}": f"Part {n}." for n in range(1, 5)}
STORY |= {"RandomFifthSentenceQuiz1": "Good.", "RandomFifthSentenceQuiz2": "Bad.", "AnswerRightEnding": "2"}

# task, row, prompt, options, answer
CASES: list[tuple[str, dict[str, Any], str, tuple[str, ...], int]] = [
    ("story_cloze", STORY, "Part 1. Part 2. Part 3. Part 4.", ("Good.", "Bad."), 1),
    (
        "piqa",
        {"goal": "Dry it.", "sol1": "sun", "sol2": "rain", "label": 0},
        "Question: Dry it.\nAnswer:",
        ("sun", "rain"),
        0,
    ),
    ("arc_easy", SCIENCE, "Question: What is hot?\nAnswer:", ("ice", "fire"), 1),
    ("arc_challenge", SCIENCE_OF_HUB, "Question: What is hot?\nAnswer:", ("ice", "fire"), 1),
    ("openbookqa", SCIENCE, "Question: What is hot?\nAnswer:", ("ice", "fire"), 1),
    (
        "winograd",
        {"text": "Tom fed it.", "pronoun": "it", "pronoun_loc": 8, "options": ["the cat", "the dog"], "label": 0},
        "Tom fed",
        ("the cat.", "the dog."),
        0,
    ),
    (
        "winogrande",
        {"sentence": "Tom fed _ well.", "option1": "the cat", "option2": "the cup", "answer": "1"},
        "Tom fed",
        ("the cat well.", "the cup well."),
        0,
    ),
    (
        "boolq",
        {"passage": "Cats purr.", "question": "do cats purr", "label": True},
        "Cats purr.\nquestion: do cats purr?\nanswer:",
        ("no", "yes"),
        1,
    ),
    (
        "cb",
        NLI | {"label": "neutral"},
        "Cats purr.\nquestion: Cats talk. true, false, or neither?\nanswer:",
        ("true", "false", "neither"),
        2,
    ),
    (
        "copa",
        {"premise": "He fell.", "choice1": "It hurt.", "choice2": "He slipped.", "question": "cause", "label": 1},
        "He fell because",
        ("it hurt.", "he slipped."),
        1,
    ),
    (
        "rte",
        NLI | {"label": "not_entailment"},
        "Cats purr.\nquestion: Cats talk. True or False?\nanswer:",
        ("True", "False"),
        1,
    ),
    (
        "wic",
        {"word": "cup", "sentence1": "A cup.", "sentence2": "They cup.", "label": False},
        "A cup.\nThey cup.\nquestion: Is the word 'cup' used in the same way in the two sentences above?\nanswer:",
        ("no", "yes"),
        0,
    ),
    (
        "wsc",
        {"text": "The cat ate since it was hungry.", "target": SPANS, "label": True},
        "Passage: The cat ate since *it* was hungry.\n"
        'Question: In the passage above, does the pronoun "*it*" refer to "the cat"?\nAnswer:',
        ("no", "yes"),
        1,
    ),
    (
        "multirc",
        MULTIRC,
        "Ann ran.\nquestion: Who?\nanswer: Tom\nIs this answer true or false?\nanswer:",
        ("false", "true"),
        0,
    ),
    (
        "anli_r1",
        {"context": "Cats purr.", "statement": "Cats talk.", "gold_label": "n"},
        "Cats purr.\nquestion: Cats talk. True, False, or Neither?\nanswer:",
        ("True", "Neither", "False"),
        1,
    ),
    (
        "anli_r2",
        {"context": "Cats purr.", "hypothesis": "Cats talk.", "label": "c"},
        "Cats purr.\nquestion: Cats talk. True, False, or Neither?\nanswer:",
        ("True", "Neither", "False"),
        2,
    ),
    (
        "anli_r3",
        NLI | {"label": 0},
        "Cats purr.\nquestion: Cats talk. True, False, or Neither?\nanswer:",
        ("True", "Neither", "False"),
        0,
    ),
    (
        "winogender",
        {"sentid": "technician.someone.0.male.txt", "sentence": "The technician told someone that he had won."},
        'The technician told someone that he had won.\nWho does the pronoun "he" refer to?',
        ("the technician", "someone"),
        0,
    ),
    (
        "crows_pairs",
        {"sent_more": "Cats lie.", "sent_less": "Dogs lie.", "stereo_antistereo": "antistereo"},
        "A: Cats lie.\nB: Dogs lie.\nSentence A is illustrating a stereotype. Yes or no?\nanswer:",
        ("yes", "no"),
        1,
    ),
]


def read(folder: Path, name: str, *records: object, **arguments: Any) -> list[Example]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return list(OptEvaluation(sources={name: str(path)}, **arguments).examples(name))


@pytest.mark.parametrize(("name", "row", "prompt", "options", "answer"), CASES)
def test_a_task_reads_in_the_words_of_its_prompt(
    tmp_path: Path, name: str, row: dict[str, Any], prompt: str, options: tuple[str, ...], answer: int
) -> None:
    first, *_ = read(tmp_path, name, row)
    expected = Example(name, "validation-0", 0, prompt, (options[answer],), options=options, answer=answer)
    assert first == expected


def test_every_task_is_tried() -> None:
    tried = {case[0] for case in CASES} | {name for name in DATASETS if name.startswith("winobias")}
    assert tried == set(DATASETS)
    assert (
        list(DATASETS)[:14]
        == (
            "story_cloze piqa arc_easy arc_challenge openbookqa winograd winogrande boolq cb copa rte wic wsc multirc"
        ).split()
    )
    assert {DATASETS[f"anli_r{number}"].parent for number in (1, 2, 3)} == {"anli"}


def test_rows_of_the_hub_read_as_the_files_do(tmp_path: Path) -> None:
    assert read(tmp_path, "boolq", {"passage": "a", "question": "b?", "label": 1})[0].answer == 1
    assert read(tmp_path, "cb", NLI | {"label": 1})[0].targets == ("false",)
    assert read(tmp_path, "wsc", {"text": "The cat ate since it was hungry.", "label": 0} | SPANS)[0].answer == 0
    hub = {"paragraph": "Ann ran.", "question": "Who?", "answer": "Ann", "label": 1}
    assert read(tmp_path, "multirc", hub) == [
        Example(
            "multirc",
            "validation-0",
            0,
            "Ann ran.\nquestion: Who?\nanswer: Ann\nIs this answer true or false?\nanswer:",
            ("true",),
            options=("false", "true"),
            answer=1,
        )
    ]
    for row in ({"passage": "a", "question": "b", "label": -1}, {"passage": "a", "question": "b"}):
        assert read(tmp_path, "boolq", row)[0].skipped == UNLABELLED


def test_winobias_is_four_parts_of_one_score(tmp_path: Path) -> None:
    (tmp_path / "winobias").mkdir()
    lines = [
        "1 [The chief] hired the clerk because [she] needed to rest [her] feet.",
        "2 The clerk notified the [the chief] and asked [him] to act.",
        "3 The clerk notified the chief and asked him to act.",
    ]
    path = tmp_path / "winobias/pro_stereotyped_type1.txt.dev"
    path.write_text("\n".join(lines) + "\n")
    reader = OptEvaluation(str(tmp_path))
    assert reader.task_names("test") == ["winobias_pro_type1"]
    task = reader.task("winobias_pro_type1")
    assert (task.parent, task.metric, task.sources) == ("winobias", "rouge_l", ("winobias",))
    first, second, third = reader.examples("winobias_pro_type1")
    assert first.input == (
        'The chief hired the clerk because she needed to rest her feet.\nWhat does the pronoun "she" refer to?'
    )
    assert (first.targets, second.targets) == (("the chief",), ("the chief",))
    assert second.input.startswith("The clerk notified the chief and asked him")
    assert third.skipped == UNMARKED
    path.write_text("Tom ran.\n")
    with pytest.raises(
        ValueError, match=re.escape(f"{path}, line 1: expected a number and a sentence, got str 'Tom ran.'")
    ):
        list(reader.examples("winobias_pro_type1"))


def test_goals_and_labels_must_match(tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa/valid.jsonl").write_text('{"goal": "Dry it.", "sol1": "sun", "sol2": "rain"}\n')
    (tmp_path / "piqa/valid-labels.lst").write_text("1\n")
    reader = OptEvaluation(str(tmp_path))
    before = reader.fingerprint("piqa")
    assert [example.targets for example in reader.examples("piqa")] == [("rain",)]
    (tmp_path / "piqa/valid-labels.lst").write_text("1\n0\n")
    assert reader.fingerprint("piqa") != before
    with pytest.raises(ValueError, match=r"opt_evaluation, task piqa: .*expected a label for each goal, got 2 for 1"):
        list(reader.examples("piqa"))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("boolq", {"passage": "a", "questions": "b"}, "no 'question'; nearest: questions"),
        ("boolq", {"passage": "a", "question": "b", "label": "yes"}, "'label' should be one of [False, True], got str"),
        ("cb", NLI | {"label": 3}, "'label' should be a number below 3, got 3"),
        ("copa", {"premise": "a", "choice1": "", "choice2": "c", "question": "cause", "label": 0}, "empty choices"),
        ("copa", {"premise": "a", "choice1": "b", "choice2": "c", "question": "why"}, "should be cause or effect"),
        ("arc_easy", SCIENCE | {"answerKey": "C"}, "the answer 'C' is none of the choices ['A', 'B']"),
        ("piqa", {"goal": "a", "sol1": "b", "sol2": "c", "label": 2}, "the answer 2 is none of the choices ['b', 'c']"),
        ("wsc", {"text": "it", "target": SPANS}, "the pronoun's index 4 is outside a text of 1 words"),
        ("wsc", {"text": "it is", "target": SPANS | {"span2_index": -1}}, "the pronoun's index -1 is outside a text"),
        (
            "winograd",
            {"text": "Tom fed it.", "pronoun": "it", "pronoun_loc": 7, "options": ["a", "b"], "label": 0},
            "the pronoun 'it' is not at character 7 of the text",
        ),
        ("multirc", {"passage": "Ann ran."}, "expected an object with 'questions', got str 'Ann ran.'"),
        ("multirc", {"passage": {"text": "a", "questions": "b"}}, "'questions' should be a list of objects, got str"),
        (
            "arc_easy",
            {"question": "a", "choices": {"text": ["b", "c"], "label": ["A"]}, "answerKey": "A"},
            "expected a letter for each choice, got 1 for 2",
        ),
        ("winogrande", {"sentence": "a", "option1": "b", "option2": "c"}, "'sentence' has no blank '_'"),
        ("winogender", {"sentid": "technician", "sentence": "a"}, "'sentid' should be occupation.participant.answer"),
        ("winogender", {"sentid": "a.b.1.male.txt", "sentence": "a"}, "no pronoun in str 'a'"),
    ],
)
def test_wrong_records_are_rejected(tmp_path: Path, name: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(tmp_path, name, row)
    assert str(error.value).startswith(f"opt_evaluation, task {name}: {tmp_path}/rows.jsonl, line 1")


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_the_real_files_read_whole() -> None:
    found = {}
    for split in ("train", "validation", "test"):
        reader = OptEvaluation("$CROSSTASK_DATA", split=split)  # type: ignore[arg-type]
        for name in reader.task_names("test"):
            examples = list(reader.examples(name))
            assert not any(example.skipped for example in examples)
            found[split, name] = len(examples)
    superglue = {"boolq": 700, "cb": 56, "copa": 100, "rte": 277, "wic": 638, "wsc": 104, "multirc": 4848}
    validation = {"piqa": 1838, **superglue, "anli_r1": 500, "anli_r2": 500, "anli_r3": 500}
    bias = {f"winobias_{side}_{kind}": 396 for side in ("pro", "anti") for kind in ("type1", "type2")}
    bias |= {"winogender": 720, "crows_pairs": 1508}
    train = {name: 154 if name == "multirc" else 32 for name in superglue}
    assert found == {
        **{("train", name): count for name, count in train.items()},
        **{("validation", name): count for name, count in (validation | bias).items()},
        **{("test", name): count for name, count in bias.items()},
    }
