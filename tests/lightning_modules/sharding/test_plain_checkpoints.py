"""Files of strangers that would run a command when they are read: every layout, by every command that reads it."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import SingleDeviceStrategy
from signalled_runs import write_recipe

from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.storage.store import open_task
from crosstask.lightning_modules import InstructionTuningModule, ScorerModule
from crosstask.lightning_modules.models import architecture_class, model_config
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.sharding.checkpoints import AnyLayoutIO, checkpoint_layout, read_plain_values_alone
from crosstask.lightning_modules.sharding.plain_checkpoints import read_index

WEIGHTS = {"model.lm_head.weight": torch.zeros(2, 3)}


class Command:
    """Pickled, it runs a command on the machine that reads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that a command writes if it runs."""
    return tmp_path / "ran"


def save_file(path: Path, command: Command) -> None:
    torch.save({"state_dict": WEIGHTS, "hyper_parameters": {"tokenizer": command}}, path)


def save_shards(path: Path, values: Any = 0.1, extras: Any = 0) -> None:
    dcp.save({"state_dict": dict(WEIGHTS), "optimizer_0": {"lr": values}}, checkpoint_id=path, no_dist=True)
    torch.save({"extras": extras}, path / "meta.pt")


def save_index(path: Path, command: Command) -> None:
    save_shards(path)
    (path / ".metadata").write_bytes(pickle.dumps(command))


def save_index_of_other_names(path: Path, command: Command) -> None:
    """An index that begins as it should and names the command in a field that torch does not use."""
    save_shards(path)
    index = read_index(path)
    index.planner_data = {"fields": [command]}
    (path / ".metadata").write_bytes(pickle.dumps(index))


def save_deepspeed(path: Path, *, model: Any = 0, optimizer: Any = 0, latest: str = "checkpoint") -> None:
    (path / "checkpoint").mkdir(parents=True)
    (path / "latest").write_text(latest)
    torch.save({"module": WEIGHTS, "dp_world_size": 1, "more": model}, path / "checkpoint/mp_rank_00_model_states.pt")
    torch.save({"state": optimizer}, path / "checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt")


def save_deepspeed_elsewhere(path: Path, command: Command) -> None:
    """The folder that torch reads is harmless, and the one that DeepSpeed would read is not."""
    save_deepspeed(path / "other", model=command)
    save_deepspeed(path, latest="other/checkpoint")


ATTACKS: dict[str, Callable[[Path, Command], None]] = {
    "file": save_file,
    "index": save_index,
    "index_of_other_names": save_index_of_other_names,
    "value_in_shards": lambda path, command: save_shards(path, values=[command]),
    "extras_of_shards": lambda path, command: save_shards(path, extras=command),
    "deepspeed_model": lambda path, command: save_deepspeed(path, model=command),
    "deepspeed_optimizer": lambda path, command: save_deepspeed(path, optimizer={"exp_avg": [command]}),
    "deepspeed_elsewhere": save_deepspeed_elsewhere,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_layout_of_a_checkpoint_runs_a_command(attack: str, marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "stranger.ckpt"
    ATTACKS[attack](path, Command(marker))
    strategy = SingleDeviceStrategy(checkpoint_io=AnyLayoutIO())
    read_plain_values_alone(strategy)
    readers: list[Callable[[], Any]] = [
        lambda: main(["export", str(path), str(tmp_path / "exported")]),
        lambda: strategy.load_checkpoint(path, weights_only=False),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=r"could run code|must name the folder 'checkpoint'"):
            read()
        assert not marker.exists()


def test_the_commands_of_this_file_would_run(marker: Path, tmp_path: Path) -> None:
    save_file(tmp_path / "stranger.ckpt", Command(marker))
    torch.load(tmp_path / "stranger.ckpt", weights_only=False)
    assert marker.exists()
    marker.unlink()
    pickle.loads(pickle.dumps(Command(marker)))
    assert marker.exists()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_no_command_of_the_trainer_runs_a_file(
    command: str, marker: Path, tmp_path: Path, toybench: Path, tiny_model: dict[str, Any]
) -> None:
    recipe = write_recipe(tmp_path, toybench, tiny_model)
    save_file(tmp_path / "stranger.ckpt", Command(marker))
    with pytest.raises(ValueError, match=r"stranger.ckpt is not read: .* names posix.system, which could run code"):
        main([command, "--config", str(recipe), f"--ckpt_path={tmp_path / 'stranger.ckpt'}"])
    with pytest.raises(SystemExit):  # there is no option to read it in another way
        main([command, "--config", str(recipe), "--weights_only=false"])
    assert not marker.exists()


@pytest.mark.parametrize("module", [InstructionTuningModule, ScorerModule])
def test_a_module_is_not_built_from_a_file_of_commands(module: Any, marker: Path, tmp_path: Path) -> None:
    save_file(tmp_path / "stranger.ckpt", Command(marker))
    with pytest.raises(ValueError, match="could run code"):
        module.load_from_checkpoint(tmp_path / "stranger.ckpt", weights_only=False)
    assert not marker.exists()


def test_a_script_does_not_run_a_file_either(
    marker: Path, tmp_path: Path, toybench: Path, tiny_model: dict[str, Any], make_datamodule: Any
) -> None:
    save_file(tmp_path / "stranger.ckpt", Command(marker))
    tokenizer, steady = str(toybench / "tokenizer"), Optimization(learning_rate=1e-3)
    module = InstructionTuningModule(tokenizer, config=tiny_model, optimizer=steady, row_length=128)
    trainer = L.Trainer(max_steps=1, logger=False, accelerator="cpu", enable_checkpointing=False)
    for use in (trainer.fit, trainer.test):
        with pytest.raises(ValueError, match="could run code"):
            use(module, datamodule=make_datamodule(), ckpt_path=tmp_path / "stranger.ckpt", weights_only=False)
    assert not marker.exists()


def test_arrays_of_objects_in_a_store_are_not_read(marker: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "lengths.npy", np.array([Command(marker)], dtype=object), allow_pickle=True)
    (tmp_path / "meta.json").write_text(json.dumps({"tokens": 0, "dtype": "uint16", "skipped": {}}))
    (tmp_path / "tokens.bin").touch()
    marker.unlink(missing_ok=True)  # numpy's writer runs nothing, but a reader would
    with pytest.raises(ValueError, match="is damaged"):
        open_task(tmp_path)
    assert not marker.exists()


def test_the_code_in_a_model_folder_is_not_run(marker: Path, tmp_path: Path) -> None:
    code = (
        f"open({str(marker)!r}, 'w')\nfrom transformers import PretrainedConfig as Evil, PreTrainedTokenizer as Words\n"
    )
    (tmp_path / "evil.py").write_text(code)
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    words = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["evil.Words", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match="there is no model at"):
        model_config(str(tmp_path), vocabulary=8, dropout=None)
    with pytest.raises(ValueError, match="no tokenizer could be loaded"):
        load_tokenizer(str(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pipeline", "Trainer", "logging", "AutoModelForCausalLM"])
def test_a_checkpoint_names_a_model_class_and_nothing_else(name: str) -> None:
    with pytest.raises(ValueError, match=f"has no architecture {name}"):
        architecture_class(name)


def test_an_index_that_is_no_pickle_or_another_object_is_rejected(tmp_path: Path) -> None:
    for content in (b"", b"\x80\x04garbage", pickle.dumps({"storage_data": {}})):
        (tmp_path / ".metadata").write_bytes(content)
        with pytest.raises(ValueError, match="index of a folder of shards"):
            read_index(tmp_path)


def test_a_folder_that_holds_no_shards_is_named_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint but the folder of a run: give .*checkpoints/last\.ckpt"):
        checkpoint_layout(tmp_path / "run")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model is no checkpoint but a Hugging Face folder, .*`model\.pretrained`"):
        checkpoint_layout(tmp_path / "model")


def test_only_a_folder_that_was_begun_is_taken_for_an_interrupted_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no checkpoint: expected a file, a folder of shards"):
        checkpoint_layout(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(ValueError, match="no whole checkpoint: its process was ended"):
        checkpoint_layout(tmp_path)
