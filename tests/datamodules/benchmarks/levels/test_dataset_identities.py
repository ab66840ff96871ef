"""The dataset of a task under one name for all collections, over every name that upstream lists.

``matched_datasets.txt`` is to be read by a person. After a change of the table, print and read it again::

    cd tests/datamodules/benchmarks/levels && python test_dataset_identities.py > matched_datasets.txt
"""

import textwrap
from pathlib import Path

import pytest
import yaml

import crosstask
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.benchmarks.levels.dataset_identities import DatasetIdentities, shipped_identities
from crosstask.datamodules.benchmarks.levels.split_rules import read_rules
from crosstask.datamodules.benchmarks.text_to_text import SHIPPED as TEXT_TO_TEXT
from crosstask.datamodules.benchmarks.text_to_text import CrossFit
from crosstask.datamodules.schema import Task

HERE = Path(__file__).parent
EVALUATION = Path(crosstask.__file__).parent / "configs/evaluation"
TABLES = ("opt_tasks", "promptsource", "flan", "super_natural_instructions_44", "unifiedskg", "bbh", "mmlu", "raft")
"""Recipes of OPT-IML's tables 9 to 14."""

VALIDATION = """
    wino_bias bard_analogical_reasoning cod3s copa glucose jfleg mmlu civil_comments newsroom race strategyqa gsm8k
    squad_v1 blended_skill_talk cnn_dailymail
""".split()
"""Datasets of OPT-IML's table 15."""


def upstream_names() -> dict[str, list[str]]:
    content = yaml.safe_load((HERE.parent / "upstream_names.yaml").read_text(encoding="utf-8"))
    return {collection: entry["names"].split() for collection, entry in content.items()}


def matched_datasets() -> str:
    """The names that belong to each dataset of the table, by collection."""
    table, lines = shipped_identities(), []
    for dataset in table.names:
        lines.append(dataset)
        for collection, names in upstream_names().items():
            if matches := [name for name in names if table.identity(name) == dataset]:
                text = f"{collection}: {' '.join(matches)}"
                lines += textwrap.wrap(
                    text,
                    118,
                    initial_indent="  ",
                    subsequent_indent="    ",
                    break_on_hyphens=False,
                    break_long_words=False,
                )
    return "\n".join(lines) + "\n"


def test_every_upstream_name_belongs_to_the_dataset_of_the_golden_file() -> None:
    assert sum(map(len, upstream_names().values())) > 2200
    assert matched_datasets() == (HERE / "matched_datasets.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", TABLES)
def test_no_dataset_of_a_table_trains(recipe: str) -> None:
    """Every task of the tables has a dataset that the rules hold out, or that the paper evaluates fully supervised."""
    benchmark = yaml.safe_load((EVALUATION / f"{recipe}.yaml").read_text())["data"]["init_args"]["benchmark"]
    columns = benchmark["init_args"].get("expected", [])
    rules, table = read_rules("opt_iml"), shipped_identities()
    supervised = {entry.dataset for entry in rules.fully_supervised.entries}
    assert columns
    for name in [name for column in columns for name in column["tasks"]]:
        dataset = "mmlu" if name.startswith("mmlu/") else table.identity(name.partition("/")[2])
        assert dataset in rules.held_out_datasets | supervised, name


@pytest.mark.parametrize("dataset", VALIDATION)
def test_no_validation_dataset_trains(dataset: str) -> None:
    rules = read_rules("opt_iml")
    supervised = {entry.dataset for entry in rules.fully_supervised.entries}
    assert dataset in rules.held_out_datasets | supervised
    assert dataset == "mmlu" or dataset in {entry.dataset for entry in read_rules("all").fully_supervised.validation}


def test_crossfits_names_are_upstreams() -> None:
    section = yaml.safe_load(TEXT_TO_TEXT.read_text())["crossfit"]
    assert {*section["tasks"], *section["elsewhere"]} == set(upstream_names()["crossfit"])


def test_the_longest_run_of_words_decides_and_then_the_first() -> None:
    table = shipped_identities()
    assert [table.identity(name) for name in ("squad_v2", "squadshifts_nyt", "lama-trex", "squad", "squadron")] == [
        "squad_v2", "squadshifts", "lama", "squad_v1", None
    ]  # fmt: skip
    assert table.identity("cbt_raw") is None
    assert [table.identity(name) for name in ("task_c_b", "arcane", "r_a_c_e", "mArceasy")] == [
        None,
        None,
        "race",
        "arc",
    ]
    assert table.identity("Story Cloze (Dataset - https://cs.rochester.edu/nlp/rocstories/)") == "story_cloze"


FOLDERS = {
    "anli": "ANLI-R3 facebook/anli adversarial_nli anliR1 anlir2",
    "arc": "ARC-Challenge arc-e AI2ARC allenai/ai2_arc arceasy arcChallenge",
    "banking77": "BANKING77 PolyAI/banking77",
    "big_bench_hard": "bbh BIG-Bench-Hard lukaemon/bbh",
    "blended_skill_talk": "BlendedSkillTalk blended-skill-talk",
    "boolq": "BoolQ google/boolq bool-q boolQ superGlueBoolQ",
    "cb": "CB commitment_bank CommitmentBank supergluecb",
    "civil_comments": "CivilComments civil-comments jigsaw_toxicity",
    "cnn_dailymail": "CNN/DailyMail cnn-dm CNNDM abisee/cnn_dailymail cnn_daily_mail",
    "copa": "COPA superglue/copa supergluecopa",
    "crows_pairs": "CrowS-Pairs crowspairs",
    "gsm8k": "GSM8K openai/gsm8k grade-school-math",
    "mmlu": "MMLU cais/mmlu hendrycks_test hendrycksTest-anatomy MMLUPro",
    "mnli": "MultiNLI_1.0 mnli-mm nyu-mll/multi_nli gluemnli",
    "multirc": "MultiRC eraser_multi_rc",
    "multiwoz": "MultiWOZ_2.1 MultiWOZ2.2 multi_woz_v22",
    "race": "RACE ehovy/race racehigh race-middle RACEall",
    "openbookqa": "OpenBookQA openbook_qa",
    "piqa": "PIQA physical_iqa",
    "rte": "RTE glue_rte RTE3 gluerte supergluerte",
    "schema_guided_dialogue": "sgd dstc8-schema-guided-dialogue schema_guided_dstc8",
    "squad_v1": "SQuAD rajpurkar/squad SQuADv1.1 squad-1.1",
    "squad_v2": "SQuAD-2.0 SQuADv2 rajpurkar/squad_v2",
    "story_cloze": "StoryCloze ROCStories story_cloze_2016 storyCloze",
    "terms_of_service": "terms_of_service unfair_tos",
    "tweet_eval_hate": "tweet_eval-hate hateval2019",
    "wino_bias": "WinoBias wino-bias",
    "winogender": "winogender-schemas AX-g",
    "winogrande": "WinoGrande winogrande_xl wino_grande winoGrandeXL winograndexl",
    "wsc": "WSC wsc.fixed supergluewscfixed",
    "wsc273": "WSC-273 winograd_wsc",
}
"""Names that folders, hub datasets and archives of an evaluated dataset have."""


def test_names_of_folders_and_hub_datasets_are_known() -> None:
    table = shipped_identities()
    assert {name: table.identity(name) for name in table.names} == {name: name for name in table.names}
    for dataset, names in FOLDERS.items():
        assert {name: table.identity(name) for name in names.split()} == dict.fromkeys(names.split(), dataset)


def test_a_task_has_the_dataset_of_its_name_or_of_its_sources() -> None:
    table = shipped_identities()
    named = table.identified(Task("flan", "bool_q", "QA", sources=("BoolQ",)))
    assert (named.dataset, named.sources) == ("boolq", ("boolq",))
    assert table.identified(Task("sni", "task1", "QA", sources=("x", "Winograd_WSC"))).dataset == "wsc273"
    unknown = table.identified(Task("mine", "My-Task", "QA", sources=("My Data", "my_data")))
    assert (unknown.dataset, unknown.sources) == ("my_task", ("my_data",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", "expected datasets with lists of their names, got list"),
        ("a: b", "a should have a list of names, got"),
        ("a: [x]\nb: [X]", "the name 'x' is of a and of b"),
        ("a: [", "no valid YAML"),
    ],
)
def test_a_broken_table_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "identities.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        DatasetIdentities.read(str(path))
    with pytest.raises(ValueError, match=r"no table of dataset identities none\.yaml; copy"):
        DatasetIdentities.read("none.yaml")


def test_rules_that_name_an_unknown_dataset_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("partially_supervised: {test: [bolq]}")
    with pytest.raises(ValueError, match=r"no dataset 'bolq' in .*; nearest: boolq.* with a slash"):
        Bench({"crossfit": CrossFit()}, rules=str(path))


if __name__ == "__main__":
    print(matched_datasets(), end="")
