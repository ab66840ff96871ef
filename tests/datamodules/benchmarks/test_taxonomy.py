import json
import os
import re
from pathlib import Path

import pytest
import yaml

from crosstask.datamodules.benchmarks import (
    MMLU,
    RAFT,
    T5,
    BigBenchHard,
    CrossFit,
    Dialogue,
    ExMix,
    Reasoning,
    StructuredKnowledge,
)
from crosstask.datamodules.benchmarks.taxonomy import SHIPPED, Taxonomy
from crosstask.datamodules.schema import Task

SMALL = {
    "categories": ["Translation", "Question Answering", "Misc."],
    "called": {"Reading Comprehension": "Question Answering"},
    "datasets": {"Translation": ["wmt"], "Question Answering": ["glue_qa"], "Misc.": ["wmt_odd"]},
    "collections": {"oddities": "Misc."},
    "tasks": {"mine/wmt14": "Misc."},
}


def written(folder: Path, **changes: object) -> str:
    path = folder / "taxonomy.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("benchmark", "task", "upstream", "category"),
    [
        ("flan", "wmt", "", "Translation"),
        ("flan", "wmt_odd_14", "", "Misc."),  # the longest beginning decides
        ("flan", "glue/qa-long", "Translation", "Question Answering"),  # the file decides before the collection
        ("flan", "wmtx", "Misc.", "Misc."),  # whole words only
        ("flan", "drop", "Reading Comprehension", "Question Answering"),
        ("oddities", "wmt", "Translation", "Misc."),
        ("mine", "wmt14", "Translation", "Misc."),
    ],
)
def test_a_task_finds_its_category(tmp_path: Path, benchmark: str, task: str, upstream: str, category: str) -> None:
    assert Taxonomy.read(written(tmp_path)).category(benchmark, task, upstream) == category


def category_of(taxonomy: Taxonomy, task: Task) -> str:
    """The category of a task; an error if it has none."""
    return taxonomy.category(task.benchmark, task.name, task.category)


def test_a_task_without_category_names_the_file_to_edit(tmp_path: Path) -> None:
    path = written(tmp_path)
    taxonomy = Taxonomy.read(path)
    with pytest.raises(
        ValueError, match=re.escape("calls it 'Translations' (nearest: Translation); add it to " + path)
    ):
        taxonomy.category("flan", "europarl", "Translations")
    assert taxonomy.category("flan", "wmt_14") == "Translation"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"called": {"MT": "Translations"}},
            "called has 'MT' in 'Translations', which is no category; nearest: Translation",
        ),
        ({"categories": ["Misc.", "Misc."]}, "`categories` names a category twice"),
        (
            {"datasets": {"Misc.": ["wmt"], "Translation": ["WMT"]}},
            "dataset 'WMT' is listed in 'Misc.' and in 'Translation'",
        ),
        ({"extra": {}}, "expected the sections categories, called, datasets, collections, tasks, got "),
    ],
)
def test_a_taxonomy_that_contradicts_itself_is_rejected(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Taxonomy.read(written(tmp_path, **changes))


def test_a_broken_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("called: {a: b, a: c}")
    with pytest.raises(ValueError, match="'a' is there twice"):
        Taxonomy.read(str(path))
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"expected the sections .* got list \[1\]"):
        Taxonomy.read(str(path))
    with pytest.raises(ValueError, match=re.escape(f"no taxonomy {tmp_path}/none.yaml; copy {SHIPPED}")):
        Taxonomy.read(f"{tmp_path}/none.yaml")


def test_the_shipped_one_holds_the_76_categories_and_the_paper_s_levels() -> None:
    taxonomy = Taxonomy.read()
    assert taxonomy.categories.index("Wrong Candidate Generation") == 75  # the last of Super-NaturalInstructions'
    held_out = "Textual Entailment", "Coreference Resolution", "Word Sense Disambiguation", "Sentence Completion"
    found = [taxonomy.category("promptsource", f"super_glue_{name}") for name in ("rte", "wsc.fixed", "wic")]
    assert (*found, taxonomy.category("promptsource", "story_cloze_2016")) == held_out


def test_no_task_of_a_list_of_datasets_lacks_a_category() -> None:
    """Families whose datasets are listed in the code: all of them, including missing ones."""
    taxonomy = Taxonomy.read()
    families = (
        CrossFit(),
        ExMix(),
        T5(),
        StructuredKnowledge(),
        Reasoning(),
        Dialogue(),
        MMLU(),
        BigBenchHard(),
        RAFT(),
    )
    for family in families:
        assert len(family.datasets()) > 5
        assert all(category_of(taxonomy, family.task(name)) for name in family.datasets())


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_no_real_task_lacks_a_category() -> None:
    data = Path(os.environ["CROSSTASK_DATA"])
    taxonomy = Taxonomy.read()
    files = [*data.glob("superni/tasks/*.json"), *data.glob("superni/raw_oct2021_samples/*.json")]
    natural = [Task("super_natural_instructions", p.stem, json.loads(p.read_text())["Categories"][0]) for p in files]
    templates = data / "promptsource/templates"
    names = ["_".join(p.parent.relative_to(templates).parts) for p in templates.rglob("templates.yaml")]
    rendered = [p.stem for p in data.glob("p3_t0/*.jsonl")]
    tasks = [*natural, *(Task("promptsource", n, "") for n in names), *(Task("p3", n, "") for n in rendered)]
    assert (len(natural), len(names), len(rendered)) == (610, 279, 294)
    assert all(category_of(taxonomy, task) for task in tasks)
