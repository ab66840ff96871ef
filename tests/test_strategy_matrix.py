"""The cells of docs/strategies.md that two processes on a CPU can run: four kinds of training under every strategy.

Each start of processes runs many cells, one after another.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from processes import STRATEGIES, losses, run_on
from test_strategies import STEPS, TWO, fit, require_equal_weights, save_model, write_recipe

from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer

pytestmark = pytest.mark.distributed

SHARDED = "--trainer.strategy.class_path=ShardedStrategy"
FOUR = ["--trainer.devices=4", SHARDED]
TUNED = ["ddp", "fsdp2", "tensor", "zero1", "zero2", "zero3"]
SCORED = ["ddp", "fsdp2", "zero1", "zero2", "zero3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def recipes(folder: Path, toybench: Path) -> dict[str, Path]:
    vocabulary = len(load_tokenizer(str(toybench / "tokenizer")))
    found = {}
    for kind, data in {"opt": {}, "t5": {"target_length": 48}, "llama": {}, "gpt_neox": {}}.items():
        arguments = {"pretrained": str(save_model(kind, folder, vocabulary)), "learning_rate": 0.3}
        model = {"class_path": "plain_descent.PlainTuning", "init_args": arguments}
        found[kind] = write_recipe(folder / f"{kind}.yaml", toybench, model, data)
    return found


@pytest.fixture(scope="module")
def scorer(folder: Path, toybench: Path) -> Path:
    """From random weights, which must be the same under every strategy."""
    config = {
        "model_type": "roberta",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 160,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    model = {"class_path": "plain_descent.PlainScorer", "init_args": {"config": config, "learning_rate": 0.1}}
    path = write_recipe(folder / "scorer.yaml", toybench, model, {"pair_length": 128})
    text = path.read_text().replace("InstructionTuningDataModule", "ScorerDataModule")
    path.write_text(text.replace("    max_new_tokens: 6\n", ""))
    return path


@pytest.fixture(scope="module")
def bilevel(folder: Path, toybench: Path) -> Path:
    arguments = {"pretrained": str(folder / "opt"), "warmup_steps": 0}
    model = {"class_path": "InstructionOptimizationModule", "init_args": arguments}
    data = {"inner_steps": 2, "inner_rows": 4, "outer_rows": 4, "instruction_length": 4}
    data["split"] = {"class_path": "CategorySplit", "init_args": {"outer": 3}}  # type: ignore[assignment]
    path = write_recipe(folder / "bilevel.yaml", toybench, model, data)
    text = path.read_text().replace("InstructionTuningDataModule", "InstructionOptimizationDataModule")
    for line in ("    rows_per_step: 8\n", f"    cache: {folder / 'store'}\n", "  gradient_clip_val: 1.75\n"):
        assert line in text
        text = text.replace(line, "")
    path.write_text(text)
    return path


def test_seq2seq_tuning_under_every_strategy(recipes: dict[str, Path], folder: Path) -> None:
    one_against_two(recipes["t5"], folder, "t5", TUNED, 5e-6)


def test_causal_tuning_under_the_other_strategies_and_architectures(recipes: dict[str, Path], folder: Path) -> None:
    one_against_two(recipes["opt"], folder, "opt", ["zero1", "zero2"], 5e-6)
    one_against_two(recipes["llama"], folder, "llama", ["fsdp2", "tensor"], 5e-6)
    one_against_two(recipes["gpt_neox"], folder, "gpt_neox", ["fsdp2", "tensor"], 5e-6)


def test_the_scorer_under_every_strategy(scorer: Path, folder: Path) -> None:
    refused = [{"words": fit(scorer, "no", *TWO, *STRATEGIES["tensor"]), "refused": "has no tensor-parallel plan"}]
    one_against_two(scorer, folder, "scorer", SCORED, 5e-6, refused)


def test_instruction_optimization_where_it_is_exact_and_refused_elsewhere(
    recipes: dict[str, Path], bilevel: Path, folder: Path
) -> None:
    main(fit(bilevel, "bilevel_one"))
    exact = ["ddp", "fsdp2"]
    reasons = {"tensor": "tensor_parallel_size", **{f"zero{stage}": "got CPUDeepSpeedStrategy" for stage in (1, 2, 3)}}
    commands: list[dict[str, Any]] = [
        {"words": fit(bilevel, f"bilevel_{name}", *TWO, *STRATEGIES[name])} for name in exact
    ]
    commands += [
        {"words": fit(bilevel, "no", *TWO, *STRATEGIES[name]), "refused": reason} for name, reason in reasons.items()
    ]
    run_on(2, commands, folder)
    for loss in ("train/inner_loss", "train/outer_loss"):
        alone = losses(folder / "run/bilevel_one", loss)
        assert alone
        for name in exact:
            assert losses(folder / f"run/bilevel_{name}", loss) == pytest.approx(alone, rel=1e-4), (name, loss)


def test_four_processes_shard_replicate_and_cut(recipes: dict[str, Path], folder: Path) -> None:
    """FSDP2 over two pairs that share matrices; and two copies of two shards, kept in the host's memory."""
    cells = {
        "cut": ["--trainer.strategy.init_args.tensor_parallel_size=2"],
        "copies": ["--trainer.strategy.init_args.copies=2"],
    }
    main(fit(recipes["opt"], "four_one"))
    run_on(
        4,
        [{"words": fit(recipes["opt"], f"four_{name}", *FOUR, *words)} for name, words in cells.items()],
        folder,
    )
    for name in cells:
        assert losses(folder / f"run/four_{name}") == pytest.approx(losses(folder / "run/four_one"), rel=5e-6)
    require_equal_weights(folder, "four_one", [f"four_{name}" for name in cells], 5e-6)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_answers_are_those_of_one_process(kind: str, recipes: dict[str, Path], folder: Path) -> None:
    """Options ranked, and prompts that end at different times on different processes; every forward needs all."""
    words = ["--data.init_args.test_examples=2", "--data.init_args.evaluation_tokens=512"]
    words += ["--data.init_args.ranking.labels=8"]

    def test(name: str, *more: str) -> list[str]:
        named = f"--trainer.logger.init_args.version={name}"
        writes = ["--trainer.callbacks+=PredictionWriter", "--trainer.callbacks+=GeneralizationReport"]
        return ["test", f"--config={recipes[kind]}", named, *writes, *words, *more]

    def lines(name: str) -> list[dict[str, Any]]:
        text = (folder / f"run/{kind}_test_{name}/predictions/test.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def report(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / f"run/{kind}_test_{name}/report/test/report.json").read_text())
        return found

    main(test(f"{kind}_test_one"))
    cells = ["ddp", "fsdp2", "tensor"]
    run_on(2, [{"words": test(f"{kind}_test_{name}", *TWO, *STRATEGIES[name])} for name in cells], folder)
    if kind == "opt":  # matrices cut over pairs of processes, and sharded over both pairs
        cells.append("both")
        cut = "--trainer.strategy.init_args.tensor_parallel_size=2"
        run_on(4, [{"words": test("opt_test_both", *FOUR, cut)}], folder)
    expected = lines("one")
    assert {"options" in line for line in expected} == {True, False}
    for name in cells:
        got = lines(name)
        assert [line["prediction"] for line in got] == [line["prediction"] for line in expected]
        assert report(name) == report("one")
        for ours, theirs in zip(got, expected, strict=True):
            for option, scores in theirs.get("options", {}).items():
                # Matrices cut over processes are multiplied and summed in another order.
                exact = scores["sum"] if name == "ddp" else pytest.approx(scores["sum"], rel=1e-5)
                assert ours["options"][option]["sum"] == exact, (name, ours["task"], option)


def one_against_two(
    recipe: Path,
    folder: Path,
    kind: str,
    names: list[str],
    tolerance: float,
    more: list[dict[str, Any]] | None = None,
) -> None:
    """Fit on one process, and on two with two accumulated batches under each strategy: the same losses and weights."""
    main(fit(recipe, f"{kind}_one"))
    accumulate = "--trainer.accumulate_grad_batches=2"
    commands = [{"words": fit(recipe, f"{kind}_{name}", *TWO, *STRATEGIES[name], accumulate)} for name in names]
    run_on(2, commands + (more or []), folder)
    alone = losses(folder / f"run/{kind}_one")
    assert len(alone) == STEPS
    for name in names:
        assert losses(folder / f"run/{kind}_{name}") == pytest.approx(alone, rel=tolerance), name
    require_equal_weights(folder, f"{kind}_one", [f"{kind}_{name}" for name in names], tolerance)
