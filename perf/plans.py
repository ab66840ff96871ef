"""Memory of a step as `crosstask plan` computes it, against the peak resident memory of real steps on a CPU.

    python perf/plans.py [--layers 6] [--width 768]

Each setting trains two steps of AdamW in a separate process; Adam's moments exist in the second. The memory before the
model is subtracted. The allocator is set to return freed memory, of which it would otherwise keep gaps.
"""

import argparse
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from common import ALLOCATOR, opt_fields, print_result, reset_peak, resident
from transformers import PreTrainedModel

from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.planning.memory import Layout, StepShape, step_phases
from crosstask.lightning_modules.planning.phases import most

ROWS, COLUMNS, TARGETS, VOCABULARY = 4, 512, 80, 16_384
SETTINGS = [("32-true", False), ("bf16-mixed", False), ("32-true", True), ("bf16-mixed", True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--setting", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.setting is not None:
        print(json.dumps(measured(arguments, *SETTINGS[arguments.setting])))
        return
    print(f"{'precision':12}{'checkpointing':>14}{'planned':>9}{'measured':>10}  MiB")
    for number, (precision, recomputed) in enumerate(SETTINGS):
        words = [sys.executable, __file__, *sys.argv[1:], "--setting", str(number)]
        printed = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ALLOCATOR
        ).stdout
        found = float(printed.split()[-1])
        expected = planned(arguments, precision, recomputed)
        print(f"{precision:12}{'yes' if recomputed else 'no':>14}{expected:>9.0f}{found:>10.0f}")
        setting = f"OPT, {arguments.layers} blocks of {arguments.width}, {ROWS} rows of {COLUMNS}, {TARGETS} targets, "
        setting += f"{precision}, {'recomputed' if recomputed else 'kept'} activations, CPU"
        print_result("planned_memory", ours=expected, peer=found, unit="MiB", setting=setting)


def build(arguments: argparse.Namespace, dtype: torch.dtype | None = None) -> PreTrainedModel:
    fields = opt_fields(arguments.layers, arguments.width, positions=2048)
    config = model_config(fields, vocabulary=VOCABULARY, dropout=0.0)
    return build_model(config, weights=None, vocabulary=0, attention="sdpa", dtype=dtype or torch.float32)


def finish(model: PreTrainedModel, *, recomputed: bool) -> None:
    if recomputed:
        model.activation_checkpointing_enable()


def planned(arguments: argparse.Namespace, precision: str, recomputed: bool) -> float:
    layout, shape = Layout(precision=precision), StepShape(ROWS, COLUMNS, TARGETS)  # type: ignore[arg-type]
    phases = step_phases(partial(build, arguments), partial(finish, recomputed=recomputed), layout, shape)
    return most(phases).total / 2**20


def measured(arguments: argparse.Namespace, precision: str, recomputed: bool) -> float:
    """Return the peak memory of building a model and two steps, in MiB above that before."""
    torch.manual_seed(0)
    before = reset_peak()
    model = build(arguments).train()
    finish(model, recomputed=recomputed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)
    ids = torch.randint(0, VOCABULARY, (ROWS, COLUMNS))
    kept = torch.arange(COLUMNS - TARGETS, COLUMNS)
    for _ in range(2):
        optimizer.zero_grad()
        mixed = precision == "bf16-mixed"  # without a cache of the weights' copies, as in Lightning's plugin
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False) if mixed else nullcontext():
            logits = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits
        F.cross_entropy(logits.flatten(0, 1).float(), ids[:, kept].flatten(), reduction="sum").backward()
        optimizer.step()
    return resident("VmHWM") - before


if __name__ == "__main__":
    main()
