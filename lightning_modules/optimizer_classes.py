"""Optimizers by name: torch's own, Muon beside AdamW, and those of other packages.

Every optimizer is one object. Its states are saved by parameter name, and its groups follow one schedule.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from .master_weights import MasterWeights, is_low
from .named_classes import imported
from .optimization import Optimization, matrix_names, parameter_groups, plain_name

_REJECTED = {
    "LBFGS": "it computes the loss several times in a step",
    "SparseAdam": "gradients of language models are dense",
}
ALTERNATIVE = "set optimizer.algorithm to AdamW"


class MuonWithAdamW(Optimizer):
    """Muon on the matrices of blocks, and AdamW on embeddings, head, biases and norms, as one optimizer.

    Muon's steps are scaled to the size of AdamW's (``adjust_lr_fn`` is ``match_rms_adamw``, arXiv 2502.16982), so that
    one learning rate and one decay fit both.

    Args:
        groups: Parameter groups; those with ``hidden`` true are Muon's, the others AdamW's.
        lr: Learning rate of both; the peak of the schedule.
        betas: Decay rates of AdamW's moments.
        fused: Whether AdamW uses torch's fused implementation.
        options: Further keyword arguments of Muon.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], fused: bool = False, **options: Any
    ) -> None:
        hidden, others = ([group for group in groups if group["hidden"] is kind] for kind in (True, False))
        if not hidden:
            raise ValueError(f"Muon steps along matrices of blocks, and none is trained: {ALTERNATIVE}")
        self._muon = Muon(hidden, lr=lr, **{"adjust_lr_fn": "match_rms_adamw", **options})
        self._adam = AdamW(others or [{"params": [], "hidden": False}], lr=lr, betas=betas, fused=fused)
        super().__init__([*self._muon.param_groups, *(self._adam.param_groups if others else [])], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer, kind in ((self._muon, True), (self._adam, False)):
            # Loading a checkpoint replaces the groups and the state of this optimizer.
            optimizer.param_groups = [group for group in self.param_groups if group["hidden"] is kind]
            optimizer.state = self.state
            optimizer.step()
        return loss


def optimizer_class(algorithm: str) -> type[Optimizer]:
    """Return the class of an optimizer: a name in torch.optim, or an import path.

    >>> optimizer_class("NAdam")
    <class 'torch.optim.nadam.NAdam'>

    Raises:
        ValueError: There is no such optimizer, or it cannot train here.
    """
    name = algorithm.removeprefix("torch.optim.")
    if name in _REJECTED:
        raise ValueError(f"optimizer.algorithm {name} cannot train a language model: {_REJECTED[name]}; {ALTERNATIVE}")
    optimizer_class = imported(algorithm if "." in name else f"torch.optim.{name}", "optimizer.algorithm")
    if (
        not isinstance(optimizer_class, type)
        or not issubclass(optimizer_class, Optimizer)
        or optimizer_class is Optimizer
    ):
        raise ValueError(
            f"optimizer.algorithm {algorithm} is no optimizer of torch: give a name of torch.optim or a path"
        )
    return MuonWithAdamW if optimizer_class is Muon else optimizer_class


def build_optimizer(settings: Optimization, model: nn.Module, *, matrices: frozenset[str] | None = None) -> Optimizer:
    """Return the optimizer of a model's trainable parameters.

    Args:
        settings: Learning rate, decay and algorithm. The algorithm gets betas and fused if its constructor has them.
        model: The model. Only its matrices decay.
        matrices: Names of the matrices (from ``matrix_names``), for strategies that flatten parameters; None to find
            them by their shapes.

    Raises:
        ValueError: The algorithm lacks a setting that is given.
    """
    matrices = matrix_names(model) if matrices is None else matrices
    algorithm = optimizer_class(settings.algorithm)
    accepted = inspect.signature(Muon if algorithm is MuonWithAdamW else algorithm).parameters
    wanted = {"fused": settings.fused, "weight_decay": bool(settings.weight_decay)} | settings.options
    known = {*accepted, "fused"} if algorithm is MuonWithAdamW else {*accepted}
    if missing := sorted(name for name, value in wanted.items() if value is not False and name not in known):
        raise ValueError(f"{settings.algorithm} has no {missing[0]}; its arguments are {sorted(accepted)}")
    groups = parameter_groups(model, settings.weight_decay, matrices=matrices)
    if algorithm is MuonWithAdamW:
        groups = _divided(groups, _hidden(model, matrices))
        own: dict[str, Any] = {"betas": settings.betas, "fused": settings.fused}
    else:
        given = {"betas": settings.betas, "fused": settings.fused}
        own = {name: value for name, value in given.items() if name in accepted and value is not False}
    build: Callable[[Any], Optimizer] = partial(algorithm, lr=settings.learning_rate, **own, **settings.options)  # type: ignore[call-arg]
    optimizer = MasterWeights(groups, build) if _keeps_masters(settings, groups) else build(groups)
    set_averages([optimizer], training=True)
    return optimizer


def _keeps_masters(settings: Optimization, groups: list[dict[str, Any]]) -> bool:
    """Return whether to keep master weights, which needs parameters in half precision."""
    low = any(is_low(parameter) for group in groups for parameter in group["params"])
    if settings.master_weights and not low:
        raise ValueError(
            "optimizer.master_weights keeps float32 copies of trained parameters in half precision, and all of these "
            "are in float32 (adapters always are): set network.dtype to bfloat16, or leave master_weights out"
        )
    if low and not settings.master_weights:
        rank_zero_info(
            "trained parameters are in half precision, which rounds small steps away: set optimizer.master_weights to "
            "true, or network.dtype to float32"
        )
    return settings.master_weights


def set_averages(optimizers: Iterable[object], *, training: bool) -> None:
    """Switch schedule-free optimizers (arXiv 2405.15682) between training weights and averaged weights."""
    for optimizer in optimizers:
        if type(optimizer).__module__.partition(".")[0] == "schedulefree":
            optimizer.train() if training else optimizer.eval()  # type: ignore[attr-defined]


def reject_optimizer(settings: Optimization, strategy: Strategy) -> None:
    """Reject an optimizer that does not work under a strategy, and a schedule beside a schedule-free optimizer.

    Raises:
        ValueError: With the way out.
    """
    algorithm = optimizer_class(settings.algorithm)
    package, where = algorithm.__module__.partition(".")[0], type(strategy).__name__
    flattens = isinstance(strategy, DeepSpeedStrategy | FSDPStrategy)
    if algorithm is MuonWithAdamW and flattens:
        raise ValueError(f"Muon needs whole matrices, and {where} flattens them: use ddp or ShardedStrategy")
    if settings.master_weights:
        if flattens or isinstance(strategy, ModelParallelStrategy):
            raise ValueError(
                f"optimizer.master_weights is for one device and ddp: leave it out, and {where} keeps float32 weights "
                "with network.dtype float32 and a half precision to compute in"
            )
        if package not in ("torch", MuonWithAdamW.__module__.partition(".")[0]):
            raise ValueError(f"optimizer.master_weights is for optimizers of torch.optim, got {settings.algorithm}")
    if package == "schedulefree":
        if flattens:
            raise ValueError(f"{where} does not average weights between steps: use ddp or ShardedStrategy")
        if settings.schedule != "constant":
            raise ValueError(f"{settings.algorithm} needs no schedule: set optimizer.schedule to constant")
    if package == "bitsandbytes" and isinstance(strategy, ModelParallelStrategy | FSDPStrategy):
        raise ValueError(f"bitsandbytes steps on whole parameters, and {where} shards them: use ddp or DeepSpeed")


def _hidden(model: nn.Module, matrices: frozenset[str]) -> frozenset[int]:
    """Return the ids of the matrices that are neither embeddings nor the head."""
    tables = {id(weight) for part in model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    tables |= set() if head is None else {id(weight) for weight in head.parameters()}
    named = [(plain_name(name), value) for name, value in model.named_parameters()]
    return frozenset(
        id(value) for name, value in named if name in matrices and value.ndim == 2 and id(value) not in tables
    )


def _divided(groups: list[dict[str, Any]], hidden: frozenset[int]) -> list[dict[str, Any]]:
    """Return the groups, each divided into Muon's parameters and the others."""
    parts = [
        {**group, "params": [value for value in group["params"] if (id(value) in hidden) is kind], "hidden": kind}
        for kind in (True, False)
        for group in groups
    ]
    return [part for part in parts if part["params"]]
