"""One module under every strategy: the losses and weights of one process, on real processes.

Two processes are started once, for four strategies; test_strategy_matrix.py has the other cells of docs/strategies.md.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.strategies import FSDPStrategy
from processes import STRATEGIES, file_weights, losses, run_on
from recipes import SMALL, save_model
from strategy_runs import STEPS, TWO, fit, require_equal_weights, write_recipe
from transformers import AutoConfig, AutoModelForCausalLM
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.commands.export import export_checkpoint
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.instructions.fit_checks import reject_strategy
from crosstask.lightning_modules.sharding.checkpoint_replacement import partial_path, whole_path
from crosstask.lightning_modules.sharding.checkpoints import require_whole_checkpoint
from crosstask.lightning_modules.sharding.tensor_parallel import require_tensor_parallel, tensor_parallel_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strategies")


@pytest.fixture(scope="module")
def recipe(folder: Path, toybench: Path) -> Path:
    """OPT by plain descent: its steps are as long as its gradients, below and above the clipping norm."""
    model = save_model("opt", folder, len(load_tokenizer(str(toybench / "tokenizer"))))
    arguments = {"pretrained": str(model), "optimizer": {"learning_rate": 0.3}}
    return write_recipe(
        folder / "opt.yaml", toybench, {"class_path": "plain_descent.PlainTuning", "init_args": arguments}, {}
    )


@pytest.fixture(scope="module")
def adam(folder: Path, toybench: Path, recipe: Path) -> Path:
    """The same model by Adam, whose state a resumed run needs."""
    optimizer = {"learning_rate": 0.01, "warmup": 2, "weight_decay": 0.1}
    arguments = {"pretrained": str(folder / "opt"), "optimizer": optimizer}
    return write_recipe(
        folder / "adam.yaml", toybench, {"class_path": "InstructionTuningModule", "init_args": arguments}, {}
    )


@pytest.fixture(scope="module")
def runs(recipe: Path, adam: Path, folder: Path, program: WarmProgram) -> Path:
    """One process, then two under each of four strategies, in one start."""
    main(fit(recipe, "one"))
    main(fit(adam, "adam_one"))
    accumulate = "--trainer.accumulate_grad_batches=2"
    commands: list[dict[str, Any]] = [
        {"words": fit(recipe, name, *TWO, *STRATEGIES[name], accumulate)} for name in PLAIN
    ]
    commands += [
        {"words": fit(recipe, name, *TWO, *STRATEGIES["fsdp2"], accumulate, *words, *counted(folder, name))}
        for name, words in REDUCED.items()
    ]
    commands += [
        {"words": fit(adam, f"adam_{name}", *TWO, *STRATEGIES[name], f"--ckpt_path={folder / source / HALFWAY}")}
        for name, source in RESUMED.items()
    ]
    main(fit(adam, "slower_one", f"--ckpt_path={folder / 'adam_one' / HALFWAY}", *SLOWER))
    commands += [
        {
            "words": fit(
                adam, f"slower_{name}", *TWO, *STRATEGIES[name], f"--ckpt_path={folder / source / HALFWAY}", *SLOWER
            )
        }
        for name, source in RESUMED.items()
    ]
    wholes = [{"words": fit(adam, f"adam_whole_{name}", *TWO, *STRATEGIES[name])} for name in ("zero3", "fsdp")]
    wholes.append({"words": fit(adam, "adam_whole_fsdp_shards", *TWO, *STRATEGIES["fsdp"], IN_SHARDS)})
    commands[len(PLAIN) : len(PLAIN)] = wholes
    run_on(program, 2, commands + refusals(recipe, adam, folder), folder)
    return folder


REDUCED = {
    "each_batch": [],
    "reduced_once": ["--trainer.strategy.init_args.reduce_once=true"],
    "copied": ["--trainer.strategy.init_args.copies=2"],
}
"""FSDP2 over two accumulated batches: two shards, which reduce gradients for each or once a step; and two copies."""


def counted(folder: Path, name: str) -> list[str]:
    """Words that write a run's collectives."""
    return [
        "--trainer.callbacks+=counted_collectives.CountedCollectives",
        f"--trainer.callbacks.init_args.file={folder / name}.json",
    ]


HALFWAY = f"step={STEPS // 2}.ckpt"
RESUMED = {"fsdp2": "adam_one", "tensor": "adam_one", "zero3": "adam_whole_zero3", "fsdp": "adam_whole_fsdp"}
"""Where each strategy goes on from: the file of one process, or DeepSpeed and FSDP from their own."""

IN_SHARDS = "--trainer.strategy.init_args.state_dict_type=sharded"

SLOWER = ["--model.init_args.optimizer.learning_rate=0.002", "--model.init_args.optimizer.weight_decay=0.0"]
"""Settings with which a run resumes that has begun with others."""

SEED = "--data.init_args.seed=9"

OTHERS = {
    "longer": ({"max_position_embeddings": 300}, ".embed_positions.weight is [258, 32] there and [302, 32] here"),
    "plain": ({"layer_norm_elementwise_affine": False}, "weights stored alone (model.model.decoder.final_layer_norm"),
}
"""Models of the same sizes with other weights, and what is said of a checkpoint of the first model."""

PLAIN = ["ddp", "fsdp2", "tensor", "sequence", "zero3", "fsdp"]


def other_model(adam: Path, folder: Path, name: str) -> list[str]:
    """Words of a fit that starts from a model with other weights."""
    if not (folder / name).exists():
        config = AutoConfig.from_pretrained(folder / "opt", **OTHERS[name][0])
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
    return fit(adam, "no", f"--model.init_args.pretrained={folder / name}")


def refusals(recipe: Path, adam: Path, folder: Path) -> list[dict[str, Any]]:
    """What two processes must reject at the start, each with its reason."""
    tensor = ["--trainer.strategy.class_path=ShardedStrategy"]
    size = "--trainer.strategy.init_args.tensor_parallel_size"
    return [
        {
            "words": fit(recipe, "no", *TWO, "--trainer.strategy=fsdp"),
            "skipped": "the trainer cannot be built from its settings: The strategy `fsdp` requires a GPU accelerator",
        },
        {
            "words": fit(recipe, "no", *TWO, "--trainer.strategy=deepspeed"),
            "skipped": "DeepSpeed is only supported on CUDA devices",
        },
        {"words": fit(recipe, "no", *TWO, *tensor, f"{size}=3"), "skipped": "cannot be divided into"},
        {
            "words": fit(recipe, "no", *TWO, *STRATEGIES["sequence"], "--data.init_args.rows.length=127"),
            "skipped": "sequence_parallel cannot divide rows of 127 columns over 2 processes",
        },
        {
            "words": fit(recipe, "no", *TWO, *STRATEGIES["ddp"], "--data.init_args.rows.per_step=3"),
            "skipped": "choose a multiple of 2",
        },
        {
            "words": fit(recipe, "no", *TWO, *STRATEGIES["ddp"], "--model.init_args.seed=$RANK"),
            "skipped": "model.seed is 0 on rank 0 and 1 on rank 1",
        },
        {
            "words": fit(recipe, "no", *TWO, *STRATEGIES["fsdp2"], f"--ckpt_path={folder / 'zero3' / HALFWAY}"),
            "skipped": "crosstask export",
        },
        *(
            {
                "words": fit(adam, "no", *TWO, *STRATEGIES[name], f"--ckpt_path={folder / source}", SEED),
                "skipped": "the training stream is not that of the checkpoint: seed was 0 and is 9",
            }
            for name, source in (
                ("fsdp2", f"adam_one/{HALFWAY}"),
                ("ddp", f"adam_fsdp2/step={STEPS}.ckpt"),
                ("zero3", f"adam_whole_zero3/{HALFWAY}"),
            )
        ),
        *(
            {
                "words": [*other_model(adam, folder, other), *TWO, *STRATEGIES[name], f"--ckpt_path={folder / source}"],
                "skipped": OTHERS[other][1],
            }
            for name, source, other in (
                ("fsdp2", f"adam_one/{HALFWAY}", "longer"),
                ("fsdp2", f"adam_fsdp2/step={STEPS}.ckpt", "plain"),
                ("tensor", f"adam_fsdp2/step={STEPS}.ckpt", "longer"),
                ("zero3", f"adam_whole_zero3/{HALFWAY}", "longer"),
                ("zero3", f"adam_whole_zero3/{HALFWAY}", "plain"),
                ("fsdp", f"adam_whole_fsdp/{HALFWAY}", "longer"),
                ("fsdp", f"adam_whole_fsdp/{HALFWAY}", "plain"),
                ("fsdp", f"adam_whole_fsdp_shards/{HALFWAY}", "longer"),
            )
        ),
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("name", PLAIN)
def test_losses_are_those_of_one_process(runs: Path, name: str) -> None:
    alone = losses(runs / "run/one")
    assert len(alone) == STEPS
    assert losses(runs / f"run/{name}") == pytest.approx(alone, rel=2e-6)


@pytest.mark.distributed
def test_accumulated_batches_reduce_no_more_gradients_than_they_must(runs: Path) -> None:
    """Two blocks and the rest of the model are reduced one by one: 3 times a step, or 3 times for each of 2 batches."""
    alone = losses(runs / "run/one")
    counts = {}
    for name in REDUCED:
        assert losses(runs / f"run/{name}") == pytest.approx(alone, rel=2e-6)
        counts[name] = json.loads((runs / f"{name}.json").read_text())
    reduced = {name: count.get("_reduce_scatter_base_", 0) for name, count in counts.items()}
    assert reduced == {"each_batch": 3 * 2 * STEPS, "reduced_once": 3 * STEPS, "copied": 0}
    # The step's loss is summed by an all-reduce, too.
    assert counts["copied"]["allreduce_"] - counts["each_batch"]["allreduce_"] == 3 * STEPS
    require_equal_weights(runs, "one", list(REDUCED), 2e-6)


@pytest.mark.distributed
def test_weights_are_those_of_one_process(runs: Path) -> None:
    """In float32, whose sums depend on their order."""
    require_equal_weights(runs, "one", PLAIN, 2e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_resumes_under_another_strategy(runs: Path, name: str) -> None:
    undisturbed = losses(runs / "run/adam_one")
    assert losses(runs / f"run/adam_{name}") == pytest.approx(undisturbed[STEPS // 2 :], rel=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("name", RESUMED)
def test_every_strategy_resumes_with_the_settings_of_the_new_run(runs: Path, name: str) -> None:
    """The loss of the last step depends on the learning rate of the one before."""
    slower, undisturbed = losses(runs / "run/slower_one"), losses(runs / "run/adam_one")[STEPS // 2 :]
    assert slower[0] == pytest.approx(undisturbed[0], rel=1e-6)
    assert abs(slower[1] - undisturbed[1]) > 1e-3
    assert losses(runs / f"run/slower_{name}") == pytest.approx(slower, rel=1e-5)


@pytest.mark.distributed
def test_one_process_resumes_from_shards(runs: Path, adam: Path) -> None:
    """A folder that two processes under FSDP2 have written, itself resumed from a file."""
    for name, source in (("adam_from_shards", "adam_fsdp2"), ("adam_from_file", "adam_one")):
        checkpoint = runs / source / f"step={STEPS}.ckpt"
        main(fit(adam, name, f"--ckpt_path={checkpoint}", f"--trainer.max_steps={STEPS + 2}"))
    from_file = losses(runs / "run/adam_from_file")
    assert len(from_file) == 2
    assert losses(runs / "run/adam_from_shards") == pytest.approx(from_file, rel=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize(
    "name", ["adam_one", "adam_fsdp2", "adam_tensor", "adam_zero3", "adam_fsdp", "adam_whole_fsdp_shards"]
)
def test_every_checkpoint_becomes_a_hugging_face_folder(
    runs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "crosstask.lightning_modules.sharding.checkpoint_weights.READ_BYTES", 10_000
    )  # shards in several parts
    export_checkpoint([str(runs / name / f"step={STEPS}.ckpt"), str(tmp_path / "hf")])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    expected = file_weights(runs / "adam_one" / f"step={STEPS}.ckpt")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[f"model.{key}"], rtol=1e-3, atol=1e-4)  # Adam enlarges rounding
    assert len(load_tokenizer(str(tmp_path / "hf"))) == model.config.vocab_size


@pytest.mark.distributed
def test_what_is_no_checkpoint_of_this_model_is_rejected(runs: Path, adam: Path, tmp_path: Path) -> None:
    whole = runs / "adam_fsdp2" / f"step={STEPS}.ckpt"
    wider = AutoConfig.from_pretrained(runs / "opt", hidden_size=64, word_embed_proj_dim=64)
    AutoModelForCausalLM.from_config(wider).save_pretrained(tmp_path / "wider")
    with pytest.raises(ValueError, match="checkpoint of another model: hidden_size is 32 there and 64 here"):
        main(fit(adam, "no", f"--ckpt_path={whole}", f"--model.init_args.pretrained={tmp_path / 'wider'}"))

    with pytest.raises(ValueError, match=r"adam\.yaml is no checkpoint: it is not a file that torch\.save wrote"):
        export_checkpoint([str(adam), str(tmp_path / "hf")])

    half = shutil.copytree(whole, tmp_path / "half.ckpt")
    next(half.glob("*1_0.distcp")).unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of its 2 shards, e\.g\. __1_0"):
        main(fit(adam, "no", f"--ckpt_path={half}"))
    (half / "meta.pt").unlink()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        main(fit(adam, "no", f"--ckpt_path={half}"))
    half.rename(partial_path(half))
    with pytest.raises(ValueError, match=r"half-written-half\.ckpt beside it was never finished"):
        main(fit(adam, "no", f"--ckpt_path={half}"))


@pytest.mark.distributed
def test_last_is_the_newest_whole_checkpoint_or_rejected(runs: Path, adam: Path) -> None:
    """As a job that is started again resumes: its process may have ended while one folder replaced another."""
    last = runs / "adam_cut_short" / "last.ckpt"
    shutil.copytree(runs / "adam_fsdp2" / f"step={STEPS}.ckpt", whole_path(last))
    words = ["--ckpt_path=last", f"--trainer.max_steps={STEPS + 1}"]
    main(fit(adam, "adam_cut_short", *words, "--trainer.callbacks.init_args.save_last=true"))
    assert len(losses(runs / "run/adam_cut_short")) == 1
    assert last.is_file()
    assert not whole_path(last).exists()

    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        main(fit(adam, "adam_cut_short", *words))
    with pytest.raises(ValueError, match="--ckpt_path best has a meaning only within the run"):
        main(fit(adam, "adam_cut_short", "--ckpt_path=best"))


@pytest.mark.distributed
def test_an_unfinished_folder_of_deepspeed_is_rejected(runs: Path, tmp_path: Path) -> None:
    half = shutil.copytree(runs / "zero3" / HALFWAY, tmp_path / "half.ckpt")
    require_whole_checkpoint(half)
    next((half / "checkpoint").glob("*rank_1*optim_states.pt")).unlink()
    with pytest.raises(ValueError, match="2 processes wrote it, and 1 files are there"):
        require_whole_checkpoint(half)
    (half / "latest").unlink()
    with pytest.raises(ValueError, match=r"was never finished: it lacks .* the file `latest`"):
        require_whole_checkpoint(half)


def test_hypergradients_do_not_pass_through_lightnings_fsdp() -> None:
    with pytest.raises(ValueError, match=r"with DDP or with FSDP2 .* got FSDPStrategy"):
        reject_strategy(FSDPStrategy(), curvature="finite_difference", reads_with_model=False)


def test_heads_and_widths_that_cannot_be_cut_are_rejected() -> None:
    config = AutoConfig.for_model("llama", **SMALL["llama"])
    require_tensor_parallel(config, 2)
    for size, reason in ((3, "the 4 attention heads"), (4, "the 2 key-value heads")):
        with pytest.raises(ValueError, match=f"tensor_parallel_size = {size} does not divide {reason} of llama"):
            require_tensor_parallel(config, size)
    config.intermediate_size = 65
    with pytest.raises(ValueError, match="does not divide the 65 columns"):
        require_tensor_parallel(config, 2)


@pytest.mark.parametrize("normalized", [True, False])
def test_norms_of_divided_heads_are_rejected(normalized: bool) -> None:
    """Each process would have the gradient of its own heads, and the copies of the norm would differ."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model("phi", vocab_size=50, qk_layernorm=normalized, **sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if normalized:
        with pytest.raises(ValueError, match=r"q_layernorm normalizes queries or keys, whose heads are divided"):
            tensor_parallel_plan(model)
    else:
        assert tensor_parallel_plan(model)["model.layers.0.self_attn.q_proj"] == "colwise"


def test_an_fp16_overflow_skips_the_step_and_its_schedule_alike(adam: Path, folder: Path) -> None:
    """The loss scale starts far too high: gradients overflow until it has been halved often enough."""
    scaler = {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu", "init_scale": 2.0**26}}
    plugin = {
        "class_path": "lightning.pytorch.plugins.MixedPrecision",
        "init_args": {"precision": "16-mixed", "device": "cpu", "scaler": scaler},
    }
    overlay = folder / "fp16.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": {"plugins": [plugin], "max_steps": 20}}))
    main(fit(adam, "fp16", f"--config={overlay}"))
    checkpoint = torch.load(folder / "fp16/step=20.ckpt", weights_only=False)
    skipped = checkpoint["crosstask"]["skipped_steps"]
    assert 0 < skipped < 20
    assert checkpoint["lr_schedulers"][0]["last_epoch"] == 20 - skipped
    assert int(checkpoint["optimizer_states"][0]["state"][0]["step"]) == 20 - skipped
    assert checkpoint["MixedPrecision"]["scale"] == 2.0 ** (26 - skipped)
