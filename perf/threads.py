"""Training steps of small models on the CPU with one thread and with all, on a quiet machine and beside a busy process.

    python perf/threads.py [--widths 128 256 512] [--steps 20] [--rounds 5]

`crosstask fit` runs models of fewer than ``SMALL`` parameters on one thread; this measures whether that is right. A
step is forward, backward and AdamW over 4 rows of 192 tokens, as in the quickstart, whose model has width 128. Rounds
of either number of threads alternate, each first on a quiet machine and then beside a process that never waits; `ours`
is the time of one thread.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from common import print_result
from transformers import AutoModelForCausalLM, LlamaConfig

from crosstask.commands.shared.threads import SMALL

ROWS, COLUMNS, VOCABULARY = 4, 192, 1500


class Training:
    """Training of a small language model on one batch."""

    def __init__(self, width: int) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=4,
            num_attention_heads=max(width // 32, 1),
            tie_word_embeddings=True,
        )
        self.model = AutoModelForCausalLM.from_config(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.ids = torch.randint(VOCABULARY, (ROWS, COLUMNS))

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def seconds_per_step(self, steps: int, threads: int) -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(input_ids=self.ids, labels=self.ids).loss.backward()
            self.optimizer.step()
        return (time.perf_counter() - began) / steps


@contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Context of a process that uses one core without a pause; it is stopped at first."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(training: Training, *, steps: int, rounds: int, threads: int) -> dict[tuple[int, bool], float]:
    """Return the median seconds of a step, by (number of threads, whether another process was busy)."""
    times: dict[tuple[int, bool], list[float]] = {}
    with busy_process() as other:
        for count in (1, threads):
            training.seconds_per_step(2, count)
        for _ in range(rounds):
            for count in (1, threads):
                for busy in (False, True):
                    other.send_signal(signal.SIGCONT if busy else signal.SIGSTOP)
                    times.setdefault((count, busy), []).append(training.seconds_per_step(steps, count))
                    other.send_signal(signal.SIGSTOP)
    return {key: statistics.median(values) for key, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    if threads < 2:
        raise SystemExit("one processor: there is nothing to compare")
    for width in options.widths:
        training = Training(width)
        seconds = measure(training, steps=options.steps, rounds=options.rounds, threads=threads)
        for busy in (False, True):
            print_result(
                "threads",
                ours=1000 * seconds[1, busy],
                peer=1000 * seconds[threads, busy],
                unit="ms a step",
                setting=f"1 against {threads} threads, {training.parameters / 1e6:.1f}M parameters (one thread below "
                f"{SMALL / 1e6:.0f}M), {'beside a busy process' if busy else 'quiet machine'}",
            )


if __name__ == "__main__":
    main()
