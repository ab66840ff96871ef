"""The cells of docs/strategies.md that two processes on a CPU can run: four kinds of training under every strategy.

Each start of processes runs many cells, one after another.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import STRATEGIES, file_weights, losses, run_on
from recipes import save_model, store_of
from safetensors.torch import load_file, save_file
from strategy_runs import STEPS, TWO, fit, require_equal_weights, write_recipe
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer

pytestmark = pytest.mark.distributed

SHARDED = "--trainer.strategy.class_path=ShardedStrategy"
FOUR = ["--trainer.devices=4", SHARDED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def recipes(folder: Path, toybench: Path) -> dict[str, Path]:
    vocabulary = len(load_tokenizer(str(toybench / "tokenizer")))
    found = {}
    for kind, data in {"opt": {}, "t5": {"rows": {"target_length": 48}}, "llama": {}, "gpt_neox": {}}.items():
        arguments = {"pretrained": str(save_model(kind, folder, vocabulary)), "optimizer": {"learning_rate": 0.3}}
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
    model = {
        "class_path": "plain_descent.PlainScorer",
        "init_args": {"config": config, "optimizer": {"learning_rate": 0.1}},
    }
    path = write_recipe(folder / "scorer.yaml", toybench, model, {"rows": {"pair_length": 128}})
    text = path.read_text().replace("InstructionTuningDataModule", "ScorerDataModule")
    path.write_text(text.replace("    evaluation:\n      max_new_tokens: 6\n", ""))
    return path


@pytest.fixture(scope="module")
def bilevel(folder: Path, toybench: Path) -> Path:
    arguments = {"pretrained": str(folder / "opt"), "optimizer": {"warmup": 0}}
    model = {"class_path": "InstructionOptimizationModule", "init_args": arguments}
    data = {"levels": {"inner_steps": 2, "inner_rows": 4, "outer_rows": 4}, "instructions": {"length": 4}}
    data["split"] = {"class_path": "CategorySplit", "init_args": {"outer": 3}}  # type: ignore[assignment]
    path = write_recipe(folder / "bilevel.yaml", toybench, model, data)
    text = path.read_text().replace("InstructionTuningDataModule", "InstructionOptimizationDataModule")
    for line in ("      per_step: 8\n", f"    cache: {store_of(toybench)}\n", "  gradient_clip_val: 1.75\n"):
        assert line in text
        text = text.replace(line, "")
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def adam(recipes: dict[str, Path], folder: Path, toybench: Path) -> Path:
    """By Adam, whose state a resumed run needs."""
    optimizer = {"learning_rate": 0.01, "warmup": 2, "weight_decay": 0.1}
    arguments = {"pretrained": str(folder / "opt"), "optimizer": optimizer}
    model = {"class_path": "InstructionTuningModule", "init_args": arguments}
    return write_recipe(folder / "adam.yaml", toybench, model, {})


@pytest.fixture(scope="module")
def runs(recipes: dict[str, Path], scorer: Path, bilevel: Path, adam: Path, folder: Path, program: WarmProgram) -> Path:
    """Every cell once on one process, and on two with two accumulated batches, all in one start."""
    commands: list[dict[str, Any]] = []
    accumulate = [*TWO, "--trainer.accumulate_grad_batches=2"]
    for kind, names in CELLS.items():
        recipe = scorer if kind == "scorer" else recipes[kind]
        main(fit(recipe, f"{kind}_one"))
        for name in names:
            words = [*accumulate, *STRATEGIES[name.removesuffix("_offload")]]
            words += ["--trainer.strategy.init_args.offload=true"] if name.endswith("_offload") else []
            words += exporting(folder, f"{kind}_{name}") if (kind, name) in EXPORTED else []
            commands.append({"words": fit(recipe, f"{kind}_{name}", *words)})
    main(fit(bilevel, "bilevel_one"))
    main(fit(bilevel, "penalty_one", PENALTY))
    for name in EXACT:
        commands.append({"words": fit(bilevel, f"bilevel_{name}", *TWO, *STRATEGIES[name])})
        commands.append({"words": fit(bilevel, f"penalty_{name}", PENALTY, *TWO, *STRATEGIES[name])})
    for name, reason in REASONS.items():
        commands.append({"words": fit(bilevel, "no", *TWO, *STRATEGIES[name]), "skipped": reason})
    no_plan = {"words": fit(scorer, "no", *TWO, *STRATEGIES["tensor"]), "skipped": "has no tensor-parallel plan"}
    lacking = incomplete_model(folder / "opt", folder / "lacking")
    for name in ("fsdp2", "zero3"):
        words = fit(recipes["opt"], "no", *TWO, *STRATEGIES[name], f"--model.init_args.pretrained={lacking}")
        commands.append({"words": words, "skipped": MISSING})
    main(answer(recipes, folder, "one", ANSWERED["one"]))
    answers: list[dict[str, Any]] = [
        {"words": answer(recipes, folder, name, source, *TWO, *STRATEGIES[name])}
        for name, source in ANSWERED.items()
        if name != "one"
    ]
    for name, checkpoint in {"zero3": "zero3", "zero2": "one", "ddp": "zero2"}.items():
        words = answer(recipes, folder, "no", CHECKPOINT.replace("{name}", checkpoint), *TWO, *STRATEGIES[name])
        answers.append({"words": words, "skipped": "set the model's `pretrained` to FOLDER"})
    for kind, names in RANKED.items():
        main(ranking(recipes[kind], kind, "one"))
        answers += [{"words": ranking(recipes[kind], kind, name, *TWO, *STRATEGIES[name])} for name in names]
    later = [*TWO, *STRATEGIES["ddp"], ASYNCHRONOUS]
    saved = {"words": fit(adam, "async_ddp", *later)}
    resumed = {"words": fit(adam, "async_resumed", *later, f"--ckpt_path={folder}/async_ddp/step={STEPS // 2}.ckpt")}
    run_on(program, 2, [*commands, no_plan, *answers, saved, resumed], folder)
    return folder


CELLS = {
    "t5": ["ddp", "fsdp", "fsdp2", "tensor", "sequence", "zero1", "zero2", "zero3"],
    "opt": ["ddp", "zero1", "zero2", "zero3", "fsdp2_offload", "zero2_offload", "zero3_offload"],
    "llama": ["fsdp2", "tensor", "sequence"],
    "gpt_neox": ["fsdp2", "tensor", "sequence"],
    "scorer": ["ddp", "fsdp", "fsdp2", "zero1", "zero2", "zero3"],
}
"""Strategies by what is trained; OPT's others are in test_strategies.py."""

EXPORTED = [("llama", "fsdp2"), ("llama", "tensor"), ("t5", "zero3"), ("opt", "zero2"), ("opt", "zero3")]
"""Where the callback HuggingFaceExport writes at the end, from each process's part."""

CHECKPOINT = "--ckpt_path={folder}/opt_{name}/step=4.ckpt"
ANSWERED = {
    **{name: CHECKPOINT.replace("{name}", "one") for name in ("one", "ddp", "fsdp2", "tensor", "sequence")},
    "zero2": CHECKPOINT.replace("{name}", "zero2"),
    "zero3": "--model.init_args.pretrained={folder}/exported/opt_zero3",
}
"""Under which strategies a trained OPT is tested, and where each takes it from."""

RANKED = {"opt": ["ddp", "fsdp2", "tensor", "sequence"], "t5": ["ddp", "fsdp2", "tensor", "sequence"]}
"""Where some prompts are answered and the options of others ranked, by models that are not trained."""

ASYNCHRONOUS = "--trainer.plugins=lightning.pytorch.plugins.io.AsyncCheckpointIO"

PENALTY = (
    "--model.init_args.outer={gradient: crosstask.lightning_modules.hypergradients.penalty, learning_rate: 0.01, "
    "options: {alpha: 10, rate: 0.1, steps: 2}}"
)
EXACT = ["ddp", "fsdp2"]
REASONS = {
    "tensor": "tensor_parallel_size",
    "fsdp": "got CPUFSDPStrategy",
    **{f"zero{stage}": "got CPUDeepSpeedStrategy" for stage in (1, 2, 3)},
}
"""Where instruction optimization trains as on one process, and what refuses it elsewhere."""


MISSING = "weights of OPTForCausalLM, e.g. model.decoder.layers.1.fc1.bias"
"""What rejects a folder without a layer's weights, where each process loads its part of a model."""


def incomplete_model(whole: Path, folder: Path) -> Path:
    """A copy of a model's folder that lacks the matrix and the bias of a layer."""
    shutil.copytree(whole, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1.fc1" not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def exporting(folder: Path, name: str) -> list[str]:
    return ["--trainer.callbacks+=HuggingFaceExport", f"--trainer.callbacks.folder={folder / 'exported' / name}"]


def answer(recipes: dict[str, Path], folder: Path, name: str, source: str, *words: str) -> list[str]:
    """Words of a test whose prompts end at different times on different processes."""
    return [
        *["test", f"--config={recipes['opt']}", f"--trainer.logger.init_args.version=test_{name}"],
        *["--trainer.callbacks+=PredictionWriter", source.format(folder=folder)],
        *["--data.init_args.instances.test=2", "--data.init_args.evaluation.batch_tokens=512"],
        *[f"--model.init_args.decoding.{setting}" for setting in ("sampling=true", "temperature=4")],  # all differ
        *words,
    ]


def ranking(recipe: Path, kind: str, name: str, *words: str) -> list[str]:
    """Words of a test that ranks options where there are labels, with a report."""
    return [
        *["test", f"--config={recipe}", f"--trainer.logger.init_args.version={kind}_ranked_{name}"],
        *["--trainer.callbacks+=PredictionWriter", "--trainer.callbacks+=GeneralizationReport"],
        *["--data.init_args.instances.test=2", "--data.init_args.evaluation.batch_tokens=512"],
        *["--data.init_args.evaluation.ranking.labels=8", *words],
    ]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CELLS.items() for name in names])
def test_losses_and_weights_are_those_of_one_process(runs: Path, kind: str, name: str) -> None:
    alone = losses(runs / f"run/{kind}_one")
    assert len(alone) == STEPS
    assert losses(runs / f"run/{kind}_{name}") == pytest.approx(alone, rel=5e-6)
    require_equal_weights(runs, f"{kind}_one", [f"{kind}_{name}"], 5e-6)


@pytest.mark.parametrize(("kind", "name"), EXPORTED)
def test_the_callback_exports_the_parts_of_all_processes(runs: Path, kind: str, name: str) -> None:
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    exported = auto.from_pretrained(runs / "exported" / f"{kind}_{name}").state_dict()
    expected = file_weights(runs / f"{kind}_one" / f"step={STEPS}.ckpt")
    for key, value in exported.items():
        torch.testing.assert_close(value, expected[f"model.{key}"], rtol=5e-6, atol=5e-6, msg=key)


@pytest.mark.parametrize("method", ["bilevel", "penalty"])
@pytest.mark.parametrize("metric", ["train/inner_loss", "train/outer_loss", "train/hypergradient_norm"])
def test_instruction_optimization_is_exact_where_it_is_not_rejected(runs: Path, method: str, metric: str) -> None:
    alone = losses(runs / f"run/{method}_one", metric)
    assert alone
    for name in EXACT:
        tolerance = 1e-2 if metric.endswith("norm") else 1e-4  # differences of gradients in float32
        assert losses(runs / f"run/{method}_{name}", metric) == pytest.approx(alone, rel=tolerance), name


@pytest.mark.parametrize("name", ANSWERED)
def test_answers_are_those_of_one_process(runs: Path, name: str) -> None:
    expected, got = (
        [json.loads(line)["prediction"] for line in (runs / f"run/test_{each}/predictions/test.jsonl").open()]
        for each in ("one", name)
    )
    assert len(set(expected)) > 1
    assert got == expected


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in RANKED.items() for name in names])
def test_ranked_options_are_those_of_one_process(runs: Path, kind: str, name: str) -> None:
    require_equal_ranking(runs, kind, name)


def require_equal_ranking(folder: Path, kind: str, name: str) -> None:
    """The same answers, scores of options and report."""
    (expected, report), (got, reported) = (
        (
            [json.loads(line) for line in (run / "predictions/test.jsonl").open()],
            json.loads((run / "report/test/report.json").read_text()),
        )
        for run in (folder / f"run/{kind}_ranked_one", folder / f"run/{kind}_ranked_{name}")
    )
    assert {"options" in line for line in expected} == {True, False}
    assert [line["prediction"] for line in got] == [line["prediction"] for line in expected]
    assert reported == report
    for ours, theirs in zip(got, expected, strict=True):
        for option, scores in theirs.get("options", {}).items():
            # Matrices cut over processes are multiplied and summed in another order.
            exact = scores["sum"] if name == "ddp" else pytest.approx(scores["sum"], rel=1e-5)
            assert ours["options"][option]["sum"] == exact, (ours["task"], option)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["opt", "t5", "scorer"])
@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2", "deepspeed_stage_3"])
def test_what_demands_cuda_trains_as_a_cpu_does(
    recipes: dict[str, Path], scorer: Path, folder: Path, kind: str, strategy: str, program: WarmProgram
) -> None:
    """Lightning's own FSDP and DeepSpeed, on as many devices as there are, up to two."""
    recipe, devices = scorer if kind == "scorer" else recipes[kind], min(torch.cuda.device_count(), 2)
    main(fit(recipe, f"cpu_{kind}_{strategy}"))
    words = ["--trainer.accelerator=gpu", f"--trainer.devices={devices}", f"--trainer.strategy={strategy}"]
    run_on(program, devices, [{"words": fit(recipe, f"cuda_{kind}_{strategy}", *words)}], folder, accelerator=None)
    alone = losses(folder / f"run/cpu_{kind}_{strategy}")
    assert losses(folder / f"run/cuda_{kind}_{strategy}") == pytest.approx(alone, rel=1e-3)


def test_a_file_may_be_written_during_training(runs: Path, adam: Path) -> None:
    """It holds what it would, had training waited; and two processes go on from it."""
    main(fit(adam, "waited"))
    main(fit(adam, "async_one", ASYNCHRONOUS))
    for step in (STEPS // 2, STEPS):
        waited, later = (
            torch.load(runs / name / f"step={step}.ckpt", weights_only=False) for name in ("waited", "async_one")
        )
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
            torch.testing.assert_close(later[part], waited[part], rtol=0, atol=0)
    alone = losses(runs / "run/waited")
    assert losses(runs / "run/async_ddp") == pytest.approx(alone, rel=1e-5)
    assert losses(runs / "run/async_resumed") == pytest.approx(alone[STEPS // 2 :], rel=1e-5)


def test_four_processes_shard_replicate_and_cut(
    runs: Path, recipes: dict[str, Path], folder: Path, program: WarmProgram
) -> None:
    """FSDP2 over two pairs that share matrices; and two copies of two shards. The first answers, too."""
    cells = {
        "cut": ["--trainer.strategy.init_args.tensor_parallel_size=2"],
        "copies": ["--trainer.strategy.init_args.copies=2"],
    }
    main(fit(recipes["opt"], "four_one"))
    commands = [{"words": fit(recipes["opt"], f"four_{name}", *FOUR, *words)} for name, words in cells.items()]
    commands.append({"words": ranking(recipes["opt"], "opt", "both", *FOUR, *cells["cut"])})
    run_on(program, 4, commands, folder)
    require_equal_ranking(folder, "opt", "both")
    for name in cells:
        assert losses(folder / f"run/four_{name}") == pytest.approx(losses(folder / "run/four_one"), rel=5e-6)
    require_equal_weights(folder, "four_one", [f"four_{name}" for name in cells], 5e-6)
