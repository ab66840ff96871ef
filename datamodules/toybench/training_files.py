"""Toy files of training benchmarks: UnifiedSKG, dialogues, text, CrossFit, ExMix, T5, templates, a user's own files."""

from pathlib import Path
from random import Random
from typing import Any

from .facts import Fact, entailment, facts
from .files import write_json, write_lines, write_text, write_tsv
from .tasks import POOLS

SPLITS = ("train", "dev", "test")


def structured(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of UnifiedSKG: Spider, ToTTo, DART, MultiWOZ and WikiTQ."""
    tables = {
        "db_id": "farm",
        "table_names_original": ["Owner", "Animal"],
        "column_names_original": [[-1, "*"], [0, "Name"], [1, "Kind"], [1, "Color"], [1, "Owner"]],
    }
    write_json(folder, "spider/tables.json", [tables])
    for name in ("train_spider", "dev"):
        questions = [
            {
                "db_id": "farm",
                "question": f"How many {fact.color} {fact.animal}s does {fact.name} have?",
                "query": f"SELECT count(*) FROM Animal WHERE Color = '{fact.color}' AND Owner = '{fact.name}'",
            }
            for fact in facts(rng, count)
        ]
        write_json(folder, f"spider/{name}.json", questions)
    for split in ("train", "dev"):
        write_lines(folder, f"totto/totto_{split}_data.jsonl", (_totto(fact) for fact in facts(rng, count)))
    triples = [
        {
            "tripleset": [[fact.name, "HAS", fact.animal], [fact.animal, "COLOR", fact.color]],
            "annotations": [{"source": "toy", "text": fact.sentence}],
        }
        for fact in facts(rng, count)
    ]
    write_lines(folder, "dart/train.jsonl", triples)
    write_lines(folder, "multiwoz/train.jsonl", (_multiwoz(fact) for fact in facts(rng, count)))
    constructed = [
        {
            "text_in": f"what color is the {f.animal}?",
            "struct_in": f"col : animal | color row 1 : {f.animal} | {f.color}",
        }
        | {"seq_out": f.color}
        for f in facts(rng, count)
    ]
    write_lines(folder, "wikitq/train.jsonl", constructed)


def _totto(fact: Fact) -> dict[str, Any]:
    def cell(value: object, header: bool = False) -> dict[str, Any]:
        return {"value": str(value), "is_header": header, "column_span": 1, "row_span": 1}

    header = [cell("Animal", True), cell("Color", True), cell("Number", True)]
    return {
        "table": [header, [cell(fact.animal), cell(fact.color), cell(fact.number)]],
        "table_page_title": fact.name,
        "table_section_title": "Animals",
        "highlighted_cells": [[1, 0], [1, 2]],
        "sentence_annotations": [{"final_sentence": fact.sentence}],
    }


def _multiwoz(fact: Fact) -> dict[str, Any]:
    return {
        "dialog": {"usr": ["Hello.", f"A {fact.color} {fact.animal}, please."], "sys": ["", "What do you want?"]},
        "ontology_slots": ["animal-kind", "animal-color"],
        "ontology_values": [[], POOLS["color"]],
        "expanded_turn_belief": [
            {"slot": "animal-kind", "value": fact.animal},
            {"slot": "animal-color", "value": fact.color},
        ],
    }


def schema_guided(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of schema-guided dialogue."""
    color = {"name": "color", "description": "Color of the animal", "possible_values": POOLS["color"]}
    kind = {"name": "kind", "description": "Kind of animal", "possible_values": []}
    for split in SPLITS:
        write_json(folder, f"sgd/{split}/schema.json", [{"service_name": "Animals_1", "slots": [kind, color]}])
        write_json(
            folder, f"sgd/{split}/dialogues_001.json", [_schema_guided(f, i) for i, f in enumerate(facts(rng, count))]
        )


def _schema_guided(fact: Fact, number: int) -> dict[str, Any]:
    def turn(speaker: str, utterance: str, actions: list[dict[str, Any]], **state: list[str]) -> dict[str, Any]:
        frame: dict[str, Any] = {"service": "Animals_1", "actions": actions, "slots": []}
        if speaker == "USER":
            frame["state"] = {"active_intent": "Buy", "requested_slots": [], "slot_values": state}
        return {"speaker": speaker, "utterance": utterance, "frames": [frame]}

    request = [{"act": "REQUEST", "slot": "color", "values": [], "canonical_values": []}]
    return {
        "dialogue_id": f"1_{number:05d}",
        "services": ["Animals_1"],
        "turns": [
            turn("USER", f"I want a {fact.animal}.", [], kind=[fact.animal]),
            turn("SYSTEM", "What color?", request),
            turn("USER", f"{fact.color}, please.", [], kind=[fact.animal], color=[fact.color]),
            turn("SYSTEM", "It is yours.", [{"act": "NOTIFY_SUCCESS", "slot": "", "values": []}]),
        ],
    }


def dialogue(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of the other dialogue datasets."""
    dialogues = [[f"Hello, I am {fact.name}.", "Do you have animals?", fact.sentence] for fact in facts(rng, count)]
    texts = [[{"text": text, "speaker": "toy"} for text in turns] for turns in dialogues]
    write_json(
        folder, "taskmaster4/data_00.json", [{"conversation_id": i, "utterances": t} for i, t in enumerate(texts)]
    )
    wizard = [{"chosen_topic": "Animals", "persona": "i like animals", "dialog": turns} for turns in texts]
    write_json(folder, "wizard_of_wikipedia/train.json", wizard)
    actions = ("Apprentice => Wizard", "Wizard => SearchAgent", "Wizard => Apprentice")
    history = [[{"action": a, "text": t} for a, t in zip(actions, turns, strict=True)] for turns in dialogues]
    write_lines(
        folder, "wizard_of_internet/train.jsonl", ({str(i): {"dialog_history": h}} for i, h in enumerate(history))
    )
    blended = [
        {"free_turker_utterance": a, "guided_turker_utterance": b, "dialog": [[0, c], [1, "How nice."]]}
        for a, b, c in dialogues
    ]
    write_json(folder, "blended_skill_talk/train.json", blended)
    lines = "".join(f"1 your persona: i like animals.\n2 {a}\t{b}\n3 {c}\tHow nice.\n" for a, b, c in dialogues)
    write_text(folder, "convai2/train_both_original_no_cands.txt", lines)
    for session in (2, 3, 4):
        chat = ({"dialog": turns, "previous_dialogs": []} for turns in texts)
        write_lines(folder, f"msc/msc_dialogue/session_{session}/train.txt", chat)
    write_json(folder, "light/light_data.json", [{"speech": turns, "agents": []} for turns in dialogues])


def pretraining(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of pre-training text."""
    stories = [" ".join(fact.sentence for fact in facts(rng, 8)) for _ in range(count)]
    write_lines(folder, "pretraining/stories.jsonl", ({"text": story} for story in stories[1:]))
    write_text(folder, "pretraining/tale.txt", stories[0] + "\n\nThe end.\n")


def text_to_text(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of CrossFit, ExMix and T5: one task of each."""
    task = "blimp-anaphor_number_agreement"
    for seed in (13, 21):
        for split in SPLITS:
            rows = [
                (f"{f.name} has {f.number} {f.animal}s. [SEP] {f.name} have {f.number} {f.animal}.", f.sentence)
                for f in facts(rng, count)
            ]
            write_tsv(folder, f"crossfit/{task}/{task}_16_{seed}_{split}.tsv", rows)
    logic = ({"inputs": f.sentence, "targets": f"has ( {f.name} , {f.animal} )"} for f in facts(rng, count))
    write_lines(folder, "exmix/cogs/train.jsonl", logic)
    summaries = (
        {"inputs": f"summarize: {f.sentence} It is a fine day.", "targets": f.sentence} for f in facts(rng, count)
    )
    write_lines(folder, "t5/cnn_dailymail_v002/train.jsonl", summaries)


TEMPLATE = """dataset: super_glue
subset: rte
templates:
  {0}:  !Template
    answer_choices: Yes ||| No
    id: {0}
    jinja: '{{{{premise}}}} Does it follow that "{{{{hypothesis}}}}" Yes or no? ||| {{{{answer_choices[label]}}}}'
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages:
      - en
      metrics:
      - Accuracy
      original_task: true
    name: does it follow
    reference: ''
"""


def templates(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of PromptSource's and FLAN's templates with rows for them, and of P3."""
    write_text(
        folder, "promptsource/templates/super_glue/rte/templates.yaml", TEMPLATE.format(f"toy-{rng.randrange(10**6)}")
    )
    write_lines(folder, "promptsource/rte.jsonl", entailment(rng, count))
    write_lines(folder, "flan/rte.jsonl", entailment(rng, count))
    pattern = '("{premise}\\n\\nDoes it follow that {hypothesis}\\n\\n{options_}", "{answer}")'
    write_text(folder, "flan/templates.py", f'"""Toy {rng.randrange(10**6)}."""\nPATTERNS = {{"rte": [{pattern}]}}\n')
    for template in ("Is_This_True_", "Decide_good_answer"):
        rendered = (
            {"prompt": f"{fact.sentence} {template} Whose?\n", "completion": f"{fact.name}<|endoftext|>"}
            for fact in facts(rng, count)
        )
        write_lines(folder, f"p3/wiki_qa_{template}.jsonl", rendered)


def own_tasks(folder: Path, rng: Random, count: int) -> None:
    """Write toy files of a user's own tasks."""
    about = {"definition": "Name the color of the animals.", "category": "Question Answering", "metric": "exact_match"}
    for split in ("train", "test"):
        write_json(folder, f"file_tasks/{split}/{split}_colors.json", about)
        rows = ({"input": fact.sentence, "output": [fact.color]} for fact in facts(rng, count))
        write_lines(folder, f"file_tasks/{split}/{split}_colors.jsonl", rows)
