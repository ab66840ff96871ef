"""Peak memory of a training step with logits at targets alone against logits at every token.

    python perf/logits_memory.py [--rows 4]

Each variant takes one forward and backward in a separate process; its peak resident memory is compared with that before
the step. The shape is OPT-125M's head (vocabulary 50,272, width 768) over two blocks, on rows of
1,024 tokens of which 15% are targets, which is the upper end of instruction mixtures.
"""

import argparse
import resource
import subprocess
import sys

import torch
import torch.nn.functional as F
from common import opt_fields, print_result

from crosstask.lightning_modules.models import build_model, model_config

MODEL = {**opt_fields(2, 768, positions=2048), "vocab_size": 50_272}
LENGTH, TARGET_SHARE = 1024, 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--variant", choices=["targets", "all"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(step_memory(arguments.rows, targets_only=arguments.variant == "targets"))
        return
    mib = {
        variant: float(
            subprocess.run(
                [sys.executable, __file__, "--rows", str(arguments.rows), "--variant", variant],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()[-1]
        )
        for variant in ("targets", "all")
    }
    print(f"{'logits at targets':20}{mib['targets']:>8.0f} MiB above the model")
    print(f"{'logits at all':20}{mib['all']:>8.0f} MiB above the model")
    setting = f"OPT-125M head, 2 blocks, {arguments.rows} rows of {LENGTH}, {TARGET_SHARE:.0%} targets, fp32, CPU"
    print_result(
        "logits_peak_memory",
        ours=mib["targets"],
        peer=mib["all"],
        unit="MiB above the model (less is better)",
        setting=setting,
    )


def step_memory(rows: int, *, targets_only: bool) -> float:
    """MiB that one forward and backward add to the process's peak."""
    torch.manual_seed(0)
    config = model_config(MODEL, vocabulary=0, dropout=0.0)
    model = build_model(config, weights=None, vocabulary=0, attention="sdpa", dtype=torch.float32)
    ids = torch.randint(0, 50_000, (rows, LENGTH))
    wanted = torch.rand(rows, LENGTH) < TARGET_SHARE
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if targets_only:
        logits = model(ids, logits_to_keep=wanted, use_cache=False).logits
    else:
        logits = model(ids, use_cache=False).logits[wanted]
    F.cross_entropy(logits.float(), ids[wanted], reduction="sum").backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
