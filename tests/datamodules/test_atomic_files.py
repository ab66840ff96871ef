"""Files and folders that appear complete or not at all, and what killed processes have left of them."""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from crosstask.callbacks.report.figure_style import write_figure
from crosstask.datamodules.atomic_files import this_process, whole_file, whole_folder, write_whole
from crosstask.datamodules.toybench.writer import write_toybench


def write_file(path: Path, then: Callable[[], None] = lambda: None) -> None:
    with whole_file(path) as file:
        file.write("whole")
        file.flush()
        then()


def write_folder(path: Path, then: Callable[[], None] = lambda: None) -> None:
    with whole_folder(path) as partial:
        (partial / "file").write_text("whole")
        then()


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_what_a_killed_process_left_is_removed_by_the_next_one(write: Callable[..., None], tmp_path: Path) -> None:
    """A half-written export of a large model would fill the disk at every kill."""
    path = tmp_path / "out[1]"
    process = multiprocessing.get_context("fork").Process(target=write, args=(path, killed))
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out[1].")
    of_parent = left.with_name(left.name.replace(str(process.pid), str(os.getppid())))  # which runs
    elsewhere = left.with_name(".out[1].0123abcd-1.part")  # of another machine
    ours = left.with_name(f".out[1].{this_process()}.part")  # of an earlier process, as in containers
    for other in (of_parent, elsewhere, ours):
        other.mkdir()
    write(path)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, of_parent.name, elsewhere.name}


def test_an_interrupted_benchmark_leaves_nothing(tmp_path: Path) -> None:
    left = tmp_path / f".toybench.{this_process()}.part"
    (left / "tasks").mkdir(parents=True)
    write_toybench(tmp_path / "toybench", instances=101)
    assert [each.name for each in tmp_path.iterdir()] == ["toybench"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_figure_on_a_full_disk_is_absent(tmp_path: Path, suffix: str) -> None:
    """Half of one would be taken for the figure, and `crosstask scaling` would not overwrite it."""
    from matplotlib.figure import Figure

    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        figure = Figure()
        figure.subplots().plot([number**2 % 97 for number in range(999)])
        with pytest.raises(OSError, match=rf"No space left on device: '.*/figure\.{suffix}'"):
            write_figure(figure, tmp_path / f"figure.{suffix}", "title")
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_an_older_file_stays_where_the_newer_one_fails(tmp_path: Path) -> None:
    def failing() -> None:
        raise KeyboardInterrupt

    write_whole(tmp_path / "file", "older")
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "file", failing)
    assert (tmp_path / "file").read_text() == "older"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
