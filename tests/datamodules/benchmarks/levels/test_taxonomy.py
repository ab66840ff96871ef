import json
import os
import re
from pathlib import Path

import pytest
import yaml

from crosstask.datamodules.benchmarks import (
    FLAN,
    MMLU,
    RAFT,
    T5,
    BigBenchHard,
    CrossFit,
    Dialogue,
    ExMix,
    FlanRows,
    PromptSource,
    Reasoning,
    RowSource,
    StructuredKnowledge,
)
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.benchmarks.levels.taxonomy import SHIPPED, Taxonomy, category_in_bench
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
        ("flan", "glue/qa-long", "", "Question Answering"),
        ("flan", "glue/qa-long", "Translation", "Translation"),  # names are for tasks without a stated category
        ("flan", "wmtx", "Misc.", "Misc."),  # whole words only
        ("flan", "drop", "Reading Comprehension", "Question Answering"),
        ("oddities", "wmt", "Translation", "Misc."),
        ("mine", "wmt14", "Translation", "Misc."),
    ],
)
def test_a_task_finds_its_category(tmp_path: Path, benchmark: str, task: str, upstream: str, category: str) -> None:
    assert Taxonomy.read(written(tmp_path)).category(benchmark, task, upstream) == category


def category_of(taxonomy: Taxonomy, task: Task) -> str | None:
    """The category of a task; None if it has none."""
    return taxonomy.category(task.benchmark, task.name, task.category)


def test_a_task_without_category_is_one_of_its_own(tmp_path: Path) -> None:
    taxonomy = Taxonomy.read(written(tmp_path))
    assert taxonomy.category("flan", "europarl", "Translations") is None
    assert taxonomy.category("flan", "wmt_14") == "Translation"
    assert category_in_bench("mine", "flan", Task("flan", "hats", ""), None) == "hats"
    assert category_in_bench("mine", "flan", Task("flan", "arc_welding", "Metal"), None) == "Metal"


def test_a_user_s_taxonomy_beats_the_shipped_one_and_what_a_collection_states(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "categories: [Riddles]\ncollections: {mine: Riddles}\ntasks: {flan/rte: Riddles}\n"
        "datasets: {Riddles: [hats]}\ncalled: {Metal: Riddles}\n"
    )
    taxonomy = Taxonomy.read(str(path))

    def category(collection: str, name: str, stated: str) -> str:
        return category_in_bench(collection, "flan", Task("flan", name, stated), taxonomy)

    assert category("mine", "boolq", "Question Answering") == "Riddles"
    assert category("flan", "rte", "Textual Entailment") == "Riddles"
    assert category("flan", "hats_2", "Question Answering") == "Riddles"
    assert category("flan", "welding", "Metal") == "Riddles"
    assert (
        category("flan", "boolq", "Question Answering") == "Question Answering"
    )  # the shipped one, where it is silent


def test_readers_without_categories_need_no_entry_in_the_taxonomy(tmp_path: Path) -> None:
    (tmp_path / "templates/hats").mkdir(parents=True)
    (tmp_path / "templates/hats/templates.yaml").write_text(
        "dataset: hats\ntemplates: {a: !Template {name: a, jinja: 'x ||| y', answer_choices: null, "
        "metadata: !TemplateMetadata {original_task: true}}}\n"
    )
    (tmp_path / "flan.yaml").write_text("hats: [['{x}', '{answer}']]")
    readers = {
        "flan": FLAN(f"{tmp_path}/flan.yaml", {"hats": FlanRows("x.jsonl")}),
        "source": PromptSource(f"{tmp_path}/templates", {"hats": RowSource("x.jsonl")}),
    }
    assert {name: reader.task("hats").category for name, reader in readers.items()} == {
        "flan": "hats",
        "source": "hats",
    }
    path = tmp_path / "mine.yaml"
    path.write_text("categories: [Riddles]\ntasks: {flan/hats: Riddles, source/hats: Riddles}\n")
    bench = Bench(readers, taxonomy=str(path))  # type: ignore[arg-type]
    assert {bench.task(f"{name}/hats").category for name in readers} == {"Riddles"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"called": {"MT": "Translations"}},
            "called has 'MT' in 'Translations', which is not a category; nearest: Translation, Explanation; add it to",
        ),
        ({"categories": ["Misc.", "Misc."]}, "`categories` names a category twice"),
        (
            {"datasets": {"Misc.": ["wmt"], "Translation": ["WMT"]}},
            "dataset 'WMT' is listed in 'Misc.' and in 'Translation'",
        ),
        ({"extra": {}}, "expected some of the sections categories, called, datasets, collections, tasks, got "),
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
    with pytest.raises(ValueError, match="'a' occurs twice"):
        Taxonomy.read(str(path))
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"expected some of the sections .* got list \[1\]"):
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
