"""Time that the checks for values that are not finite add to a step and to a checkpoint, on OPT-125M's shape.

    python perf/finite_checks.py [--layers 12] [--rounds 7]

Steps with and without the check alternate, on a CPU in float32: forward and backward of 2 rows of 256 tokens, clipping
and AdamW. "ours" is a step with the check, "peer" one without.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import opt_fields, print_result
from torch.optim import AdamW
from transformers import AutoConfig, AutoModelForCausalLM

from crosstask.datamodules.finite_values import names_not_finite
from crosstask.lightning_modules.nonfinite_stop import gradient_norm, optimizer_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    fields = opt_fields(arguments.layers, 768, positions=256)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    optimizer, ids = AdamW(model.parameters(), lr=1e-4), torch.randint(5, 50_000, (2, 256))
    parameters = list(model.parameters())

    def step(clip: bool, check: bool) -> None:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if clip or check:
            norm = gradient_norm(parameters)
            if clip:
                torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
            if check:
                torch.stack([loss.detach().double(), norm.double()]).tolist()
        optimizer.step()
        optimizer.zero_grad()

    size = f"OPT of {arguments.layers} layers, {sum(p.numel() for p in parameters) / 1e6:.0f}M parameters"
    for clip in (True, False):
        runs: dict[bool, list[float]] = {True: [], False: []}
        for check in (True, False) * (arguments.rounds + 1):
            runs[check].append(milliseconds(lambda clip=clip, check=check: step(clip, check)))  # type: ignore[misc]
        checked, plain = (statistics.median(times[1:]) for times in (runs[True], runs[False]))
        setting = f"{size}, {'with' if clip else 'without'} clipping, {arguments.rounds} rounds"
        print_result("checked step", ours=checked, peer=plain, unit="ms", setting=setting)
    named = [*model.named_parameters(), *optimizer_tensors(optimizer)]
    checks = [milliseconds(lambda: names_not_finite(named)) for _ in range(arguments.rounds)]
    print(f"weights and moments before a checkpoint: {statistics.median(checks):.0f} ms")


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
