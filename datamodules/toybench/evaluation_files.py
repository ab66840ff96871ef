"""Toy files of evaluation benchmarks: BIG-bench, MMLU, BIG-Bench Hard, RAFT, OPT's tasks and the bias datasets."""

from pathlib import Path
from random import Random
from typing import Any

from .facts import Fact, choices, entailment, facts
from .files import write_csv, write_json, write_lines, write_text, write_tsv
from .tasks import POOLS


def bigbench(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of BIG-bench: a generative task and a multiple-choice task."""
    sorting = [
        {"input": " ".join(words), "target": " ".join(sorted(words))}
        for words in (rng.sample(POOLS["word"], 3) for _ in range(count))
    ]
    colors = []
    for fact in facts(rng, count):
        options, place = choices(rng, fact)
        scores = {option: int(option == options[place]) for option in options}
        colors.append({"input": f"{fact.sentence} What color?", "target_scores": scores})
    head = {
        "canary": "toy",
        "description": "A toy task",
        "keywords": ["algorithms"],
        "task_prefix": "Sort the words.\n",
    }
    prefixes = {"example_input_prefix": "\nList: ", "example_output_prefix": "\nSorted: "}
    sorting_head = head | prefixes | {"preferred_score": "exact_str_match", "metrics": ["exact_str_match"]}
    write_json(folder, "bigbench/toy_sorting/task.json", sorting_head | {"examples": [*sorting, sorting[0]]})
    colors_head = {
        "keywords": ["common sense"],
        "preferred_score": "multiple_choice_grade",
        "append_choices_to_input": True,
    }
    write_json(folder, "bigbench/toy_colors/task.json", colors_head | {"examples": colors})


def mmlu(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of MMLU: three subjects."""
    for subject in ("anatomy", "astronomy", "virology"):
        for split, rows in (("dev", 5), ("val", count), ("test", count)):
            table = []
            for fact in facts(rng, rows):
                options, place = choices(rng, fact)
                table.append([f'{fact.sentence} What "color"?', *options, "ABCD"[place]])
            write_csv(folder, f"mmlu/{split}/{subject}_{split}.csv", table)


def bbh(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of BIG-Bench Hard: one task and its prompt file."""
    records = []
    for fact in facts(rng, count + 3):
        options, place = choices(rng, fact)
        listed = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
        question = f"{fact.sentence} What color are they?\nOptions:\n{listed}"
        records.append({"input": question, "target": f"({'ABCD'[place]})", "why": fact.sentence})
    name = "reasoning_about_colored_objects"
    examples = [{key: record[key] for key in ("input", "target")} for record in records[3:]]
    write_json(folder, f"bbh/bbh/{name}.json", {"canary": "toy", "examples": examples})
    solved = "".join(
        f"\n\nQ: {record['input']}\nA: Let's think step by step.\n{record['why']} So the answer is {record['target']}."
        for record in records[:3]
    )
    write_text(folder, f"bbh/cot-prompts/{name}.txt", f"toy canary\n-----\nAnswer questions about colors.{solved}")


def raft(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of RAFT: one task."""
    train = [["Tweet text", "Label", "ID"]]
    for number, fact in enumerate(facts(rng, count)):
        complaint = rng.random() < 0.5
        text = f"My {fact.animal}, which is {fact.color}, {'never came!' if complaint else 'is lovely.'}"
        train.append([text, "complaint" if complaint else "no complaint", str(number)])
    write_csv(folder, "raft/twitter_complaints/train.csv", train)
    test = [[fact.sentence, number] for number, fact in enumerate(facts(rng, count), start=count)]
    write_csv(folder, "raft/twitter_complaints/test_unlabeled.csv", [["Tweet text", "ID"], *test])


def opt_evaluation(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of OPT's evaluation tasks, ANLI and the bias datasets."""
    named = {0: "entailment", 1: "not_entailment"}
    for split in ("train", "val"):
        rows = list(entailment(rng, count))
        write_lines(folder, f"superglue/RTE/{split}.jsonl", (row | {"label": named[row["label"]]} for row in rows))
        labels = ("entailment", "contradiction")
        write_lines(folder, f"superglue/CB/{split}.jsonl", (row | {"label": labels[row["label"]]} for row in rows))
        yes_no = (
            {"passage": row["premise"], "question": "is it so", "label": row["label"] == 0, "idx": i}
            for i, row in enumerate(rows)
        )
        write_lines(folder, f"superglue/BoolQ/{split}.jsonl", yes_no)
        write_lines(folder, f"superglue/COPA/{split}.jsonl", (_copa(rng, fact) for fact in facts(rng, count)))
        write_lines(folder, f"superglue/WiC/{split}.jsonl", (_wic(rng, fact) for fact in facts(rng, count)))
        write_lines(folder, f"superglue/WSC/{split}.jsonl", (_wsc(rng, fact) for fact in facts(rng, count)))
        write_lines(folder, f"superglue/MultiRC/{split}.jsonl", (_multirc(fact) for fact in facts(rng, count)))
    for number, anli in ((number, entailment(rng, count)) for number in (1, 2, 3)):
        write_lines(
            folder,
            f"anli/R{number}/dev.jsonl",
            ({"context": r["premise"], "hypothesis": r["hypothesis"], "label": "ec"[r["label"]]} for r in anli),
        )
    for split in ("train", "valid"):
        goals = list(facts(rng, count))
        solutions = [
            {"goal": f"Count {f.animal}s.", "sol1": "Point at each.", "sol2": "Close your eyes."} for f in goals
        ]
        write_lines(folder, f"piqa/{split}.jsonl", solutions)
        write_text(folder, f"piqa/{split}-labels.lst", "0\n" * count)
    for path in ("arc/ARC-Easy/ARC-Easy-Dev", "arc/ARC-Challenge/ARC-Challenge-Dev", "openbookqa/Main/dev"):
        write_lines(folder, f"{path}.jsonl", (_science(rng, fact) for fact in facts(rng, count)))
    blanks = (
        {
            "sentence": f"{f.name} fed the _ because it was hungry.",
            "option1": f.animal,
            "option2": "stone",
            "answer": "1",
        }
        for f in facts(rng, count)
    )
    write_lines(folder, "winogrande/dev.jsonl", blanks)
    story = ["InputStoryid", *(f"InputSentence{n}" for n in range(1, 5))]
    story += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    stories = (
        [str(i), f.sentence, "Days went by.", "It rained.", "The sun rose.", "All was well.", "It was so.", "1"]
        for i, f in enumerate(facts(rng, count))
    )
    write_csv(folder, "story_cloze/cloze_test_val__spring2016.csv", [story, *stories])
    stereotypes(folder, rng, count)


def stereotypes(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of WinoBias, Winogender and CrowS-Pairs."""
    for side, pronoun in (("pro", "he"), ("anti", "she")):
        for kind in ("type1", "type2"):
            for split in ("dev", "test"):
                lines = [
                    f"{i} [The developer] gave the clerk a {f.color} {f.animal} because [{pronoun}] had {f.number}.\n"
                    for i, f in enumerate(facts(rng, count), start=1)
                ]
                write_text(folder, f"winobias/{side}_stereotyped_{kind}.txt.{split}", "".join(lines))
    gendered = [
        (
            f"technician.customer.{answer}.{gender}.txt",
            f"The technician told the customer that {pronoun} had {f.number} {f.animal}s.",
        )
        for f in facts(rng, count)
        for answer, gender, pronoun in ((0, "male", "he"), (1, "female", "she"))
    ]
    write_tsv(folder, "winogender/all_sentences.tsv", [("sentid", "sentence"), *gendered])
    pairs = [
        [
            i,
            f"All {f.animal}s are lazy.",
            f"All {f.color} {f.animal}s are lazy.",
            "stereo" if i % 2 else "antistereo",
            "toy",
        ]
        for i, f in enumerate(facts(rng, count))
    ]
    header = ["", "sent_more", "sent_less", "stereo_antistereo", "bias_type"]
    write_csv(folder, "crows_pairs/crows_pairs_anonymized.csv", [header, *pairs])


def _copa(rng: Random, fact: Fact) -> dict[str, Any]:
    right = rng.randrange(2)
    options = ["The birds flew away.", f"The {fact.animal} was {fact.color}."]
    listed = options if right == 0 else options[::-1]
    return {
        "premise": f"The {fact.animal} jumped.",
        "choice1": listed[0],
        "choice2": listed[1],
        "question": "effect",
        "label": right,
    }


def _wic(rng: Random, fact: Fact) -> dict[str, Any]:
    second = f"{fact.name} saw the {fact.animal}."
    return {"word": fact.animal, "sentence1": fact.sentence, "sentence2": second, "label": rng.random() < 0.5}


def _wsc(rng: Random, fact: Fact) -> dict[str, Any]:
    target = {"span1_index": 0, "span1_text": fact.name, "span2_index": 5, "span2_text": "they"}
    text = f"{fact.name} fed the {fact.animal}s since they were hungry."
    return {"text": text, "target": target, "label": False, "idx": rng.randrange(1000)}


def _multirc(fact: Fact) -> dict[str, Any]:
    answers = [{"text": fact.color, "label": 1}, {"text": "none", "label": 0}]
    return {"passage": {"text": fact.sentence, "questions": [{"question": "What color?", "answers": answers}]}}


def _science(rng: Random, fact: Fact) -> dict[str, Any]:
    options, place = choices(rng, fact)
    listed = [{"text": option, "label": letter} for option, letter in zip(options, "ABCD", strict=True)]
    return {"question": {"stem": f"{fact.sentence} What color?", "choices": listed}, "answerKey": "ABCD"[place]}
