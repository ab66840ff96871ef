"""Cost of a second CPU process: the same global batch on one process, and on two under DDP and FSDP2.

    python perf/scaling.py [--layers 4] [--width 512] [--steps 3] [--rounds 5]

Every process has one thread. A step is forward, backward and AdamW over packed rows; the three ways take turns, and
medians are compared. Wall seconds need two idle cores. Processor seconds, summed over processes, do not: two processes
spend more than one by their communication and by the work that both do.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from common import opt_fields, print_result
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from transformers import PreTrainedModel

from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.schema import CausalBatch, TokenizedExample
from crosstask.lightning_modules.models import build_model, model_config
from crosstask.lightning_modules.sharding.sharded_models import Sharding, shard
from crosstask.lightning_modules.target_loss import target_loss

ROW, ROWS, DOCUMENT, VOCABULARY = 512, 4, 128, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        subprocess.run([*words, *sys.argv[1:]], env=environment, check=True)
        return
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    measure(arguments)
    dist.destroy_process_group()


def measure(arguments: argparse.Namespace) -> None:
    ways = {"one": one(arguments), "ddp": ddp(arguments), "fsdp2": fsdp2(arguments)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds + 1):  # the first round warms up
        for name, step in ways.items():
            found[name].append(turn(step, arguments.steps, here=name != "one" or dist.get_rank() == 0))
    if dist.get_rank() != 0:
        return
    wall, work = (
        {name: statistics.median(each[i] for each in times[1:]) for name, times in found.items()} for i in (0, 1)
    )
    print(f"{'':8}{'s a step':>10}{'speed-up':>10}{'processor s':>13}{'of one':>8}   load {os.getloadavg()[0]:.0f}")
    for name in ways:
        ratios = f"{wall['one'] / wall[name]:>10.2f}{work[name]:>13.2f}{work[name] / work['one']:>8.2f}"
        print(f"{name:8}{wall[name]:>10.2f}{ratios}")
    setting = f"{arguments.layers} layers of {arguments.width}, {ROWS} rows of {ROW}, one thread a process, fp32"
    for name in ("ddp", "fsdp2"):
        print_result(
            f"scaling_{name}", ours=work[name], peer=work["one"], unit="processor seconds a step", setting=setting
        )


def turn(step: Callable[[], None], steps: int, *, here: bool) -> tuple[float, float]:
    """Return (wall seconds, processor seconds of all processes) of a step."""
    dist.barrier()
    wall, work = time.perf_counter(), time.process_time()
    for _ in range(steps if here else 0):
        step()
    spent = torch.tensor(time.process_time() - work, dtype=torch.float64)
    seconds = (time.perf_counter() - wall) / steps
    dist.all_reduce(spent)
    return seconds, spent.item() / steps


def model(arguments: argparse.Namespace) -> PreTrainedModel:
    torch.manual_seed(0)
    fields = opt_fields(arguments.layers, arguments.width, positions=ROW)
    config = model_config(fields, vocabulary=VOCABULARY, dropout=0.0)
    return build_model(config, weights=None, vocabulary=0, attention="document", dtype=torch.float32).train()


def rows(count: int) -> CausalBatch:
    """Return packed rows of documents, of which a quarter is target."""
    ids = np.arange(5, 5 + DOCUMENT)
    documents = [TokenizedExample(ids, n_source=DOCUMENT * 3 // 4)] * (ROW // DOCUMENT)
    return CausalRows(ROW, 1).collate([documents] * count, step_targets=ROWS * ROW // 4)


def stepper(network: nn.Module, batch: CausalBatch, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def one(arguments: argparse.Namespace) -> Callable[[], None]:
    network, batch = model(arguments), rows(ROWS)
    return stepper(network, batch, lambda: target_loss(network, batch, packed=True).sum)


def ddp(arguments: argparse.Namespace) -> Callable[[], None]:
    network, batch = Loss(model(arguments)), rows(ROWS // 2)
    replicated = DistributedDataParallel(network)
    return stepper(network, batch, lambda: replicated(batch))


def fsdp2(arguments: argparse.Namespace) -> Callable[[], None]:
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("shards", "tensor"))
    network, batch = model(arguments), rows(ROWS // 2)
    shard(network, Sharding(mesh["shards"], mesh["tensor"], torch.device("cpu")))
    return stepper(network, batch, lambda: target_loss(network, batch, packed=True).sum)


class Loss(nn.Module):
    """Module whose forward is the loss, as DDP needs it."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: CausalBatch) -> torch.Tensor:
        return target_loss(self.network, batch, packed=True).sum


if __name__ == "__main__":
    main()
