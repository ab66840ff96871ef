"""Full disks and folders that cannot be written to: a sentence, an exit status, and nothing lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from signalled_runs import fit_words, write_recipe
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.cli import program as run_program

KIB = 2**10


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict[str, Any]) -> Path:
    path = write_recipe(tmp_path_factory.mktemp("faults"), toybench, tiny_model)
    main(["prepare", "--config", str(path)])
    return path


def require_sentence(done: subprocess.CompletedProcess[str], text: str) -> None:
    """Require that a command failed, and ended with one sentence that holds a text."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("crosstask: ")]
    assert text in line


@pytest.mark.parametrize(
    ("largest", "named"),
    [(20 * KIB, ".ckpt: File too large"), (4 * KIB, "tokens.bin: File too large")],
    ids=["checkpoints", "the store"],
)
def test_a_file_that_cannot_be_written_ends_a_training_with_a_sentence(
    program: WarmProgram, recipe: Path, tmp_path: Path, largest: int, named: str
) -> None:
    words = [*fit_words(recipe, "full"), f"--trainer.callbacks.init_args.dirpath={tmp_path / 'checkpoints'}"]
    if largest < 20 * KIB:
        words.append(f"--data.cache={tmp_path / 'store'}")
    require_sentence(program.run(*words, largest=largest), named)
    assert not [path for path in (tmp_path / "checkpoints").glob("*") if path.name.startswith("half-written")]


def test_a_checkpoint_survives_a_full_disk_and_needs_no_temporary_folder(
    program: WarmProgram, recipe: Path, tmp_path: Path
) -> None:
    words = [*fit_words(recipe, "kept"), f"--trainer.callbacks.init_args.dirpath={tmp_path / 'checkpoints'}"]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = program.run(*words, "--trainer.max_steps=2", TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    require_sentence(program.run(*words, largest=20 * KIB, TMPDIR=str(temporary)), "File too large")
    assert last.read_bytes() == before
    done = program.run(*words, TMPDIR="/nowhere")
    assert done.returncode == 0, done.stderr
    assert torch.load(last, weights_only=False)["global_step"] == 4
    assert not [path for path in temporary.iterdir() if path.is_file()]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("logged", [False, True])
def test_a_full_file_system_ends_with_a_sentence(
    program: WarmProgram, recipe: Path, tmp_path: Path, logged: bool
) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mounted)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        words = [*fit_words(recipe, "small"), f"--trainer.callbacks.init_args.dirpath={mounted / 'checkpoints'}"]
        if logged:  # loggers write while the error is handled
            words.append(f"--trainer.logger.init_args.save_dir={mounted / 'logs'}")
            (mounted / "filler").write_bytes(bytes(40 * KIB))
        require_sentence(program.run(*words), "No space left on device; free some space")
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("command", ["prepare", "toybench", "fit"])
def test_a_folder_that_cannot_be_written_to_is_named(
    program: WarmProgram, recipe: Path, tmp_path: Path, command: str
) -> None:
    mounted = tmp_path / "readonly"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(mounted)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    words = {
        "prepare": ["--config", str(recipe), f"--data.cache={mounted / 'store'}"],
        "toybench": ["--folder", str(mounted / "toybench")],
        "fit": [*fit_words(recipe, "ro")[1:], f"--trainer.callbacks.init_args.dirpath={mounted / 'checkpoints'}"],
    }
    try:
        require_sentence(program.run(command, *words[command]), f"{mounted}")
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.mark.parametrize(("command", "named"), [("tokenizer", "vocabulary"), ("export", "huggingface")])
def test_a_folder_that_a_full_disk_left_out_is_written_by_the_next_run(
    program: WarmProgram, recipe: Path, toybench: Path, tmp_path: Path, command: str, named: str
) -> None:
    """A folder is whole or absent: half of one would be used later, or would keep the command from running again."""
    checkpoints = tmp_path / "checkpoints"
    benchmark = ["--benchmark=NaturalInstructions", f"--benchmark.folder={toybench}"]
    words = [command, *benchmark, f"--folder={tmp_path / named}", "--vocabulary=900"]
    if command == "export":
        fit = [*fit_words(recipe, "exported"), f"--trainer.callbacks.init_args.dirpath={checkpoints}"]
        assert program.run(*fit, "--trainer.max_steps=2").returncode == 0
        words = [command, str(checkpoints / "last.ckpt"), str(tmp_path / named)]
    before = sorted(tmp_path.iterdir())
    require_sentence(program.run(*words, largest=20 * KIB), f"{tmp_path / named}: File too large")
    assert sorted(tmp_path.iterdir()) == before
    done = program.run(*words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / named / "tokenizer.json").is_file()


def test_an_output_that_cannot_be_printed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`crosstask describe > file` on a full disk must not end as if the file were whole."""
    monkeypatch.setattr(sys, "argv", ["crosstask"])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="crosstask: No space left on device; free some space"):
            run_program()


def test_a_reader_that_has_seen_enough_ends_the_program_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`crosstask describe | head`."""
    monkeypatch.setattr(sys, "argv", ["crosstask"])
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            run_program()
    assert ended.value.code == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""
