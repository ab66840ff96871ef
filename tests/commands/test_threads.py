"""How many threads a run on the CPU uses."""

import os
from collections.abc import Iterator

import pytest
import torch
from lightning import LightningModule

from crosstask.commands.shared.threads import SMALL, VARIABLES, CpuThreads

CORES = len(os.sched_getaffinity(0))
pytestmark = pytest.mark.skipif(CORES < 2, reason="one processor has one thread")


@pytest.fixture(autouse=True)
def default_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads as in a process whose user set nothing."""
    before = torch.get_num_threads()
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(before)


def threads_of_a_fit(parameters: int) -> int:
    module = LightningModule()
    module.weight = torch.nn.Parameter(torch.empty(parameters, device="meta"))
    CpuThreads().on_fit_start(None, module)
    return torch.get_num_threads()


def test_a_small_model_uses_one_thread_and_a_large_one_all() -> None:
    assert threads_of_a_fit(SMALL) == CORES
    assert threads_of_a_fit(SMALL - 1) == 1


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_of_the_user_decides(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, str(CORES))
    assert threads_of_a_fit(1) == CORES


def test_threads_that_a_program_has_set_are_left_alone() -> None:
    torch.set_num_threads(CORES + 1)
    assert threads_of_a_fit(1) == CORES + 1
