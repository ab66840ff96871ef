"""Memory and time of a cycle as `crosstask plan` computes them, against small runs of instruction optimization.

    python perf/bilevel_plan.py [--width 256] [--layers 6]

On a CPU, each variant trains two cycles of K inner steps and an outer step on the embedded benchmark, in a process; the
second cycle is measured. Memory is the peak resident memory above that before the model, with the allocator set to
return freed memory. Time is the processor time of one thread: of a cycle over that of its inner steps, planned as the
quotient of their operations.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from common import ALLOCATOR, print_result, reset_peak, resident

from crosstask.commands.shared.linked_cli import LinkedCLI
from crosstask.commands.shared.settings_reader import SettingsReader
from crosstask.datamodules.toybench.writer import write_toybench
from crosstask.lightning_modules.planning.bilevel_plan import PENALTY
from crosstask.lightning_modules.planning.communication import Links
from crosstask.lightning_modules.planning.resource_plan import make_plan

K, INNER_ROWS, OUTER_ROWS, COLUMNS = 4, 16, 32, 64
OUTER = "--model.init_args.outer"
VARIANTS = {
    "preset fast": ["--data.init_args.preset=fast"],
    "preset paper, every Hessian product": ["--data.init_args.preset=paper", f"{OUTER}.negligible=0"],
    "the same, recomputed": [
        "--data.init_args.preset=paper",
        f"{OUTER}.negligible=0",
        "--model.init_args.network.gradient_checkpointing=true",
    ],
    "penalty, 1 step": [f"{OUTER}.gradient={PENALTY}", f"{OUTER}.options={{alpha: 0.01, rate: 1.0e-5}}"],
}


class Measure(L.Callback):
    """Peak resident memory above that before the model, share of targets, and seconds of the second cycle's steps."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.before, self.peak = resident("VmRSS"), 0.0
        self.seconds: list[float] = []
        self.targets, self.columns = 0, 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        reset_peak()
        rows = [batch.inner.rows, batch.outer, batch.curvature and batch.curvature.rows]
        self.targets += sum(int((one.targets >= 0).sum()) for one in rows if one is not None)
        self.columns += sum(one.targets.numel() for one in rows if one is not None)
        self.started = time.process_time()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx >= K:
            self.seconds.append(time.process_time() - self.started)
            self.peak = max(self.peak, resident("VmHWM") - self.before)


def settings(folder: str, variant: str, width: int, layers: int) -> list[str]:
    config = {"model_type": "llama", "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4}
    config |= {"num_hidden_layers": layers, "num_key_value_heads": 4, "max_position_embeddings": 128}
    given = {
        "trainer.max_steps": 2 * K,
        "trainer.limit_val_batches": 0,
        "trainer.logger": "false",
        "trainer.callbacks": "[]",
        "trainer.enable_checkpointing": "false",
        "trainer.enable_model_summary": "false",
        "trainer.enable_progress_bar": "false",
        "model.init_args.config": json.dumps(config | {"vocab_size": 512}),
        "model.init_args.optimizer.warmup": 1,
        f"{OUTER[2:]}.calibrate_every": 0,
        "data.init_args.benchmark.init_args.folder": folder,
        "data.init_args.tokenizer": f"{folder}/tokenizer",
        "data.init_args.rows.length": COLUMNS,
        "data.init_args.instructions.length": 2,
        "data.init_args.levels": json.dumps({"inner_steps": K, "inner_rows": INNER_ROWS, "outer_rows": OUTER_ROWS}),
        "data.init_args.evaluation.max_new_tokens": 8,
    }
    return [
        "--config=instruction_optimization_toybench",
        *(f"--{name}={value}" for name, value in given.items()),
        *VARIANTS[variant],
    ]


def measured(words: list[str]) -> dict[str, float]:
    torch.set_num_threads(1)
    cli = LinkedCLI(words, run=False, save_config_callback=None)
    measure = Measure()
    cli.trainer.callbacks.append(measure)
    cli.trainer.fit(cli.model, cli.datamodule)
    *theta, last = measure.seconds
    plain = K * sum(theta) / len(theta)  # the last inner step precedes the outer one
    cycle = sum(theta) + last
    return {
        "memory": measure.peak,
        "ratio": cycle / plain,
        "targets": measure.targets / measure.columns,
        "cycle": cycle,
    }


def planned(words: list[str], targets: float) -> dict[str, float]:
    configuration = SettingsReader("crosstask plan", words).settings.as_dict()
    plan = make_plan(configuration, capacity=2**40, rate=1e12, targets=targets, links=Links(3e11, 25e9))
    assert plan.outer is not None
    phi = plan.outer.instruction  # of 757 tasks: the run has fewer
    theta = plan.flops - plan.outer.flops / K
    return {"memory": (plan.memory.total - phi) / 2**20, "ratio": plan.flops / theta}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = arguments.width, arguments.layers
    if arguments.run:
        print(json.dumps(measured(settings(*arguments.run, *sizes))))
        return
    with TemporaryDirectory() as folder:
        write_toybench(folder, instances=130)
        print(f"{'':38}{'planned':>9}{'measured':>10} MiB{'planned':>9}{'measured':>10} of the inner steps")
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--run", folder, variant]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ALLOCATOR)
            found = json.loads(run.stdout.splitlines()[-1])
            plan = planned(settings(folder, variant, *sizes), found["targets"])
            memory = f"{plan['memory']:>9.0f}{found['memory']:>10.0f}    "
            print(
                f"{variant:38}{memory}{plan['ratio']:>9.2f}{found['ratio']:>10.2f}   ({found['cycle']:.1f} s)",
                flush=True,
            )
            setting = f"Llama, {arguments.layers} blocks of {arguments.width}, K = {K}, {INNER_ROWS} inner and "
            setting += f"{OUTER_ROWS} outer rows of {COLUMNS}, {variant}, one CPU thread"
            print_result(
                "planned_bilevel_memory", ours=plan["memory"], peer=found["memory"], unit="MiB", setting=setting
            )


if __name__ == "__main__":
    main()
