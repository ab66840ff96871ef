"""Plans of instruction optimization: vectors and passes by what a hypergradient holds, bytes by known answers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import Parameter

from crosstask.commands.shared.settings_reader import SettingsReader
from crosstask.datamodules.bilevel.presets import choices
from crosstask.lightning_modules.hypergradients import (
    adam_preconditioned,
    conjugate_gradient,
    hypergradient,
    identity,
    neumann,
    penalty,
    sama,
)
from crosstask.lightning_modules.instructions.outer_settings import OuterSettings
from crosstask.lightning_modules.planning.bilevel_plan import PENALTY, outer_passes
from crosstask.lightning_modules.planning.communication import Links
from crosstask.lightning_modules.planning.resource_plan import ResourcePlan, make_plan

ROWS, WIDTH, TABLES = 2000, 8, 10
SIZES = [1e-4 * torch.rand(ROWS, WIDTH) for _ in range(TABLES)]
FAST = {"hessian_products": 0}
METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "identity": (partial(hypergradient, identity), {"method": "identity"}),
    "neumann": (partial(hypergradient, partial(neumann, gamma=1e-4, hessian_products=3)), {"hessian_products": 3}),
    "neumann auto": (partial(hypergradient, partial(neumann, gamma="auto")), {"gamma": "auto"}),
    "neumann, M = 0": (partial(hypergradient, partial(neumann, gamma=1e-4, hessian_products=0)), FAST),
    "conjugate gradient, 1": (
        partial(hypergradient, partial(conjugate_gradient, iterations=1, damping=100.0)),
        {"method": "conjugate_gradient", "iterations": 1},
    ),
    "conjugate gradient, 3": (
        partial(hypergradient, partial(conjugate_gradient, iterations=3, damping=100.0)),
        {"method": "conjugate_gradient", "iterations": 3},
    ),
    "adam": (
        partial(hypergradient, partial(adam_preconditioned, step_sizes=SIZES, hessian_products=1)),
        {"method": "adam_preconditioned"},
    ),
    "sama": (partial(hypergradient, partial(sama, sensitivity=SIZES)), {"method": "sama"}),
    "penalty, 1": (partial(penalty, alpha=10.0, rate=0.1), {"gradient": PENALTY}),
    "penalty, 3": (partial(penalty, alpha=10.0, rate=0.1, steps=3), {"gradient": PENALTY, "options": {"steps": 3}}),
}


@pytest.mark.parametrize("name", METHODS)
def test_vectors_and_passes_are_those_of_the_hypergradient(name: str) -> None:
    """Theta is many tables of which a pass reads four rows: what is held are vectors of its size, not activations."""
    run, settings = METHODS[name]
    torch.manual_seed(0)
    theta, phi = [Parameter(torch.randn(ROWS, WIDTH)) for _ in range(TABLES)], Parameter(torch.randn(4, WIDTH))
    calls = {"inner": 0, "outer": 0}

    def loss(level: str) -> Tensor:
        calls[level] += 1
        shift = phi if level == "inner" else torch.zeros(())
        parts = [((F.embedding(torch.arange(4), table) + shift).tanh().sum() - 1).square() for table in theta]
        return torch.stack(parts).sum()

    tracker = MemTracker()
    tracker.track_external(*theta, phi, *(SIZES if name in ("adam", "sama") else []))
    with tracker:
        run([partial(loss, "inner")] * 2, [partial(loss, "outer")] * 2, theta, [phi])  # each in two chunks
    [snapshot] = tracker.get_tracker_snapshot("peak").values()
    planned = outer_passes(OuterSettings(**settings, negligible=0.0), choices("paper", **_products(settings)))
    assert snapshot["Total"] / (TABLES * theta[0].nbytes) - 1 == pytest.approx(planned.vectors, abs=0.2)
    estimated = 10 if name == "neumann auto" else 0  # passes of the estimate, which is made at calibrations
    assert calls == {"outer": 2 * planned.outer, "inner": 2 * (planned.inner + planned.frozen + estimated)}


def _products(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("hessian_products",) if name in settings}


def plan_of(*words: str) -> ResourcePlan:
    config = {"model_type": "opt", "vocab_size": 500, "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 256}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
    settings = [
        "--config=instruction_optimization_toybench",
        f"--model.init_args.config={config}",
        "--trainer.max_steps=100",
        "--data.init_args.rows.length=64",
        "--data.init_args.levels={inner_steps: 5, inner_rows: 4, outer_rows: 8}",
        *words,
    ]
    configuration = SettingsReader("crosstask plan", settings).settings.as_dict()
    return make_plan(configuration, capacity=2**30, rate=1e12, targets=0.15, links=Links(300e9, 25e9))


def test_a_step_of_phi_is_planned_with_the_steps_of_theta() -> None:
    plan, more = plan_of("--data.init_args.preset=fast"), plan_of("--data.init_args.preset=paper")
    size, kept = 4 * plan.parameters, plan.memories[False]
    assert plan.outer is not None
    assert more.outer is not None
    # Three vectors of theta's size in place of its gradients, and phi's four numbers for each of its own.
    assert (kept.weights, kept.gradients) == (size, 3 * size)
    assert kept.optimizer == 2 * size + plan.outer.instruction
    assert more.memories[False].gradients == 6 * size
    # Passes of all eight outer rows at once hold the activations of twice the rows of an inner step.
    at_once = plan_of("--data.init_args.preset=fast", "--model.init_args.outer.rows_at_once=8").memories[False]
    assert at_once.activations == pytest.approx(2 * kept.activations, rel=0.1)
    # In inner steps of 4 rows: v at 8 rows is 2, and two passes at 8 rows are 4, of which frozen weights save a third.
    theta = plan.flops - plan.outer.flops / 5
    assert 2 + 4 * 2 / 3 < plan.outer.flops / theta < 6
    assert plan.device_hours == pytest.approx(100 * plan.flops / 1e12 / 3600)
    assert plan.shape.rows == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.init_args.outer.curvature=exact"], "no plan can be made for exact curvature"),
        (["--model.init_args.outer.method=my.own"], "the passes of my.own are unknown: plan with outer.method neumann"),
        (["--trainer.devices=3", "--trainer.strategy=ddp"], "inner_rows = 4 cannot be divided into 3 replicas"),
        (
            ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.init_args.levels.outer_rows=5"],
            "outer_rows = 5 cannot be divided into 2 replicas",
        ),
        (["--trainer.devices=2", "--trainer.strategy=deepspeed_stage_2"], "under ddp, or under ShardedStrategy"),
    ],
)
def test_what_cannot_be_planned_is_said(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(*words)
