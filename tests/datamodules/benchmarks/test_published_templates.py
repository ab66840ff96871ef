"""The published templates of PromptSource: all compile, and render real rows as plain jinja does."""

import os
import random
from collections import Counter

import jinja2
import pytest

from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.benchmarks.promptsource import PromptSource
from crosstask.datamodules.benchmarks.templates.template_rows import RowSource, template_rows

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder"),
]

DATA = "$CROSSTASK_DATA"
NLI = {"label": {"e": 0, "n": 1, "c": 2}}
SPANS = {name: f"target.{name}" for name in ("span1_text", "span2_text", "span1_index", "span2_index")}
HELD_OUT = {
    "super_glue_rte": RowSource(
        f"{DATA}/superglue/RTE/val.jsonl", codes={"label": {"entailment": 0, "not_entailment": 1}}
    ),
    "super_glue_cb": RowSource(
        f"{DATA}/superglue/CB/val.jsonl", codes={"label": {"entailment": 0, "contradiction": 1, "neutral": 2}}
    ),
    "super_glue_copa": RowSource(f"{DATA}/superglue/COPA/val.jsonl"),
    "super_glue_wic": RowSource(f"{DATA}/superglue/WiC/val.jsonl"),
    "super_glue_wsc.fixed": RowSource(f"{DATA}/superglue/WSC/val.jsonl", columns=SPANS),
    **{
        f"anli_r{round}": RowSource(
            f"{DATA}/anli/ANLI_analysis_r{round}_dev.csv",
            templates="anli",
            parent="anli",
            columns={"premise": "context", "hypothesis": "statement", "label": "gold_label"},
            codes=NLI,
        )
        for round in (1, 2, 3)
    },
}
OWN_FORMS = {
    "super_glue_multirc": RowSource(f"{DATA}/superglue/MultiRC/val.jsonl", form="multirc"),
    "super_glue_record": RowSource(f"{DATA}/superglue/ReCoRD/train.jsonl", form="record"),
    "wino_bias_type1_pro": RowSource(f"{DATA}/winobias/pro_stereotyped_type1.txt.dev", form="wino_bias"),
    "wino_bias_type2_anti": RowSource(f"{DATA}/winobias/anti_stereotyped_type2.txt.test", form="wino_bias"),
}


def test_all_published_folders_are_a_bench_with_one_line() -> None:
    folder = f"{DATA}/promptsource/templates"
    left_out = Bench({"promptsource": PromptSource(folder)}).split
    assert sum(reason == "no template of the original task" for reason in left_out.excluded.values()) == 20
    every = Bench({"promptsource": PromptSource(folder, original_task=False)})
    assert len(every._tasks) == 279


def test_all_published_templates_compile() -> None:
    benchmark = PromptSource(f"{DATA}/promptsource/templates", original_task=False)
    names = benchmark.task_names("train")
    templates = [template for name in names for template in benchmark._file(name).templates]
    for template in templates:
        template.compiled()
    assert (len(names), len(templates), sum(t.original_task for t in templates)) == (279, 2085, 1535)
    assert all(benchmark.task(name).category for name in names)


def test_rows_in_forms_of_their_own_render_whole() -> None:
    benchmark = PromptSource(f"{DATA}/promptsource/templates", OWN_FORMS)
    found = {name: list(benchmark.examples(name)) for name in benchmark.task_names("train")}
    assert {name: len(examples) for name, examples in found.items()} == {
        "super_glue_multirc": 4848,
        "super_glue_record": 32,
        "wino_bias_type1_pro": 396,
        "wino_bias_type2_anti": 396,
    }
    assert not any(example.skipped for examples in found.values() for example in examples)
    every = PromptSource(f"{DATA}/promptsource/templates", OWN_FORMS, prompts="all")
    golden = next(example for example in every.examples("wino_bias_type1_pro") if example.template == "refers_to")
    assert (golden.input, golden.targets) == (
        'What does "he" refer to in the following sentence?\n'
        "The developer argued with the designer because he did not like the design .",
        ("The developer",),
    )


def test_templates_for_some_rows_only_are_counted() -> None:
    """CrowS-Pairs, whose templates all count as changing the task; two of them are for one side of the pairs each."""
    kinds = "race-color socioeconomic gender disability nationality sexual-orientation physical-appearance religion age"
    codes = {
        "stereo_antistereo": {"stereo": 0, "antistereo": 1},
        "bias_type": {k: i for i, k in enumerate(kinds.split())},
    }
    crows = RowSource(f"{DATA}/crows_pairs/crows_pairs_anonymized.csv", codes=codes)
    benchmark = PromptSource(
        f"{DATA}/promptsource/templates", {"crows_pairs": crows}, original_task=False, prompts="all"
    )
    reasons = Counter(example.skipped for example in benchmark.examples("crows_pairs"))
    assert reasons == {
        "": 10556,
        "template 'transform_anti_stereo' does not apply": 1290,
        "template 'transform_stereo' does not apply": 218,
    }


def test_the_sandbox_renders_what_plain_jinja_renders() -> None:
    plain = jinja2.Environment()  # as PromptSource itself renders
    benchmark = PromptSource(f"{DATA}/promptsource/templates", HELD_OUT)
    compared = 0
    for name in ("super_glue_wsc.fixed", "super_glue_cb"):
        file = benchmark._file(name)
        for template in file.templates:
            ours, theirs = template.compiled(), plain.from_string(template.jinja)
            theirs_choices = plain.from_string(template.answer_choices or "")
            for row in template_rows(HELD_OUT[name], file.dataset):
                choices = [choice.strip() for choice in theirs_choices.render(**row.fields).split("|||")]
                text = theirs.render(**row.fields, answer_choices=choices)
                rendered = ours.render(row.fields, random.Random(0))
                assert [rendered.source, rendered.target] == [part.strip() for part in text.split("|||")]
                assert list(rendered.choices) == choices
                compared += 1
    assert compared == 1040 + 840


def test_the_held_out_tasks_render_whole() -> None:
    """Of T0's eleven held-out tasks the eight with rows at hand: every prompt, and what a template has no words for."""
    benchmark = PromptSource(f"{DATA}/promptsource/templates", HELD_OUT, prompts="all")
    found = {name: list(benchmark.examples(name)) for name in benchmark.task_names("train")}
    assert {name: (len(examples), sum(not e.skipped for e in examples)) for name, examples in found.items()} == {
        "anli_r1": (7500, 7500),
        "anli_r2": (7500, 7500),
        "anli_r3": (7500, 7500),
        "super_glue_cb": (840, 840),
        "super_glue_copa": (1200, 1000),  # four templates ask for a cause or for an effect only
        "super_glue_rte": (2770, 2770),
        "super_glue_wic": (6380, 6380),
        "super_glue_wsc.fixed": (1040, 1040),
    }
    assert all(
        e.options[e.answer or 0] == e.targets[0] for examples in found.values() for e in examples if not e.skipped
    )
    golden = found["super_glue_rte"][0]
    assert (golden.template, golden.targets, golden.options) == ("MNLI crowdsource", ("No",), ("Yes", "No"))
    assert golden.input == (
        "Dana Reeve, the widow of the actor Christopher Reeve, has died of lung cancer at age 44, according to the "
        "Christopher Reeve Foundation. Using only the above description and what you know about the world, is "
        '"Christopher Reeve had an accident." definitely correct? Yes or no?'
    )
