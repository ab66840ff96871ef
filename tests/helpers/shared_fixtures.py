"""Fixtures of all tests: the embedded benchmark, written once per run, small runs on it, and the program."""

import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from argument_groups import build
from bilevel_runs import Make, make_runs
from recipes import store_of
from small_runs import SmallRuns
from warm_program import WarmProgram

from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.toybench.writer import write_toybench


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Restore the handlers of signals, which the program replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_model() -> dict[str, Any]:
    """Return the fields of a configuration of some 30 thousand parameters."""
    return {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }


@pytest.fixture(scope="session")
def toybench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small embedded benchmark: 130 instances per task, so that 30 train where 100 are tested."""
    folder = tmp_path_factory.mktemp("toybench") / "toybench"
    write_toybench(folder, instances=130)
    return folder


@pytest.fixture(scope="session")
def tokenizer(toybench: Path) -> Any:
    return load_tokenizer(str(toybench / "tokenizer"))


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProgram]:
    """Yield a server that starts commands in processes."""
    program = WarmProgram(tmp_path_factory.mktemp("program"))
    yield program
    program.close()


@pytest.fixture
def warm_python(program: WarmProgram, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let code of the package that starts Python as a process start the program of `program` in its place."""
    path = program.folder / "python"
    with program.command(path):
        monkeypatch.setattr(sys, "executable", str(path))
        yield


@pytest.fixture(scope="session")
def small_runs(toybench: Path, tiny_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    """Return a factory of pairs of a module and a datamodule."""
    return SmallRuns(toybench, tmp_path_factory.mktemp("small_runs"), tiny_model)


@pytest.fixture
def make_datamodule(toybench: Path) -> Callable[..., InstructionTuningDataModule]:
    """Return a factory of instruction-tuning datamodules on the embedded benchmark; its arguments override."""

    def make(**arguments: Any) -> InstructionTuningDataModule:
        defaults = {
            "benchmark": NaturalInstructions(str(toybench)),
            "tokenizer": str(toybench / "tokenizer"),
            "rows": {"length": 128, "per_step": 8},
            "evaluation": {"max_new_tokens": 8, "batch_tokens": 2048},
            "instances": {"validation": 2, "test": 3},
            "cache": str(store_of(toybench)),
        }
        return build(InstructionTuningDataModule, defaults, arguments)

    return make


@pytest.fixture
def make_bilevel(toybench: Path, tiny_model: dict[str, Any]) -> Make:
    """Return a factory of modules and datamodules of instruction optimization with equal settings."""
    return partial(make_runs, toybench, tiny_model)


@pytest.fixture
def make_scorer_data(toybench: Path) -> Callable[..., ScorerDataModule]:
    """Return a factory of the scorer's datamodules on the embedded benchmark; its arguments override."""

    def make(**arguments: Any) -> ScorerDataModule:
        defaults = {
            "benchmark": NaturalInstructions(str(toybench)),
            "tokenizer": str(toybench / "tokenizer"),
            "rows": {"length": 256, "pair_length": 96, "per_step": 4},
            "instances": {"validation": 2, "test": 3},
            "cache": str(store_of(toybench)),
        }
        return build(ScorerDataModule, defaults, arguments)

    return make
