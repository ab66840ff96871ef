"""Sequence parallelism: losses and gradients of one process, from parts of rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from sequence_worker import COLUMNS, MODELS
from warm_program import WarmProgram

from crosstask.lightning_modules.sharding.strategies import ShardedStrategy

WORKER = "import sys, sequence_worker; sys.exit(sequence_worker.main(sys.argv[1]))"


@pytest.fixture(scope="module")
def results(program: WarmProgram, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("sequence") / "results.json"
    for done in program.ranks(2, "-c", WORKER, str(path)):
        assert not done.returncode, done.stderr[-3000:]
    return json.loads(Path(path).read_text())


@pytest.mark.distributed
@pytest.mark.parametrize("name", MODELS)
def test_divided_rows_have_the_gradients_of_one_process(results: dict[str, Any], name: str) -> None:
    """In float64, recomputed, with packed documents that cross the middle of rows."""
    for sequence, columns in (("false", COLUMNS), ("true", COLUMNS // 2)):
        found = results[name][sequence]
        assert found["columns"] == columns
        assert found["loss"] < 1e-12
        assert found["gradients"] < 1e-12


@pytest.mark.distributed
@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_reads_rows_that_cannot_be_divided(results: dict[str, Any], name: str) -> None:
    assert results[name]["true"]["columns of odd rows"] == COLUMNS - 1
    assert results[name]["true"]["odd columns"] < 1e-12


def test_rows_are_divided_over_a_tensor_parallel_group_only() -> None:
    with pytest.raises(ValueError, match="sequence_parallel divides rows over a tensor-parallel group"):
        ShardedStrategy(sequence_parallel=True)
