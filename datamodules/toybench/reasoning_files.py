"""Toy files of the fourteen reasoning datasets, in their original formats, and of FLAN's chain-of-thought tables."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from .facts import Fact, choices, facts
from .files import write_csv, write_json, write_lines, write_text, write_tsv

LETTERS = "ABCDE"


def write_chains(folder: Path, rng: Random, count: int) -> None:
    """Write the toy files of all fourteen datasets, and FLAN's tables, into a folder."""
    arithmetic(folder, rng, count)
    common_sense(folder, rng, count)
    passages(folder, rng, count)
    inference(folder, rng, count)
    tables(folder, rng, count)


def arithmetic(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of GSM8K, AQuA and MATH."""
    for split in ("train", "test"):
        write_lines(folder, f"gsm8k/{split}.jsonl", (_sum(fact) for fact in facts(rng, count)))
    for split in ("train", "dev", "test"):
        write_lines(folder, f"aqua/{split}.json", (_letters(rng, fact) for fact in facts(rng, count)))
    for number, fact in enumerate(facts(rng, count)):
        problem = {"problem": f"Find ${fact.number} + 1$.", "level": "Level 1", "type": "Prealgebra"}
        solution = f"We count on: $\\boxed{{{fact.number + 1}}}$."
        write_json(folder, f"MATH/train/prealgebra/{number}.json", problem | {"solution": solution})


def _sum(fact: Fact) -> dict[str, str]:
    total = fact.number + 2
    answer = f"{fact.name} has {fact.number} + 2 = <<{fact.number}+2={total}>>{total} {fact.animal}s.\n#### {total}"
    return {"question": f"{fact.sentence} Two more come. How many are there?", "answer": answer}


def _letters(rng: Random, fact: Fact) -> dict[str, Any]:
    place = rng.randrange(5)
    options = [f"{letter}){fact.number + i - place}" for i, letter in enumerate(LETTERS)]
    rationale = f"{fact.name} has {fact.number}.\nAnswer: {LETTERS[place]}"
    question = f"{fact.sentence} How many {fact.animal}s?"
    return {"question": question, "options": options, "rationale": rationale, "correct": LETTERS[place]}


def common_sense(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of CoS-E, ECQA, StrategyQA, CREAK, SenseMaking, QASC and WinoWhy."""
    for split, name in (("train", "train"), ("dev", "dev")):
        questions = [_question(rng, fact, f"{split}{i}") for i, fact in enumerate(facts(rng, count))]
        write_lines(folder, f"cos_e/{name}_rand_split.jsonl", questions)
        explanations = (
            {"id": r["id"], "explanation": {"open-ended": "The story says so", "selected": ""}} for r in questions
        )
        write_lines(folder, f"cos_e/cose_{name}_v1.11.jsonl", explanations)
        strategy = [
            {"question": f"Does {f.name} have {f.animal}s?", "answer": True, "facts": [f.sentence]}
            for f in facts(rng, count)
        ]
        write_json(folder, f"strategyqa/{split}.json", strategy)
        claims = (
            {"sentence": f"All {f.animal}s are {f.color}.", "explanation": "There are others.", "label": "false"}
            for f in facts(rng, count)
        )
        write_lines(folder, f"creak/{split}.json", claims)
        science = (
            _question(rng, f, str(i)) | {"fact1": f.sentence, "fact2": "It is so."}
            for i, f in enumerate(facts(rng, count))
        )
        write_lines(folder, f"qasc/{split}.jsonl", science)
    header = ["", "q_no", "q_text", *(f"q_op{n}" for n in range(1, 6)), "q_ans", "taskB"]
    rows = []
    for number, fact in enumerate(facts(rng, count)):
        options, place = choices(rng, fact, 5)
        rows.append([number, f"q{number}", f"{fact.sentence} What color?", *options, options[place], fact.sentence])
    write_csv(folder, "ecqa/cqa_data_train.csv", [header, *rows])
    numbered = list(enumerate(facts(rng, count)))
    statements = [[i, f"{f.name} fed {f.animal}s.", f"{f.name} ate {f.number} stones."] for i, f in numbered]
    write_csv(folder, "sense_making/Training  Data/subtaskA_data_all.csv", [["id", "sent0", "sent1"], *statements])
    write_csv(folder, "sense_making/Training  Data/subtaskA_answers_all.csv", [[i, 1] for i, _ in numbered])
    reasons = [[i, "Stones are not food.", f"{f.name} would be ill.", ""] for i, f in numbered]
    write_csv(folder, "sense_making/Training  Data/subtaskC_answers_all.csv", reasons)
    claims_of = "The they is more likely to refer to the {}s than {} because {}s get hungry"
    why = [
        [f"{f.name} fed the {f.animal}s as they were hungry.", claims_of.format(f.animal, f.name, f.animal), i % 2]
        for i, f in enumerate(facts(rng, count))
    ]
    write_csv(folder, "winowhy/dataset.csv", [["wnli_sent1", "wnli_sent2", "label"], *why])


def _question(rng: Random, fact: Fact, identifier: str) -> dict[str, Any]:
    options, place = choices(rng, fact, 5)
    listed = [{"label": letter, "text": option} for letter, option in zip(LETTERS, options, strict=True)]
    question = {"stem": f"{fact.sentence} What color?", "choices": listed, "question_concept": "color"}
    return {"id": identifier, "question": question, "answerKey": LETTERS[place]}


def passages(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of CoQA and QED."""
    for split in ("train", "dev"):
        write_json(
            folder, f"coqa/coqa-{split}-v1.0.json", {"version": "1.0", "data": [_story(f) for f in facts(rng, count)]}
        )
        write_lines(folder, f"qed/qed-{split}.jsonlines", (_explained(fact) for fact in facts(rng, count)))


def _story(fact: Fact) -> dict[str, Any]:
    turns = [("Whose animals are they?", fact.name), ("What color?", fact.color)]
    return {
        "story": fact.sentence,
        "questions": [{"input_text": question, "turn_id": i} for i, (question, _) in enumerate(turns, start=1)],
        "answers": [
            {"input_text": answer, "span_text": fact.sentence, "turn_id": i}
            for i, (_, answer) in enumerate(turns, start=1)
        ],
    }


def _explained(fact: Fact) -> dict[str, Any]:
    link = {"question_reference": {"string": f"{fact.animal}s"}, "sentence_reference": {"string": f"{fact.animal}s"}}
    return {
        "paragraph_text": f"{fact.sentence} It rains.",
        "question_text": f"who has {fact.animal}s",
        "annotation": {
            "explanation_type": "single_sentence",
            "selected_sentence": {"string": fact.sentence},
            "referential_equalities": [link],
            "answer": [{"paragraph_reference": {"string": fact.name}}],
        },
    }


def inference(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of e-SNLI and ProofWriter."""
    for split in ("dev", "test"):
        drawn = list(facts(rng, count))
        columns = {
            "s1": [fact.sentence for fact in drawn],
            "s2": [f"{fact.name} has {fact.animal}s." for fact in drawn],
            "labels": ["entailment" for _ in drawn],
            **{
                f"preproc1_expl_{n}": [f"{fact.number} {fact.animal}s are {fact.animal}s" for fact in drawn]
                for n in (1, 2, 3)
            },
        }
        for name, lines in columns.items():
            write_text(folder, f"esnli/{name}.{split}", "".join(line + "\n" for line in lines))
    write_lines(folder, "proofwriter/OWA/depth-5/meta-train.jsonl", (_theory(fact) for fact in facts(rng, count)))


def _theory(fact: Fact) -> dict[str, Any]:
    rule = f"If something is {fact.color} then it is kind."
    proof = {
        "representation": "((triple1) -> (rule1 % int1))",
        "intermediates": {"int1": {"text": f"The {fact.animal} is kind."}},
    }
    return {
        "theory": f"The {fact.animal} is {fact.color}. {rule}",
        "triples": {"triple1": {"text": f"The {fact.animal} is {fact.color}."}},
        "rules": {"rule1": {"text": rule}},
        "questions": {
            "Q1": {"question": f"The {fact.animal} is kind.", "answer": True, "proofsWithIntermediates": [proof]},
            "Q2": {"question": f"The {fact.animal} is big.", "answer": "Unknown"},
        },
    }


def tables(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of FLAN's tables, in which a line end is a backslash and an n."""
    for name in ("gsm8k", "strategyqa"):
        rows = ((f"{f.sentence} How many?", f.number, f.sentence) for f in facts(rng, count))
        write_tsv(folder, f"flan_cot/{name}_train.tsv", rows)
    for name in ("aqua", "creak", "ecqa", "esnli", "qasc", "qed", "sensemaking"):
        write_tsv(folder, f"flan_cot/{name}_train.tsv", _listed(rng, count))


def _listed(rng: Random, count: int) -> Iterator[tuple[str, str, str]]:
    for fact in facts(rng, count):
        options, place = choices(rng, fact)
        listed = "".join(f"\\n- {option}" for option in options)
        yield f"{fact.sentence} What color?\\nOptions:{listed}", options[place], fact.sentence
