"""Plans before training: bytes by known answers, and by what real processes hold."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import STRATEGIES, run_on
from recipes import tuning_data
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.commands.shared.settings_reader import SettingsReader
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.adapters import LoRA, add_adapters
from crosstask.lightning_modules.models import build_model
from crosstask.lightning_modules.planning.communication import Exchange, Links, step_exchange
from crosstask.lightning_modules.planning.layouts import layout_of
from crosstask.lightning_modules.planning.memory import (
    Finish,
    Kind,
    Layout,
    Precision,
    StepShape,
    head_memory,
    step_memory,
    step_phases,
)
from crosstask.lightning_modules.planning.phases import most
from crosstask.lightning_modules.planning.planned_run import step_shape
from crosstask.lightning_modules.planning.resource_plan import ResourcePlan, make_plan, phases_of_depth

ROOT = Path(__file__).parents[3]
WIDTH, BLOCKS, VOCABULARY = 64, 3, 500
DEEPSPEED_BUCKET = 500_000_000  # its default reduce_bucket_size, which ZeRO-3 holds in one buffer
SHAPE = StepShape(rows=2, columns=32, targets=4)
LINKS = Links(node=300e9, network=25e9)
HALF = Layout("sharded", 2, precision="bf16-mixed", compute_dtype=torch.bfloat16)
PARAMETERS = (
    (VOCABULARY + 66 + 2) * WIDTH  # tokens (tied), 64 positions behind two that OPT skips, and the last norm
    + BLOCKS * (12 * WIDTH**2 + 13 * WIDTH)  # four projections and two layers of 4 * WIDTH with biases, two norms
)


def opt(blocks: int = BLOCKS, width: int = WIDTH) -> PreTrainedConfig:
    return AutoConfig.for_model(
        "opt",
        vocab_size=VOCABULARY,
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=4 * width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        max_position_embeddings=64,
    )


def build(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    return build_model(config, weights=None, vocabulary=0, attention="sdpa", dtype=dtype or torch.float32)


def recompute(model: PreTrainedModel) -> None:
    model.activation_checkpointing_enable()


memory = partial(step_memory, partial(build, opt()), lambda model: None)


def test_states_of_one_device_are_sixteen_bytes_a_parameter() -> None:
    found = memory(Layout(), SHAPE._replace(accumulated=True))
    assert (found.weights, found.gradients, found.optimizer) == (4 * PARAMETERS, 4 * PARAMETERS, 8 * PARAMETERS)
    assert memory(Layout("ddp", 2), SHAPE._replace(accumulated=True)).gathered == 4 * PARAMETERS


def test_adapters_alone_have_gradients_and_moments() -> None:
    """Two bytes for each frozen weight; 4 + 4 + 8 for each of an adapter's, r * (in + out) beside every fc1."""

    def adapted(dtype: torch.dtype | None) -> PreTrainedModel:
        model = build(opt(), torch.bfloat16)
        add_adapters(model, LoRA(r=2, target_modules=["fc1"]))
        return model

    trained = BLOCKS * 2 * (WIDTH + 4 * WIDTH)
    layout = Layout("single", precision="bf16-mixed")
    found = step_memory(adapted, lambda model: None, layout, SHAPE._replace(accumulated=True))
    assert found[:3] == (2 * PARAMETERS + 4 * trained, 4 * trained, 8 * trained)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_divides_what_its_stage_says(stage: int) -> None:
    """ZeRO, arXiv 1910.02054, figure 1: 2 + 2 + 12 bytes a parameter in mixed precision, over 64 devices."""
    found = memory(Layout(f"zero_{stage}", 64, precision="bf16-mixed"), SHAPE._replace(rows=64))  # type: ignore[arg-type]
    states = {1: (2, 2), 2: (2, 2 / 64), 3: (2 / 64, 2 / 64)}[stage]
    assert found.weights == pytest.approx(states[0] * PARAMETERS, abs=1)
    assert found.gradients == pytest.approx(states[1] * PARAMETERS, abs=1)
    assert found.optimizer == pytest.approx(12 / 64 * PARAMETERS, abs=1)


def test_states_of_zero_3_are_deepspeeds_own_estimate() -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    largest = 12 * WIDTH**2 + 13 * WIDTH
    _, expected, _ = estimate_zero3_model_states_mem_needs(PARAMETERS, largest, 2, 1, cpu_offload=False)
    found = memory(Layout("zero_3", 2, precision="16-mixed"), SHAPE._replace(rows=1, columns=1, targets=1))
    assert found.total == pytest.approx(expected, rel=0.02)


def test_sharding_divides_all_states_and_gathers_a_block() -> None:
    whole, part = (memory(Layout(kind, 4), SHAPE) for kind in ("single", "sharded"))
    assert part.weights == pytest.approx(PARAMETERS, rel=0.01)
    assert part.optimizer == 2 * part.weights
    assert part.gathered > 4 * VOCABULARY * WIDTH / 4
    assert part.total < whole.total
    hybrid = memory(Layout("sharded", 4, copies=2), SHAPE)
    assert hybrid.weights == pytest.approx(2 * part.weights, rel=0.01)


def test_tensor_parallelism_divides_blocks_activations() -> None:
    shape = SHAPE._replace(rows=16)
    shards, halves = (memory(Layout("sharded", 4, tensor_parallel=size), shape) for size in (1, 2))
    assert halves.weights == pytest.approx(shards.weights, rel=0.03)  # biases and norms are whole on both
    assert halves.activations < 0.8 * shards.activations


def test_activations_grow_with_rows_and_shrink_when_recomputed() -> None:
    few, many = (memory(Layout(), SHAPE._replace(rows=rows)).activations for rows in (8, 16))
    assert many == pytest.approx(2 * few, rel=0.05)
    assert step_memory(partial(build, opt()), recompute, Layout(), SHAPE._replace(rows=16)).activations < 0.6 * many


def test_half_precision_copies_of_weights_are_freed_with_their_block() -> None:
    """Autocast casts float32 weights, and Lightning's plugin caches no copy: recomputation frees them with each block.

    Between blocks only their inputs remain, 4 bytes a number; a copy of a block's weights would take six times as much.
    """

    def activations(blocks: int) -> int:
        layout = Layout("sharded", 2, precision="bf16-mixed")
        return step_memory(partial(build, opt(blocks)), recompute, layout, SHAPE).activations

    inputs, copies = 4 * SHAPE.rows * SHAPE.columns * WIDTH, 2 * 12 * WIDTH**2
    assert (activations(6) - activations(3)) / 3 == pytest.approx(inputs, abs=copies / 10)


def test_logits_take_a_copy_and_its_gradients() -> None:
    """float32 logits, their log softmax and its gradient: between two and four tables of N x V at a time."""
    found = head_memory(WIDTH, VOCABULARY, 1000, Layout(), chunked=False)
    assert 2 * 4 * 1000 * VOCABULARY <= found <= 4 * 4 * 1000 * VOCABULARY


def test_chunks_of_logits_take_the_same_memory_for_any_vocabulary() -> None:
    """2^24 logits in float32, their softmax and a part of the matrix."""
    for vocabulary in (20_000, 60_000):
        found = head_memory(WIDTH, vocabulary, 2048, Layout(), chunked=True)
        assert 4 * 2**24 <= found <= 4 * 4 * 2**24


def fsdp(sharding: str, **settings: Any) -> dict[str, Any]:
    path = "lightning.pytorch.strategies.FSDPStrategy"
    return {"class_path": path, "init_args": {"sharding_strategy": sharding, **settings}}


BASE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, Layout("single", 1)),
        ({"devices": 2}, Layout("ddp", 2)),
        ({"devices": 8, "num_nodes": 4, "strategy": "ddp"}, Layout("ddp", 32)),
        (
            {"devices": 2, "strategy": "deepspeed_stage_2_offload"},
            Layout("zero_2", 2, offload=True, reduce_bucket=200_000_000),
        ),
        ({"devices": 2, "strategy": "deepspeed"}, Layout("zero_2", 2, reduce_bucket=200_000_000)),
        (
            {"devices": 2, "strategy": "deepspeed_stage_3_offload"},
            Layout("zero_3", 2, offload=True, offload_weights=True, reduce_bucket=200_000_000),
        ),
        ({"devices": 2, "strategy": "fsdp", "precision": "bf16-mixed"}, HALF),
        ({"devices": 8, "num_nodes": 4, "strategy": fsdp("HYBRID_SHARD")}, Layout("sharded", 32, copies=4)),
        ({"devices": 8, "strategy": fsdp("HYBRID_SHARD", device_mesh=[4, 2])}, Layout("sharded", 8, copies=4)),
        ({"devices": 8, "strategy": fsdp("FULL_SHARD", cpu_offload=True)}, Layout("sharded", 8, offload=True)),
        ({"precision": 16}, Layout(precision="16-mixed")),
        ({"precision": "64"}, Layout(precision="64-true")),
    ],
)
def test_a_strategy_is_a_layout(trainer: dict[str, Any], expected: Layout) -> None:
    assert layout_of(BASE | trainer, devices=None, fused=False) == expected


@pytest.mark.parametrize(
    ("trainer", "devices", "message"),
    [
        ({"strategy": fsdp("SHARD_GRAD_OP")}, 8, "sharding_strategy SHARD_GRAD_OP: known are FULL_SHARD"),
        ({"devices": 8, "strategy": fsdp("HYBRID_SHARD")}, 12, "12 devices are not whole nodes of 8"),
        ({"precision": "transformer-engine"}, 1, "no plan can be made for the precision transformer-engine"),
        ({"strategy": fsdp("FULL_SHARD"), "precision": "64-true"}, 8, "FSDP knows no precision 64-true"),
        (
            {"strategy": {"class_path": "DeepSpeedStrategy", "init_args": {"config": "zero.json"}}},
            8,
            "no plan can be made of a DeepSpeed `config`",
        ),
        (
            {"strategy": {"class_path": "ShardedStrategy", "init_args": {"tensor_parallel_size": 3}}},
            64,
            "64 devices cannot be divided into tensor_parallel_size = 3",
        ),
        ({}, 0, "--devices must be at least 1, got 0"),
        ({}, -4, "--devices must be at least 1, got -4"),
    ],
)
def test_a_layout_that_cannot_be_planned_is_rejected(trainer: dict[str, Any], devices: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout_of(BASE | trainer, devices=devices, fused=False)


def test_what_lies_in_the_hosts_memory_is_not_on_the_device() -> None:
    """DeepSpeed's own estimates: 4 bytes for each parameter of the largest block, and 2 for each of its part."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    largest, shape = 12 * WIDTH**2 + 13 * WIDTH, SHAPE._replace(rows=1, columns=1, targets=1)
    for weights in (False, True):
        layout = Layout("zero_3", 2, precision="16-mixed", offload=True, offload_weights=weights)
        found = memory(layout, shape)
        _, expected, _ = estimate_zero3_model_states_mem_needs(PARAMETERS, largest, 2, 1, True, weights)
        assert found.total - found.activations == pytest.approx(expected, abs=2)
    second = memory(Layout("zero_2", 2, precision="16-mixed", offload=True), shape)
    assert second[:4] == (2 * PARAMETERS, 0, 0, 0)


@pytest.mark.parametrize(("precision", "size"), [("64-true", 8), ("32-true", 4), ("16-true", 2), ("bf16-true", 2)])
@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_weights_are_of_the_precisions_type(kind: Kind, precision: Precision, size: int) -> None:
    found = memory(Layout(kind, 1, precision=precision), SHAPE._replace(accumulated=True))
    assert found[:3] == (size * PARAMETERS, size * PARAMETERS, 2 * size * PARAMETERS)


def test_a_bucket_of_gradients_is_held_whatever_the_model() -> None:
    without, within = (memory(Layout("zero_3", 2, reduce_bucket=size), SHAPE).gathered for size in (0, 1000))
    assert within - without == 4 * 1000


def test_what_cannot_be_planned_is_said() -> None:
    trainer = {"devices": "auto", "num_nodes": 1, "strategy": "xla", "precision": None, "accelerator": "gpu"}
    with pytest.raises(ValueError, match="does not state a number: give it with --devices"):
        layout_of(trainer, devices=None, fused=False)
    with pytest.raises(ValueError, match="no plan can be made for the strategy xla"):
        layout_of(trainer, devices=8, fused=False)
    rows = {"per_step": 8, "length": 16}
    with pytest.raises(ValueError, match="3 replicas x 2 accumulated"):
        step_shape(rows, {"accumulate_grad_batches": 2}, Layout("ddp", 3), targets=0.1)
    with pytest.raises(ValueError, match="cannot be divided into tensor_parallel_size = 2"):
        memory(Layout("sharded", 3, tensor_parallel=2), SHAPE)


def recipe(folder: Path, toybench: Path, width: int) -> Path:
    """A fit of three steps on two processes."""
    model = {
        "model_type": "opt",
        "vocab_size": len(load_tokenizer(str(toybench / "tokenizer"))),
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    contents = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 2,
            "max_steps": 3,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "logger": False,
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": "held_bytes.HeldBytes", "init_args": {"file": ""}}],
        },
        "model": {"class_path": "InstructionTuningModule", "init_args": {"config": model, "optimizer": {"warmup": 1}}},
        "data": tuning_data(toybench, rows={"per_step": 2}),
    }
    path = folder / f"{width}.yaml"
    path.write_text(yaml.safe_dump(contents))
    return path


@pytest.mark.distributed
def test_two_processes_hold_what_was_planned(tmp_path: Path, toybench: Path, program: WarmProgram) -> None:
    """Weights and Adam's states, at two sizes and under every strategy, within a tenth."""
    sizes = (64, 192)
    recipes = {width: recipe(tmp_path, toybench, width) for width in sizes}
    runs = {f"{name}-{width}": (name, width) for width in sizes for name in STRATEGIES}
    commands = [
        {
            "words": [
                *["fit", f"--config={recipes[width]}", *STRATEGIES[name]],
                f"--trainer.callbacks.init_args.file={tmp_path / run}",
            ]
        }
        for run, (name, width) in runs.items()
    ]
    run_on(program, 2, commands, tmp_path)
    kinds = {
        "ddp": "ddp",
        "fsdp2": "sharded",
        "tensor": "sharded",
        "zero1": "zero_1",
        "zero2": "zero_2",
        "zero3": "zero_3",
    }
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for run, (name, width) in runs.items():
        contents = yaml.safe_load(recipes[width].read_text())["model"]["init_args"]["config"]
        config = AutoConfig.for_model(contents.pop("model_type"), **contents)
        layout = Layout(kinds[name], 2, tensor_parallel=2 if name == "tensor" else 1)  # type: ignore[arg-type]
        shape = StepShape(1, 128, 20, accumulated=True)
        planned = step_memory(partial(build, config), lambda _: None, layout, shape)
        # Lightning drops gradients when the next ones are due, DeepSpeed's first two stages when they have stepped.
        gradients = 0 if name in ("zero1", "zero2") else planned.gradients
        for rank in range(2):
            held = json.loads(Path(f"{tmp_path / run}.{rank}").read_text())["held"]
            held -= 4 * DEEPSPEED_BUCKET if name == "zero3" else 0
            found[run, rank] = (planned.weights + gradients + planned.optimizer, held)
    assert {run: pytest.approx(held, rel=0.1) for run, (_, held) in found.items()} == {
        run: expected for run, (expected, _) in found.items()
    }


def test_the_command_reads_a_fits_configuration(
    tmp_path: Path,
    toybench: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["--config", str(recipe(tmp_path, toybench, 64)), "--trainer.strategy", "fsdp", "--memory", "1"]
    monkeypatch.setattr(sys, "argv", ["crosstask", "plan", *words])
    main(["plan", *words])
    told = " ".join(str(each.message) for each in recwarn)
    assert "FSDP2-wrapped" not in told
    assert "args parameter" not in told
    printed = capsys.readouterr().out
    assert "One of 2 devices" in printed
    assert "fits with nothing recomputed" in printed
    assert "communicates for" in printed
    with pytest.raises(ValueError, match="bandwidths must be positive GB/s"):
        main(["plan", *words, "--network_bandwidth", "0"])
    with pytest.raises(ValueError, match=r"trainer.max_steps = -1: set the number of optimizer steps"):
        main(["plan", *words, "--trainer.max_steps", "-1"])


@pytest.mark.parametrize(
    ("layout", "accumulated", "finish"),
    [
        (Layout("sharded", 4, tensor_parallel=2), True, lambda model: None),
        pytest.param(Layout("sharded", 4), False, recompute, marks=pytest.mark.distributed),
        (Layout("single"), False, lambda model: None),
    ],
)
def test_a_deep_model_is_planned_from_shallow_ones(layout: Layout, accumulated: bool, finish: Finish) -> None:
    shape = SHAPE._replace(accumulated=accumulated)
    whole = step_memory(partial(build, opt(9)), finish, layout, shape)
    assert most(phases_of_depth(opt(9), build, finish, layout, shape)) == whole
    assert min(whole) >= 0


def test_another_moment_decides_in_a_deep_model_than_in_a_shallow_one() -> None:
    """In a shallow one the head; in a deep one the copy of all parameters that Adam's step takes."""
    shape, layout = StepShape(rows=4, columns=32, targets=32, accumulated=True), Layout(foreach=True)
    shallow, deep = (step_phases(partial(build, opt(blocks)), recompute, layout, shape) for blocks in (4, 12))
    assert [max(each, key=lambda phase: each[phase].total).part for each in (shallow, deep)] == ["forward", "step"]
    assert most(phases_of_depth(opt(12), build, recompute, layout, shape)) == most(deep)


def test_the_first_step_of_a_process_holds_what_the_next_one_does() -> None:
    """Shapes that no other test has: DTensor computes on whole ones, once, to learn the shapes of results."""
    first, second = (
        step_phases(partial(build, opt(4, width=88)), recompute, Layout("sharded", 4, tensor_parallel=2), SHAPE)
        for _ in range(2)
    )
    assert first == second


@pytest.mark.distributed
@pytest.mark.parametrize(("model", "nodes", "fits"), [("30b", 8, True), ("175b", 16, True), ("175b", 2, False)])
def test_opt_iml_fits_where_it_was_trained(model: str, nodes: int, fits: bool) -> None:
    """OPT-IML, Table 3: 30B on 64 and 175B on 128 A100-40GB; 16 are too few for 175B."""
    words = [f"--config=papers/opt_iml_{model}", f"--config=models/opt_{model}_random"]
    words += ["--trainer.devices=8", f"--trainer.num_nodes={nodes}"]
    plan = plan_of(words, gibibytes=40)
    assert plan.fits is fits
    assert min(size for memory in plan.memories.values() for size in memory) >= 0
    assert plan.memories[False].total > 40 * 2**30  # none fits with all activations kept
    assert (plan.least is not None) is fits


@pytest.mark.distributed
def test_adapters_fit_one_device_of_24_gib_and_all_weights_do_not() -> None:
    words = ["--config=papers/opt_iml_6.7b_lora", "--config=models/opt_6.7b_random"]
    assert plan_of(words, gibibytes=24).fits
    assert not plan_of([*words, "--model.init_args.lora=null"], gibibytes=24).fits


def plan_of(words: list[str], *, gibibytes: int) -> ResourcePlan:
    configuration = SettingsReader("crosstask plan", words).settings.as_dict()
    return make_plan(configuration, capacity=gibibytes * 2**30, rate=312e12 * 0.4, targets=0.15, links=LINKS)


def test_a_plan_recommends_what_recomputes_the_least(tmp_path: Path, toybench: Path) -> None:
    """Each choice keeps less than the one before; the first one that fits is recommended."""
    words = [f"--config={recipe(tmp_path, toybench, 64)}", "--trainer.devices=1", "--data.init_args.rows.per_step=64"]
    plan = plan_of(words, gibibytes=1)
    totals = [plan.memories[choice].total for choice in (False, "selective", 2, True)]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    for choice, total in plan.memories.items():
        assert replace(plan, capacity=round(total.total / 0.95) + 1).least == choice
    assert replace(plan, capacity=1000).least is None


def test_gradients_that_wait_for_the_last_batch_are_whole() -> None:
    shape = SHAPE._replace(accumulated=True)
    shards, waiting = (memory(Layout("sharded", 4, reduce_once=once), shape) for once in (False, True))
    assert waiting.gradients == pytest.approx(4 * PARAMETERS, rel=0.02)
    assert shards.gradients == pytest.approx(PARAMETERS, rel=0.02)
    assert waiting._replace(gradients=0) == shards._replace(gradients=0)


def exchange(layout: Layout, **changes: Any) -> Exchange:
    """Communication of OPT-175B's step of 8 batches of one row of 2,048 columns, in bfloat16 with float32 gradients."""
    fields = {"num_hidden_layers": 96, "hidden_size": 12288, "ffn_dim": 49152, "num_attention_heads": 96}
    sizes = {"weight_bytes": 2 * 175 * 10**9, "trained_bytes": 4 * 175 * 10**9, "batches": 8, "recomputed": 1.0}
    config = AutoConfig.for_model("opt", **fields)
    return step_exchange(config, layout, StepShape(1, 2048, 300), LINKS, **(sizes | changes))


def test_communication_is_what_rings_send() -> None:
    """16 replicas of 8: for each batch 2 gathers of 2 * 175e9 / 8 bytes and a reduction of twice that, 15/16 each."""
    layout = Layout("sharded", 128, tensor_parallel=8, compute_dtype=torch.bfloat16)
    each, once = exchange(layout), exchange(layout._replace(reduce_once=True))
    sent = 175e9 / 8 * 15 / 16
    assert each.weights == once.weights == pytest.approx(8 * 2 * 2 * sent / 25e9)
    assert each.gradients == pytest.approx(8 * once.gradients) == pytest.approx(8 * 4 * sent / 25e9)
    # Two sums a block, forward, recomputed and backward, each by an all-reduce within the node.
    assert each.activations == pytest.approx(8 * 96 * 2 * 3 * 2048 * 12288 * 2 * 2 * 7 / 8 / 300e9)
    assert exchange(layout, recomputed=0.0).activations == pytest.approx(each.activations * 2 / 3)

    copies = exchange(layout._replace(copies=16))
    assert copies.weights == 0
    assert copies.gradients == pytest.approx(2 * 4 * sent / 25e9)
    assert exchange(Layout("single")).total == 0
    assert exchange(Layout("ddp", 8)).gradients == pytest.approx(2 * 4 * 175e9 * 7 / 8 / 300e9)
    assert exchange(Layout("zero_3", 128)).weights == pytest.approx(8 * exchange(Layout("zero_2", 128)).weights * 2)
