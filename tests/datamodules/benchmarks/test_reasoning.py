import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks.rationales import NO_RATIONALE
from crosstask.datamodules.benchmarks.reasoning import DATASETS, INSTRUCTION, Reasoning
from crosstask.datamodules.benchmarks.reasoning_rows import NO_ANSWER
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.schema import Example


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


CQA = {
    "id": "q1",
    "answerKey": "B",
    "question": {
        "stem": "Where do fish live?",
        "choices": [{"label": "A", "text": "trees"}, {"label": "B", "text": "water"}],
    },
}
COQA = {
    "story": "Ann has a red cat.",
    "questions": [{"input_text": "Who has a cat?"}, {"input_text": "What color?"}, {"input_text": "How old?"}],
    "answers": [
        {"input_text": "Ann", "span_text": "Ann has a red cat"},
        {"input_text": "red", "span_text": "a red cat"},
        {"input_text": "unknown", "span_text": "unknown"},
    ],
}
THEORY: dict[str, Any] = {
    "theory": "The cow is big. If something is big then it chases the dog.",
    "triples": {"triple1": {"text": "The cow is big."}},
    "rules": {"rule1": {"text": "If something is big then it chases the dog."}},
    "questions": {
        "Q1": {
            "question": "The cow chases the dog.",
            "answer": True,
            "proofsWithIntermediates": [
                {
                    "representation": "((triple1) -> (rule1 % int1))",
                    "intermediates": {"int1": {"text": "The cow chases the dog."}},
                }
            ],
        },
        "Q2": {"question": "The dog is big.", "answer": "Unknown"},
    },
}
QED = {
    "paragraph_text": "Howl was written by Diana Wynne Jones . It is long .",
    "question_text": "who wrote howl",
    "annotation": {
        "explanation_type": "single_sentence",
        "selected_sentence": {"string": "Howl was written by Diana Wynne Jones ."},
        "referential_equalities": [
            {"question_reference": {"string": "howl"}, "sentence_reference": {"string": "Howl"}}
        ],
        "answer": [{"paragraph_reference": {"string": "Diana Wynne Jones"}}],
    },
}
ESNLI_QUESTION = (
    "Premise: A cat sleeps.\nHypothesis: A cat runs.\nDoes the premise entail the hypothesis?\n"
    "Options:\n- entailment\n- neutral\n- contradiction"
)
ESNLI = (ESNLI_QUESTION, ("It sleeps. The answer is contradiction", "Not both. The answer is contradiction"))
PASSAGE = "Ann has a red cat."

# dataset, split, its files, the first example's input and targets
CASES: list[tuple[str, str, dict[str, str], str, tuple[str, ...]]] = [
    (
        "gsm8k",
        "train",
        {
            "gsm8k/train.jsonl": lines(
                {"question": "How many?", "answer": "It is 48/2 = <<48/2=24>>24.\nDone.\n#### 24"}
            )
        },
        "How many?",
        ("It is 48/2 = 24.\nDone. The answer is 24",),
    ),
    (
        "strategyqa",
        "validation",
        {
            "strategyqa/dev.json": json.dumps(
                [{"question": "Is it?", "answer": False, "facts": ["Cats purr", "Dogs bark."]}]
            )
        },
        "Is it?",
        ("Cats purr. Dogs bark. The answer is no",),
    ),
    (
        "aqua_rat",
        "test",
        {
            "aqua/test.json": lines(
                {"question": "How fast?", "options": ["A)1", "B) 2 m"], "rationale": "Divide.", "correct": "B"}
            )
        },
        "How fast?\nOptions:\n(A) 1\n(B) 2 m",
        ("Divide. The answer is (B)",),
    ),
    (
        "coqa",
        "train",
        {"coqa/coqa-train-v1.0.json": json.dumps({"version": "1.0", "data": [COQA]})},
        f"{PASSAGE}\nQ: Who has a cat?",
        ("Ann has a red cat. The answer is Ann",),
    ),
    (
        "cos_e",
        "train",
        {
            "cos_e/train_rand_split.jsonl": lines(CQA),
            "cos_e/cose_train_v1.11.jsonl": lines(
                {"id": "q1", "explanation": {"open-ended": "Fish swim", "selected": "fish"}}
            ),
        },
        "Where do fish live?\nOptions:\n- trees\n- water",
        ("Fish swim. The answer is water",),
    ),
    (
        "creak",
        "train",
        {"creak/train.json": lines({"sentence": "Fish fly.", "explanation": "They swim!", "label": "false"})},
        "Is the following claim true or false?\nFish fly.\nOptions:\n- true\n- false",
        ("They swim! The answer is false",),
    ),
    (
        "creak",
        "train",
        {
            "flan_cot/creak_train.tsv": '"Fish fly."\\nIs the above claim true?\\nOptions:\\n- yes\\n- no'
            "\tno\tThey swim.\n"
        },
        '"Fish fly."\nIs the above claim true?\nOptions:\n- yes\n- no',
        ("They swim. The answer is no",),
    ),
    (
        "ecqa",
        "test",
        {
            "ecqa/cqa_data_test.csv": ",q_no,q_text,q_op1,q_op2,q_op3,q_op4,q_op5,q_ans,taskB\n"
            '0,a,Where?,trees,air,water,fire,home,water,"Fish swim, there."\n'
        },
        "Where?\nOptions:\n- trees\n- air\n- water\n- fire\n- home",
        ("Fish swim, there. The answer is water",),
    ),
    (
        "esnli",
        "validation",
        {
            "esnli/s1.dev": "A cat sleeps.\n",
            "esnli/s2.dev": "A cat runs.\n",
            "esnli/labels.dev": "contradiction\n",
            "esnli/preproc1_expl_1.dev": "It sleeps.\n",
            "esnli/preproc1_expl_2.dev": "Not both.\n",
            "esnli/preproc1_expl_3.dev": "It sleeps.\n",
        },
        *ESNLI,
    ),
    (
        "math",
        "train",
        {
            "MATH/train/algebra/1.json": json.dumps(
                {"problem": "Find $x$.", "solution": "So $x = \\boxed{\\frac{1}{2}}$."}
            )
        },
        "Find $x$.",
        ("So $x = \\boxed{\\frac{1}{2}}$. The answer is \\frac{1}{2}",),
    ),
    (
        "proofwriter",
        "train",
        {"proofwriter/OWA/depth-5/meta-train.jsonl": lines(THEORY)},
        f"{THEORY['theory']}\nIs it true or false, or unknown: The cow chases the dog.\n"
        "Options:\n- True\n- False\n- Unknown",
        ("The cow is big. If something is big then it chases the dog. So the cow chases the dog. The answer is True",),
    ),
    (
        "qasc",
        "train",
        {"qasc/train.jsonl": lines(CQA | {"fact1": "Fish swim", "fact2": "One swims in water."})},
        "Where do fish live?\nOptions:\n(A) trees\n(B) water",
        ("Fish swim. One swims in water. The answer is (B)",),
    ),
    (
        "qed",
        "validation",
        {"qed/qed-dev.jsonlines": lines(QED)},
        f"{QED['paragraph_text']}\nwho wrote howl",
        ('Howl was written by Diana Wynne Jones . "howl" in the question is "Howl". The answer is Diana Wynne Jones',),
    ),
    (
        "sense_making",
        "validation",
        {
            "sense_making/Dev Data/subtaskA_dev_data.csv": "id,sent0,sent1\n7,Fish swim.,Fish fly.\n",
            "sense_making/Dev Data/subtaskA_gold_answers.csv": "7,1\n",
            "sense_making/Dev Data/subtaskC_gold_answers.csv": '7,"No wings, no flight.",Fish swim,\n',
        },
        "Which of the two statements is against common sense?\nOptions:\n- Fish swim.\n- Fish fly.",
        ("No wings, no flight. The answer is Fish fly.", "Fish swim. The answer is Fish fly."),
    ),
    (
        "winowhy",
        "train",
        {
            "winowhy/dataset.csv": "wnli_sent1,wnli_sent2,label\n"
            "Tom fed the cat as it was hungry.,"
            "The it is more likely to refer to the cat than Tom because cats get hungry,1\n"
        },
        'Tom fed the cat as it was hungry.\nWhat does "it" refer to?\nOptions:\n- Tom\n- the cat',
        ("cats get hungry. The answer is the cat",),
    ),
]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("name", "split", "files", "question", "targets"), CASES)
def test_a_dataset_reads_as_its_files_say(
    tmp_path: Path, name: str, split: Any, files: dict[str, str], question: str, targets: tuple[str, ...]
) -> None:
    write(tmp_path, files)
    reader = Reasoning(str(tmp_path), split=split)
    assert reader.task_names(split) == [name]
    first, *_ = reader.examples(name)
    assert (first.input, first.targets, first.skipped) == (question, targets, "")
    if first.options:
        assert first.answer is not None
        assert first.targets[0].endswith(f"The answer is {first.options[first.answer]}")
    assert len(reader.fingerprint(name)) == 64


def test_every_dataset_of_the_fourteen_is_tried() -> None:
    assert len(DATASETS) == 14
    assert {case[0] for case in CASES} == set(DATASETS)


def test_a_prompt_reads_as_the_paper_prints_it(tmp_path: Path) -> None:
    write(tmp_path, CASES[2][2])
    reader = Reasoning(str(tmp_path), split="test")
    (example,) = reader.examples("aqua_rat")
    form = OptImlPrompt(delimiters=("\nA:",), instructions_share=0, task_share=0, input_share=0)
    prompt = form(reader.task("aqua_rat"), example, rendering_rng(0, "aqua_rat", example.id))
    assert prompt.source == f"{INSTRUCTION}\nHow fast?\nOptions:\n(A) 1\n(B) 2 m\nA:"
    assert prompt.target == "Divide. The answer is (B)"


def read(folder: Path, name: str, *records: object) -> list[Example]:
    path = folder / "rows.jsonl"
    path.write_text(lines(*records), encoding="utf-8")
    return list(Reasoning(sources={name: str(path)}).examples(name))


def test_a_conversation_is_an_example_a_question(tmp_path: Path) -> None:
    first, second, third = read(tmp_path, "coqa", COQA)
    assert first.id == "train-0"
    assert second.input == f"{PASSAGE}\nQ: Who has a cat?\nA: Ann\nQ: What color?"
    assert second.targets == ("a red cat. The answer is red",)
    assert third.skipped == NO_RATIONALE
    hub = {
        "story": PASSAGE,
        "questions": ["Who has a cat?", "How old?"],
        "answers": {"input_text": ["Ann", "unknown"], "answer_start": [0, -1], "answer_end": [17, -1]},
    }
    assert [example.targets for example in read(tmp_path, "coqa", hub)] == [first.targets, ()]


def test_rows_of_the_hub_read_as_the_files_do(tmp_path: Path) -> None:
    choices = {"text": ["trees", "water"], "label": ["A", "B"]}
    qasc = {"question": "Where do fish live?", "choices": choices, "answerKey": "B", "fact1": "Fish swim.", "fact2": ""}
    assert read(tmp_path, "qasc", qasc)[0].targets == ("Fish swim. The answer is (B)",)
    assert read(tmp_path, "qasc", qasc | {"answerKey": ""})[0].skipped == NO_ANSWER
    esnli = {"premise": "A cat sleeps.", "hypothesis": "A cat runs.", "label": 2, "explanation_1": "It sleeps."}
    assert read(tmp_path, "esnli", esnli)[0].input == ESNLI_QUESTION
    table = {"Sentence1": "A cat sleeps.", "Sentence2": "A cat runs.", "gold_label": "contradiction"}
    assert read(tmp_path, "esnli", table | {"Explanation_1": "It sleeps."})[0].targets == ESNLI[1][:1]


def test_records_without_a_rationale_are_counted(tmp_path: Path) -> None:
    assert read(tmp_path, "creak", {"sentence": "Fish fly.", "label": "false"})[0].skipped == NO_RATIONALE
    assert read(tmp_path, "proofwriter", THEORY)[1].skipped == NO_RATIONALE
    several = QED | {"annotation": {"explanation_type": "multi_sentence"}}
    assert read(tmp_path, "qed", several)[0].skipped == NO_RATIONALE
    assert read(tmp_path, "math", {"problem": "Prove it.", "solution": "Clear."})[0].skipped == NO_ANSWER
    wrong = {"wnli_sent1": "a", "wnli_sent2": "The it is more likely to refer to b than c because d", "label": "0"}
    assert read(tmp_path, "winowhy", wrong)[0].skipped == "its reason is a wrong one"


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        (
            "gsm8k",
            {"question": "How many?", "answer": "24"},
            "expected '#### <number>' at the end of 'answer', got str '24'",
        ),
        (
            "strategyqa",
            {"question": "Is it?", "answer": "yes", "facts": []},
            "'answer' should be true or false, got str",
        ),
        ("aqua_rat", {"question": "", "options": ["1"], "rationale": "", "correct": "A"}, "should begin with A) to E)"),
        (
            "aqua_rat",
            {"question": "How?", "options": ["A)1"], "rationale": "So.", "correct": "B"},
            "the answer '(B)' is none of the choices ['(A)']",
        ),
        ("aqua_rat", {"question": "How?", "options": [], "rationale": "", "correct": "B"}, "empty choices: []"),
        ("coqa", COQA | {"answers": []}, "expected an answer for each of 3 questions, got 0"),
        ("creak", {"sentence": "a", "label": "maybe"}, "the answer 'maybe' is none of the choices ['true', 'false']"),
        ("esnli", {"premise": "a", "hypothesis": "b", "label": -1, "explanation_1": ""}, "the answer '-1' is none of"),
        ("sense_making", {"sent0": "a", "sent1": "b", "label": 2, "reason1": "c"}, "'label' should be 0 or 1, got 2"),
        ("winowhy", {"wnli_sent1": "a", "wnli_sent2": "It is b.", "label": "1"}, "expected 'The ... is more likely"),
        ("qasc", {"question": "a", "fact1": "b"}, "no 'fact2'; nearest: fact1"),
        (
            "proofwriter",
            THEORY | {"rules": {}},
            "question Q1: the proof names 'rule1', which is not a fact, rule or step",
        ),
    ],
)
def test_wrong_records_are_rejected(tmp_path: Path, name: str, record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(tmp_path, name, record)
    assert str(error.value).startswith(f"reasoning, task {name}: {tmp_path}/rows.jsonl, line 1")


def test_files_that_belong_together_must_match(tmp_path: Path) -> None:
    write(tmp_path, CASES[8][2] | {"esnli/labels.dev": "neutral\nneutral\n"})
    with pytest.raises(ValueError, match=r"files with equal numbers of lines, got 1 in s1.dev, .*2 in labels.dev"):
        list(Reasoning(str(tmp_path), split="validation").examples("esnli"))
    write(tmp_path, CASES[13][2] | {"sense_making/Dev Data/subtaskA_gold_answers.csv": "8,1\n"})
    with pytest.raises(
        ValueError, match=r"subtaskA_dev_data.csv, line 2: no line of id '7' in .*subtaskA_gold_answers"
    ):
        list(Reasoning(str(tmp_path), split="validation").examples("sense_making"))
    write(tmp_path, CASES[4][2] | {"cos_e/cose_train_v1.11.jsonl": lines({"id": "q2", "explanation": {}})})
    with pytest.raises(ValueError, match=r"no explanation of id 'q1' in .*cose_train_v1.11.jsonl"):
        list(Reasoning(str(tmp_path)).examples("cos_e"))


def test_a_folder_of_files_has_a_fingerprint_of_all(tmp_path: Path) -> None:
    write(tmp_path, CASES[9][2])
    before = Reasoning(str(tmp_path)).fingerprint("math")
    write(tmp_path, {"MATH/train/algebra/2.json": json.dumps({"problem": "x", "solution": "y"})})
    assert Reasoning(str(tmp_path)).fingerprint("math") != before
    assert sum(1 for _ in Reasoning(str(tmp_path)).examples("math")) == 2


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_the_real_files_read_whole() -> None:
    found = {}
    for split in ("train", "validation", "test"):
        reader = Reasoning("$CROSSTASK_DATA", split=split)  # type: ignore[arg-type]
        for name in reader.task_names(split):  # type: ignore[arg-type]
            examples = list(reader.examples(name))
            assert not any(example.skipped for example in examples)
            found[split, name] = len(examples)
    assert found == {
        ("train", "gsm8k"): 2500,
        ("train", "strategyqa"): 800,
        ("train", "aqua_rat"): 2728,
        ("train", "creak"): 2500,
        ("train", "ecqa"): 2500,
        ("train", "qasc"): 1084,
        ("train", "sense_making"): 2500,
        ("validation", "strategyqa"): 229,
        ("validation", "aqua_rat"): 254,
        ("validation", "esnli"): 2500,
        ("test", "gsm8k"): 1319,
        ("test", "aqua_rat"): 254,
        ("test", "esnli"): 2500,
    }
