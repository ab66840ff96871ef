"""Which fixtures are loaded, and which tests begin."""

import gc
import os

# Read when huggingface_hub is imported: without a network, it looks a name that is not cached up for half a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

pytest_plugins = ["fault_table"]

LONG = (
    "test_real_data.py",
    "test_instruction_tables.py",
    "test_strategy_matrix.py",
    "test_tutorials.py",
    "test_trainer_settings.py",
    "test_readme.py",
    "test_instruction_recipes.py",
    "test_cli.py",
    "test_first_run.py",
    "test_step_memory.py",
    "test_attention.py",
    "test_adaptation_page.py",
    "test_wheel.py",
    "test_preparation.py",
    "test_instruction_optimization.py",
    "test_stream_changes.py",
    "test_resumed_settings.py",
    "test_resource_plan.py",
    "test_judge_claims.py",
    "test_disk_faults.py",
    "test_nonfinite_stop.py",
    "test_gpu_measurements.py",
)
"""Files that take long: they begin, since two processes share the files, and one would wait for a long last one."""


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, which import torch, except in the process that hands the tests to others."""
    os.fsync = lambda file: None  # no test cuts the power, and every preparation would wait seconds for the disk
    if not config.getoption("numprocesses", None):
        gc.disable()  # while libraries are imported: it would go through all of them again and again
        for name in ("shared_fixtures", "sampled_runs", "trainer_fits"):
            config.pluginmanager.import_plugin(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but not among what is imported, which takes 0.3 s after every adapted scorer."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def without_late_imports() -> None:
    """Leave what the files before have imported out of collections, too."""
    gc.collect()
    gc.freeze()
