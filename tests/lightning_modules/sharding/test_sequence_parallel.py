"""Sequence parallelism: losses and gradients of one process, from parts of rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sequence_worker import CHOICES, COLUMNS, COUNTED, MODELS, ROWS, build
from warm_program import WarmProgram

from crosstask.lightning_modules.planning.communication import Links, step_exchange
from crosstask.lightning_modules.planning.memory import Layout, StepShape
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


@pytest.mark.distributed
@pytest.mark.parametrize("name", COUNTED)
def test_a_plan_counts_the_numbers_that_two_processes_send(results: dict[str, Any], name: str) -> None:
    """Beside the blocks, a pair of stacks or one sums embeddings, head and joined rows; no one counts those."""
    links = Links(1.0, 1.0)
    for (sequence, recomputed), sent in zip(CHOICES, results[f"{name}, numbers"], strict=True):
        layout = Layout("sharded", 2, tensor_parallel=2, compute_dtype=torch.float64, sequence_parallel=sequence)
        shape = StepShape(ROWS, COLUMNS, 8, target_columns=8 if name == "t5" else None)
        sizes = {"weight_bytes": 0, "trained_bytes": 0, "batches": 1, "recomputed": float(recomputed)}
        planned = step_exchange(build(name), layout, shape, links, **sizes).activations
        # A ring of two sends half of what is gathered or summed, in numbers of 8 bytes.
        assert planned * 2 / 8 == sent - beside_blocks(name, sequence)


def beside_blocks(name: str, sequence: bool) -> int:
    """Numbers of the sums of embeddings and of the head's gradients, and of rows that are joined behind the blocks."""
    hidden = [ROWS * COLUMNS * 32, *([ROWS * 8 * 32] if name == "t5" else [])]
    return 2 * sum(hidden) + 2 * hidden[-1] + (2 * sum(hidden) if sequence else 0)


def test_rows_are_divided_over_a_tensor_parallel_group_only() -> None:
    with pytest.raises(ValueError, match="sequence_parallel divides rows over a tensor-parallel group"):
        ShardedStrategy(sequence_parallel=True)
