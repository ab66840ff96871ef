"""Which part of a job's work is a process's own."""

import pytest

from crosstask.datamodules.packing.replicas import Process, process_of_job


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Process()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Process(3, 4, 1)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}, Process(1, 2, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Process()),  # a batch script that starts no tasks
        (
            {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"},
            Process(2, 4),
        ),
    ],
)
def test_a_process_knows_its_share(environment: dict[str, str], expected: Process) -> None:
    assert process_of_job(environment) == expected
