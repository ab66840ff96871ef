"""A step that is not finite in one of two processes: both stop with the same message, and the step is replayed."""

import json
import re
from pathlib import Path

import pytest
from processes import STRATEGIES, run_on
from recipes import save_model
from strategy_runs import TWO, fit, write_recipe
from warm_program import WarmProgram

from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.step_replay import replay_step

NAMES = ["ddp", "fsdp2", "zero2", "fsdp2_fused"]


def words(name: str) -> list[str]:
    strategy, _, fused = name.partition("_")
    return [*STRATEGIES[strategy], f"--model.init_args.optimizer.fused={'true' if fused else 'false'}"]


@pytest.mark.distributed
def test_all_processes_stop_with_one_message(tmp_path: Path, toybench: Path, program: WarmProgram) -> None:
    model = save_model("opt", tmp_path, len(load_tokenizer(str(toybench / "tokenizer"))))
    arguments = {"pretrained": str(model), "optimizer": {"learning_rate": 0.01, "warmup": 0}}
    recipe = write_recipe(
        tmp_path / "opt.yaml", toybench, {"class_path": "InstructionTuningModule", "init_args": arguments}, {}
    )
    poison = [
        "--trainer.callbacks+=poison.Poison",
        "--trainer.callbacks.parameter=layers.1.fc1.weight",
        "--trainer.callbacks.step=[3]",
        "--trainer.callbacks.rank=1",
    ]
    output = run_on(
        program,
        2,
        [
            {"words": fit(recipe, name, *TWO, *words(name), *poison), "skipped": "step 3 is not finite: loss nan"}
            for name in NAMES
        ]
        + [{"words": fit(recipe, "zero3", *TWO, *words("zero3"))}],
        tmp_path,
    )
    messages = re.findall(r"as expected: (ValueError: .*)", output)
    assert len(messages) == 2 * len(NAMES)
    assert len(set(messages)) == len(NAMES)
    assert (tmp_path / "zero3" / "step=4.ckpt").is_dir()  # padding of shards is no weight
    for name in ("ddp", "fsdp2", "fsdp2_fused"):
        dump = tmp_path / "run" / name / "not-finite-step-3"
        assert len(list(dump.glob("batches-*.pt"))) == 2
        replayed = replay_step(dump)
        # Under DDP the dump has the weights of process 0, which are finite; the shards of FSDP2 are one model.
        assert (replayed.module is None) == (name == "ddp")
    fault = json.loads((tmp_path / "run/zero2/not-finite-step-3/fault.json").read_text())
    assert fault["weights"].endswith("step=2.ckpt")
