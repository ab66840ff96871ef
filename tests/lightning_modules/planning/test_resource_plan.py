"""Plans before training: by what the command prints, and what real processes hold."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from planned_models import SHAPE, build, opt, recompute, step_memory
from processes import STRATEGIES, run_on
from recipes import tuning_data
from transformers import AutoConfig
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.commands.shared.settings_reader import SettingsReader
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.planning.communication import Links
from crosstask.lightning_modules.planning.memory import (
    Finish,
    Layout,
    StepShape,
    step_phases,
)
from crosstask.lightning_modules.planning.phases import most
from crosstask.lightning_modules.planning.planned_run import step_shape
from crosstask.lightning_modules.planning.resource_plan import ResourcePlan, make_plan, phases_of_depth

ROOT = Path(__file__).parents[3]
DEEPSPEED_BUCKET = 500_000_000  # its default reduce_bucket_size, which ZeRO-3 holds in one buffer
LINKS = Links(node=300e9, network=25e9)


def test_rows_are_divided_over_replicas_and_batches() -> None:
    rows = {"per_step": 8, "length": 16}
    with pytest.raises(ValueError, match="3 replicas x 2 accumulated"):
        step_shape(rows, {"accumulate_grad_batches": 2}, Layout("ddp", 3), targets=0.1)


def recipe(folder: Path, toybench: Path, width: int, *, blocks: int = 3) -> Path:
    """A fit of three steps on two processes."""
    model = {
        "model_type": "opt",
        "vocab_size": len(load_tokenizer(str(toybench / "tokenizer"))),
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": blocks,
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
        "sequence": "sharded",
        "fsdp": "sharded",
        "zero1": "zero_1",
        "zero2": "zero_2",
        "zero3": "zero_3",
    }
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for run, (name, width) in runs.items():
        contents = yaml.safe_load(recipes[width].read_text())["model"]["init_args"]["config"]
        config = AutoConfig.for_model(contents.pop("model_type"), **contents)
        layout = Layout(
            kinds[name],  # type: ignore[arg-type]
            2,
            tensor_parallel=2 if name in ("tensor", "sequence") else 1,
            sequence_parallel=name == "sequence",
        )
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
    words = ["--config", str(recipe(tmp_path, toybench, 64, blocks=1)), "--trainer.strategy", "fsdp", "--memory", "1"]
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
    ],
)
def test_a_deep_model_is_planned_from_shallow_ones(layout: Layout, accumulated: bool, finish: Finish) -> None:
    shape = SHAPE._replace(accumulated=accumulated)
    whole = step_memory(partial(build, opt(9)), finish, layout, shape)
    assert most(phases_of_depth(opt(9), build, finish, layout, shape)) == whole
    assert min(whole) >= 0


def test_another_moment_decides_in_a_deep_model_than_in_a_shallow_one() -> None:
    """In a shallow one the head; in a deep one on a single device the copy of all parameters that Adam's step takes."""
    shape, layout = StepShape(rows=4, columns=32, targets=32, accumulated=True), Layout(foreach=True)
    shallow, deep = (step_phases(partial(build, opt(blocks)), recompute, layout, shape) for blocks in (4, 12))
    assert [max(each, key=lambda phase: each[phase].total).part for each in (shallow, deep)] == ["forward", "step"]
    assert most(phases_of_depth(opt(12), build, recompute, layout, shape)) == most(deep)


def test_the_first_step_of_a_process_holds_what_the_next_one_does() -> None:
    """Shapes that no other test has: DTensor computes on whole ones, once, to learn the shapes of results."""
    first, second = (
        step_phases(partial(build, opt(2, width=88)), recompute, Layout("sharded", 4, tensor_parallel=2), SHAPE)
        for _ in range(2)
    )
    assert first == second


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("model", "nodes", "fits"),
    [("30b", 8, True), ("max_30b", 8, True), ("175b", 16, True), ("max_175b", 16, True), ("175b", 2, False)],
)
def test_opt_iml_fits_where_it_was_trained(model: str, nodes: int, fits: bool) -> None:
    """OPT-IML, Table 3: 30B on 64 and 175B on 128 A100-40GB; 16 are too few for 175B."""
    words = [f"--config=papers/opt_iml_{model}", f"--config=models/opt_{model.removeprefix('max_')}_random"]
    words += ["--trainer.devices=8", f"--trainer.num_nodes={nodes}"]
    plan = plan_of(words, gibibytes=40)
    assert plan.fits is fits
    assert min(size for memory in plan.memories.values() for size in memory) >= 0
    assert plan.memories[False].total > 40 * 2**30  # none fits with all activations kept
    assert (plan.least is not None) is fits


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["opt_iml_1.3b", "opt_iml_max_1.3b"])
def test_opt_iml_1_3b_fits_one_device_with_all_activations(name: str) -> None:
    words = [f"--config=papers/{name}", "--config=models/opt_1.3b_random"]
    assert plan_of(words, gibibytes=80).memories[False].total < 80 * 2**30


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
    words = [
        f"--config={recipe(tmp_path, toybench, 64, blocks=3)}",
        "--trainer.devices=1",
        "--data.init_args.rows.per_step=64",
    ]
    plan = plan_of(words, gibibytes=1)
    totals = [plan.memories[choice].total for choice in (False, "selective", 2, True)]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    for choice, total in plan.memories.items():
        assert replace(plan, capacity=round(total.total / 0.95) + 1).least == choice
    assert replace(plan, capacity=1000).least is None
