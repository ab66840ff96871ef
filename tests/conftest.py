"""Which fixtures are loaded, and which tests begin."""

import os

# Read when huggingface_hub is imported: without a network, it looks a name that is not cached up for half a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

pytest_plugins = ["fault_table"]

LONG = ("test_real_data.py", "test_strategy_matrix.py", "test_gpu_measurements.py", "test_wheel.py", "test_readme.py")
"""Files that take a minute: they begin, since two processes share the files, and one would wait for a long last one."""


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, which import torch, except in the process that hands the tests to others."""
    if not config.getoption("numprocesses", None):
        for name in ("shared_fixtures", "sampled_runs", "trainer_fits"):
            config.pluginmanager.import_plugin(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
