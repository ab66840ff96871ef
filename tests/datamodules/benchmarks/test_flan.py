import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks.chain_of_thought import ChainOfThought
from crosstask.datamodules.benchmarks.flan import FLAN, FlanRows
from crosstask.datamodules.schema import Example, Task

# In the form of google-research/FLAN, flan/templates.py at 3770e8379f17; the wording is ours.
TEMPLATES = r'''
"""Templates."""
import os  # never run
os.abort()
PATTERNS = {
    "rte": [
        ("{premise}\n\nDoes \"{hypothesis}\" follow?\n\n{options_}", "{answer}"),
        ("True given {premise}? {hypothesis}\n{options_}", "{answer}"),
        ("Invent a premise.", "Premise: {premise}"),
    ],
    "copa": [("{premise} What is the {question}?\n{options_}", "{answer}")],
    "translate": [
        ("{sent1} in {lang2}?", "{sent2}"),
        ("Translate to {lang2}: {sent1}", "{sent2}"),
        ("{sent2} in {lang1}?", "{sent1}"),
        ("Write something in {lang2}.", "{sent2}"),
    ],
}
'''
RTE = [
    {"premise": "It {rains}.", "hypothesis": "It is wet.", "label": 0},
    {"premise": "a", "hypothesis": "b", "label": -1},
]
COPA = {
    "premise": "The sun rose.",
    "question": "effect",
    "choice1": "It got light.",
    "choice2": "It froze.",
    "label": 0,
}
PAIR = {"translation": {"en": "house", "de": "Haus"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "templates.py").write_text(TEMPLATES, encoding="utf-8")
    write(tmp_path, "rte", *RTE)
    write(tmp_path, "copa", COPA)
    write(tmp_path, "pairs", PAIR)
    return tmp_path


def write(folder: Path, name: str, *rows: object) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def reader(folder: Path, **options: Any) -> FLAN:
    rows = {
        "rte": FlanRows(str(folder / "rte.jsonl"), options=["yes", "no"], label="label"),
        "copa": FlanRows(str(folder / "copa.jsonl"), options=["{choice1}", "{choice2}"], label="label"),
        "wmt14_deen": FlanRows(
            str(folder / "pairs.jsonl"),
            templates="translate",
            columns={"sent1": "translation.en", "sent2": "translation.de"},
            constants={"lang1": "English", "lang2": "German"},
        ),
    }
    return FLAN(str(folder / "templates.py"), **{"rows": rows, "prompts": "all", **options})


@pytest.mark.parametrize(("column", "templates"), [("premise", 2), ("hypothesis", 2)])
def test_a_null_is_not_written_as_a_word(column: str, templates: int, folder: Path) -> None:
    write(folder, "rte", {**RTE[0], column: None}, RTE[0])
    examples = list(reader(folder).examples("rte"))
    assert [e.skipped for e in examples] == ["a column of the template is null"] * templates + [""] * templates
    assert not [e for e in examples if "None" in e.input]


def test_rows_are_rendered_with_their_options(folder: Path) -> None:
    flan = reader(folder)
    prompt = 'It {rains}.\n\nDoes "It is wet." follow?\n\nOPTIONS:\n- yes\n- no'
    examples = list(flan.examples("rte"))
    assert examples[0] == Example("rte", "rte-0-0", 0, prompt, ("yes",), "0", ("yes", "no"), 0)
    assert [(e.id, e.skipped) for e in examples[1:]] == [
        ("rte-0-1", ""),
        ("rte-1-0", "no label"),
        ("rte-1-1", "no label"),
    ]
    prompt = "The sun rose. What is the effect?\nOPTIONS:\n- It got light.\n- It froze."
    options = ("It got light.", "It froze.")
    assert list(flan.examples("copa")) == [Example("copa", "copa-0-0", 0, prompt, (options[0],), "0", options, 0)]
    assert flan.task("rte") == Task(
        "flan", "rte", "Textual Entailment", instruction_level="instance", sources=("rte",), metric="accuracy"
    )
    assert (flan.task_names("train"), flan.task_names("test")) == (["copa", "rte", "wmt14_deen"], [])


def test_templates_that_turn_the_task_around_are_left_out(folder: Path) -> None:
    upright = [(e.template, e.input, e.targets[0]) for e in reader(folder).examples("wmt14_deen")]
    assert upright == [("0", "house in German?", "Haus"), ("1", "Translate to German: house", "Haus")]
    both = [(e.input, e.targets[0]) for e in reader(folder, inverted=True).examples("wmt14_deen")][2:]
    assert both == [("Haus in English?", "house"), ("Write something in German.", "Haus")]
    turned = list(reader(folder, inverted=True).examples("rte"))[2]
    assert (turned.input, turned.targets, turned.options) == ("Invent a premise.", ("Premise: It {rains}.",), ())


def test_one_template_is_drawn_for_each_of_a_random_part_of_the_rows(folder: Path) -> None:
    write(folder, "rte", *[RTE[0]] * 200, *[{**RTE[0], "label": 1}] * 200)  # sorted by label
    examples = list(reader(folder, prompts="one", cap=300).examples("rte"))
    places = [example.index for example in examples]
    assert places == sorted(set(places))
    assert [example.id for example in examples] == [f"rte-{place}" for place in places]
    assert Counter(example.targets[0] for example in examples) == {"yes": 154, "no": 146}
    assert [e.index for e in reader(folder, cap=300, seed=1, prompts="one").examples("rte")] != places
    assert min(Counter(example.template for example in examples).values()) > 110  # of 150
    assert sum(1 for _ in reader(folder, prompts="one", cap=None).examples("rte")) == 400
    assert FLAN("t.py", {}).cap == 30_000


def test_templates_may_stand_in_a_yaml(folder: Path) -> None:
    (folder / "own.yaml").write_text('copa:\n- ["{premise} Next?\\n{options_}", "{answer}"]\n')
    flan = FLAN(str(folder / "own.yaml"), reader(folder).rows, prompts="all")
    assert next(flan.examples("copa")).input == "The sun rose. Next?\nOPTIONS:\n- It got light.\n- It froze."


def test_rows_may_bring_options_and_answer(folder: Path) -> None:
    write(
        folder, "copa", {**COPA, "options": ["a", "b"], "answer": "b"}, {**COPA, "options": ["a", "b"], "answer": "c"}
    )
    flan = reader(folder, rows={"copa": FlanRows(str(folder / "copa.jsonl"))})
    first, second = flan.examples("copa")
    assert (first.options, first.answer, first.targets) == (("a", "b"), 1, ("b",))
    assert (second.skipped, second.targets) == ("the answer is none of the options", ())
    write(folder, "copa", {**COPA, "options": ["a", ""], "answer": "a"})
    assert next(flan.examples("copa")).skipped == "an option is empty"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"premise": "a", "label": 0}, "no 'hypothesis'; none has a similar name"),
        ({"premise": "a", "hypothesis": "b"}, "no 'label'"),
        ({"premise": "a", "hypothesis": "b", "label": 2}, "the label is 2, and there are 2 options"),
        ({"premise": "a", "hypothesis": "b", "label": "x"}, "the label is 'x', and there are 2 options"),
    ],
)
def test_a_wrong_row_is_rejected_with_its_place(folder: Path, row: object, message: str) -> None:
    write(folder, "rte", RTE[0], row)
    place = f"flan, task rte: {folder}/rte.jsonl, line 2: {message}"
    with pytest.raises(ValueError, match=re.escape(place)):
        list(reader(folder).examples("rte"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PATTERNS = {", "was never closed"),
        ("PATTERNS = {'rte': open('x')}", "PATTERNS must hold literals only, since no code is run"),
        ("OTHER = {}", "expected PATTERNS to map tasks to pairs of patterns, got NoneType None"),
        ("PATTERNS = {'rte': []}", "task rte: expected a list of pairs (prompt, answer), got list []"),
        ("PATTERNS = {'rte': [('a',)]}", "task rte: template 0 should be a pair of texts (prompt, answer), got tuple"),
        ("PATTERNS = {'rt': [('a', 'b')]}", "has no templates 'rte'; nearest: rt"),
    ],
)
def test_wrong_templates_are_rejected_with_their_file(folder: Path, text: str, message: str) -> None:
    (folder / "templates.py").write_text(text)
    with pytest.raises(ValueError, match=f"flan, task rte: {re.escape(str(folder))}.*{re.escape(message)}"):
        list(reader(folder).examples("rte"))


def test_wrong_arguments_are_answered(folder: Path) -> None:
    with pytest.raises(ValueError, match="task rt: no such task among 3; nearest: rte"):
        reader(folder).task("rt")
    with pytest.raises(ValueError, match="cap must be a positive number of rows, got 0"):
        reader(folder, cap=0)
    with pytest.raises(ValueError, match="prompts must be 'one' or 'all', got 'each'"):
        reader(folder, prompts="each")
    with pytest.raises(ValueError, match=r"no file .*/none\.py; expected FLAN's flan/templates\.py"):
        list(FLAN(f"{folder}/none.py", reader(folder).rows).examples("rte"))
    with pytest.raises(ValueError, match="its rows have no `source`, and it is not a dataset of FLAN; nearest: rte"):
        list(reader(folder, rows={"rt": FlanRows(templates="rte")}).examples("rt"))
    with pytest.raises(ValueError, match="its rows have no `source`, and upstream publishes none on the hub"):
        list(reader(folder, rows={"newsroom": FlanRows(templates="rte")}).examples("newsroom"))
    with pytest.raises(ValueError, match="it has no official train split; there are test"):
        list(reader(folder, rows={"wsc273": FlanRows(templates="rte")}).examples("wsc273"))
    with pytest.raises(ValueError, match="split must be one of"):
        reader(folder, split="dev")


def test_a_fingerprint_follows_rows_templates_and_settings(folder: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"cap": 5}, {"prompts": "one"}, {"inverted": True}]
    prints = [reader(folder, **change).fingerprint("rte") for change in changes]
    write(folder, "rte", RTE[0])
    prints.append(reader(folder).fingerprint("rte"))
    (folder / "templates.py").write_text(TEMPLATES.replace("True given", "Right given"))
    prints.append(reader(folder).fingerprint("rte"))
    assert len(set(prints)) == len(prints)


def test_chain_of_thought_tables_read_as_they_are(tmp_path: Path) -> None:
    line = "Which?\\nOptions:\\n(A) 1\\n(B) 2\t(B)\tOne is odd.\\nTwo is even.\n"
    (tmp_path / "aqua_train.tsv").write_text(line + 'Say "hi"\thi\tJust so\n')
    cot = ChainOfThought(str(tmp_path))
    assert list(cot.examples("aqua")) == [
        Example(
            "aqua",
            "aqua-0",
            0,
            "Which?\nOptions:\n(A) 1\n(B) 2",
            ("One is odd.\nTwo is even. The answer is (B)",),
            options=("(A)", "(B)"),
            answer=1,
        ),
        Example("aqua", "aqua-1", 1, 'Say "hi"', ("Just so. The answer is hi",)),
    ]
    assert (cot.task_names("train"), cot.task_names("test"), cot.task("aqua").category) == (["aqua"], [], "Reasoning")
    before = cot.fingerprint("aqua")
    (tmp_path / "aqua_train.tsv").write_text(line + "a\tb\n")
    assert cot.fingerprint("aqua") != before
    with pytest.raises(
        ValueError, match=r"task aqua: .*, line 2: expected 3 values \(question, answer, explanation\), got 2"
    ):
        list(cot.examples("aqua"))
    with pytest.raises(ValueError, match=r"no aqu_train\.tsv in .* among 1 tables; nearest: aqua"):
        cot.task("aqu")


DATA = "$CROSSTASK_DATA"
needs_data = pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")


@pytest.mark.real_data
@needs_data
def test_real_rows_render(folder: Path) -> None:
    """The templates are FLAN's in form only; the rows are real."""
    rte = FlanRows(
        f"{DATA}/superglue/RTE/val.jsonl",
        codes={"label": {"entailment": 0, "not_entailment": 1}},
        options=["yes", "no"],
        label="label",
    )
    copa = FlanRows(f"{DATA}/superglue/COPA/val.jsonl", options=["{choice1}", "{choice2}"], label="label")
    flan = FLAN(str(folder / "templates.py"), {"rte": rte, "copa": copa}, prompts="all")
    found = {name: list(flan.examples(name)) for name in ("rte", "copa")}
    assert {name: len(examples) for name, examples in found.items()} == {"rte": 554, "copa": 100}
    assert not any(example.skipped for examples in found.values() for example in examples)
    assert found["copa"][0].input == (
        "The man turned on the faucet. What is the effect?\nOPTIONS:\n- The toilet filled with water.\n"
        "- Water flowed from the spout."
    )
    assert found["copa"][0].targets == ("Water flowed from the spout.",)


@pytest.mark.real_data
@needs_data
def test_the_real_chain_of_thought_tables_read_whole() -> None:
    cot = ChainOfThought(f"{DATA}/flan_cot")
    found = {name: list(cot.examples(name)) for name in cot.task_names("train")}
    assert {name: len(examples) for name, examples in found.items()} == {
        "aqua": 2728,
        "creak": 2500,
        "ecqa": 2500,
        "gsm8k": 2500,
        "qasc": 1084,
        "sensemaking": 2500,
        "strategyqa": 2061,
    }
    assert not any(example.skipped for examples in found.values() for example in examples)
    assert found["gsm8k"][1].targets == (
        "Weng earns 12 / 60 = $0.2 per minute. Working 50 minutes, she earned 0.2 x 50 = $10. The answer is 10",
    )
