"""Which part of a job's work is a process's own."""

import pytest

from crosstask.datamodules.packing.replicas import Process, job_id, process_of_job

ARRAY = {
    f"SLURM_ARRAY_TASK_{name}": value for name, value in {"ID": "12", "MIN": "4", "MAX": "16", "STEP": "4"}.items()
}
ARRAY["SLURM_ARRAY_TASK_COUNT"] = "4"  # --array=4-16:4
LISTED = {
    f"SLURM_ARRAY_TASK_{name}": value for name, value in {"MIN": "0", "MAX": "5", "COUNT": "3", "STEP": "1"}.items()
}


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
        (ARRAY | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}, Process(2, 4)),
        (ARRAY | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}, Process(5, 8, 1)),
        (ARRAY | {"RANK": "0", "WORLD_SIZE": "2"}, Process(4, 8)),
    ],
)
def test_a_process_knows_its_share(environment: dict[str, str], expected: Process) -> None:
    assert process_of_job(environment) == expected


def test_an_array_with_gaps_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"numbers from 0 to 5 with gaps, .* submit it with --array=0-2"):
        process_of_job({**ARRAY, "SLURM_ARRAY_TASK_ID": "5", **LISTED})


def test_jobs_have_different_ids_and_the_processes_of_one_have_the_same() -> None:
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "5f0c"}
    step = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"}
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "10"}
    jobs = [torchrun, torchrun | {"TORCHELASTIC_RUN_ID": "9a1b"}, step, step | {"SLURM_STEP_ID": "2"}, array]
    assert len({job_id(job) for job in jobs}) == len(jobs)
    assert job_id(torchrun | {"RANK": "0", "SLURM_PROCID": "1"}) == job_id(torchrun)
    assert job_id(step | {"SLURM_PROCID": "1"}) == job_id(step)
    assert job_id(array | {"SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_ID": "11"}) == job_id(array)
    assert job_id(array | step | {"SLURM_JOB_ID": "11"}) == job_id(array)  # its tasks call srun
    assert not job_id({})
    assert not job_id(torchrun | {"TORCHELASTIC_RUN_ID": "none"})  # several machines, without --rdzv_id
