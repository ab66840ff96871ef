"""Parameter groups and the schedule."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from crosstask.lightning_modules.optimization import Optimization, parameter_groups, rate_share, scheduler


def test_biases_and_norms_do_not_decay() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    decayed, others = parameter_groups(module, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 2)]
    assert decayed["weight_decay"] == 0.1
    assert len(others["params"]) == 3
    assert others["weight_decay"] == 0.0


def test_frozen_parameters_are_left_to_themselves() -> None:
    module = nn.Linear(2, 3)
    module.weight.requires_grad_(False)
    (group,) = parameter_groups(module, 0.1)
    assert [tuple(p.shape) for p in group["params"]] == [(3,)]


def test_the_schedule_rises_to_its_peak_and_falls_to_zero() -> None:
    shape = [rate_share(step, warmup=60, total=4000) for step in range(4001)]
    assert shape[59] == max(shape) == 1.0
    assert shape[0] == pytest.approx(1 / 60)
    assert all(later < earlier for earlier, later in pairwise(shape[59:]))
    assert shape[3999] > 0 == shape[4000]


@pytest.mark.parametrize(
    ("warmup", "total", "said"),
    [
        (10, -1, "max_steps"),
        (11, 10, "warmup = 11 exceeds the 10 steps of the training: shorten it, or set a share"),
    ],
)
def test_impossible_schedules_are_rejected(warmup: int, total: int, said: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=said):
        scheduler(optimizer, Optimization(warmup=warmup), total=total)
