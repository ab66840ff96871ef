"""Every family's files, written small and read by the real readers, offline."""

from collections import Counter
from pathlib import Path

import pytest
from toy_readers import toy_benchmarks

from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.benchmarks.levels.taxonomy import Taxonomy
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.rendering.skipped_examples import skip_reason
from crosstask.datamodules.toybench.families import write_families
from crosstask.datamodules.toybench.writer import write_toybench

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# family: tasks, examples, skipped by reason
EXPECTED: dict[str, tuple[int, int, dict[str, int]]] = {
    "promptsource": (1, 24, {}),
    "p3": (1, 24, {}),
    "flan": (1, 24, {}),
    "chain_of_thought": (9, 216, {}),
    "crossfit": (1, 48, {}),
    "exmix": (1, 24, {}),
    "t5": (1, 24, {}),
    "unifiedskg": (7, 24 * 5 + 48 * 2, {}),
    "reasoning": (14, 24 * 12 + 48 * 2, {"no rationale": 24, "its reason is a wrong one": 12}),
    "dialogue": (8, 24 * 7 + 72, {}),
    "pretraining": (1, 24, {}),
    "file_tasks": (2, 48, {}),
    "mmlu": (3, 72, {}),
    "bigbench": (2, 49, {"a repetition of an earlier example": 1}),
    "bbh": (1, 24, {}),
    "raft": (1, 24, {}),
    "opt_evaluation": (22, 24 * 20 + 48 * 2, {}),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    write_families(folder)
    return folder


@pytest.fixture(scope="module")
def readers(families: Path) -> dict[str, Benchmark]:
    return {benchmark.name: benchmark for benchmark in toy_benchmarks(families)}


def names(benchmark: Benchmark) -> list[str]:
    return list(dict.fromkeys(name for split in SPLITS for name in benchmark.task_names(split)))


@pytest.mark.parametrize("family", EXPECTED)
def test_a_family_reads_whole(readers: dict[str, Benchmark], family: str) -> None:
    benchmark = readers[family]
    form = OptImlPrompt()
    skipped: Counter[str] = Counter()
    read = 0
    for name in names(benchmark):
        task = benchmark.task(name)
        assert (task.benchmark, task.name) == (family, name)
        examples = list(benchmark.examples(name))
        read += len(examples)
        assert len({example.id for example in examples}) == len(examples)
        assert [example.index for example in examples] == sorted(example.index for example in examples)
        for example in examples:
            if reason := skip_reason(task, example):
                skipped[reason] += 1
                continue
            prompt = form(task, example, rendering_rng(0, name, example.id))
            assert prompt.target
            if example.answer is not None:
                assert example.options[example.answer] in example.targets[0]
        assert benchmark.fingerprint(name) == benchmark.fingerprint(name)
    assert (len(names(benchmark)), read, dict(skipped)) == EXPECTED[family]


def test_every_family_has_a_reader_and_every_task_a_category(readers: dict[str, Benchmark]) -> None:
    assert set(readers) == set(EXPECTED)
    tasks = [benchmark.task(name) for benchmark in readers.values() for name in names(benchmark)]
    assert len(tasks) == sum(expected[0] for expected in EXPECTED.values())
    taxonomy = Taxonomy.read()
    assert all(taxonomy.category(task.benchmark, task.name, task.category) for task in tasks)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_writes_the_same_bytes(families: Path, tmp_path: Path) -> None:
    write_families(tmp_path / "again")
    assert files(tmp_path / "again") == files(families)
    write_families(tmp_path / "other", seed=1)
    other = files(tmp_path / "other")
    same = [name for name, content in files(families).items() if other[name] == content]
    assert len(same) < len(other) / 5  # labels, schemas and headers


def test_toybench_writes_the_families_when_asked(tmp_path: Path) -> None:
    write_toybench(tmp_path / "toybench", instances=101, families=True)
    assert files(tmp_path / "toybench/families").keys() >= {"spider/dev.json", "mmlu/test/anatomy_test.csv"}
    write_toybench(tmp_path / "toybench", instances=101, families=True)  # holds it already
    with pytest.raises(ValueError, match="should be new, empty or hold"):
        write_toybench(tmp_path / "toybench", instances=101)
