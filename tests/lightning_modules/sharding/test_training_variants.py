"""Losses in chunks and other optimizers under every strategy that carries them, as on one process."""

from pathlib import Path
from typing import Any

import pytest
from processes import STRATEGIES, losses, run_on
from recipes import save_model
from strategy_runs import STEPS, TWO, fit, require_equal_weights, write_recipe
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer

pytestmark = pytest.mark.distributed

CHUNKED = {"opt": ["fsdp2", "tensor", "zero2", "zero3"], "t5": ["tensor"]}
"""Strategies under which the loss in chunks is compared with whole logits on one process."""

OPTIMIZERS = {"SGD": ["fsdp2", "zero3"], "NAdam": ["tensor", "zero2"], "Muon": ["ddp", "fsdp2", "tensor"]}
"""Strategies by algorithm of the optimizer."""

REJECTED = {("Muon", "zero2"): "Muon needs whole matrices"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="module")
def runs(program: WarmProgram, folder: Path, toybench: Path) -> Path:
    """Every variant on one process, and all others in one start of two."""
    vocabulary = len(load_tokenizer(str(toybench / "tokenizer")))
    commands: list[dict[str, Any]] = []
    accumulate = [*TWO, "--trainer.accumulate_grad_batches=2"]
    for kind, names in CHUNKED.items():
        arguments = {"pretrained": str(save_model(kind, folder, vocabulary)), "optimizer": {"learning_rate": 0.3}}
        data = {"rows": {"target_length": 48}} if kind == "t5" else {}
        model = {"class_path": "plain_descent.PlainTuning", "init_args": arguments}
        main(fit(write_recipe(folder / f"{kind}.yaml", toybench, model, data), f"{kind}_whole"))
        model["class_path"] = "plain_descent.ChunkedTuning"
        recipe = write_recipe(folder / f"{kind}.yaml", toybench, model, data)
        commands += [{"words": fit(recipe, f"{kind}_{name}", *accumulate, *STRATEGIES[name])} for name in names]
    settings = {"learning_rate": 0.01, "warmup": 2, "schedule": "wsd", "cooldown": 0.5}
    model = {"class_path": "InstructionTuningModule", "init_args": {"pretrained": str(folder / "opt")}}
    model["init_args"]["optimizer"] = settings  # type: ignore[index]
    recipe = write_recipe(folder / "optimizers.yaml", toybench, model, {})
    for algorithm, names in OPTIMIZERS.items():
        words = [f"--model.init_args.optimizer.algorithm={algorithm}"]
        main(fit(recipe, f"{algorithm}_one", *words))
        commands += [{"words": fit(recipe, f"{algorithm}_{name}", *words, *TWO, *STRATEGIES[name])} for name in names]
    for (algorithm, name), reason in REJECTED.items():
        words = [f"--model.init_args.optimizer.algorithm={algorithm}", *TWO, *STRATEGIES[name]]
        commands.append({"words": fit(recipe, "no", *words), "skipped": reason})
    run_on(program, 2, commands, folder)
    return folder


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CHUNKED.items() for name in names])
def test_the_loss_in_chunks_trains_as_whole_logits_do(runs: Path, kind: str, name: str) -> None:
    whole = losses(runs / f"run/{kind}_whole")
    assert len(whole) == STEPS
    assert losses(runs / f"run/{kind}_{name}") == pytest.approx(whole, rel=5e-6)
    require_equal_weights(runs, f"{kind}_whole", [f"{kind}_{name}"], 5e-6)


@pytest.mark.parametrize(
    ("algorithm", "name"), [(algorithm, name) for algorithm, names in OPTIMIZERS.items() for name in names]
)
def test_an_optimizer_trains_as_on_one_process(runs: Path, algorithm: str, name: str) -> None:
    alone = losses(runs / f"run/{algorithm}_one")
    assert len(set(alone)) == STEPS
    tolerance = 2e-3 if algorithm == "Muon" else 2e-5  # Muon's iteration is in bfloat16
    assert losses(runs / f"run/{algorithm}_{name}") == pytest.approx(alone, rel=tolerance)
