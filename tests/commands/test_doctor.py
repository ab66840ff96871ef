"""`crosstask doctor` names what is broken, with the way out, and says so by its exit status."""

import os
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from crosstask.cli import main
from crosstask.commands.shared import machine_checks
from crosstask.commands.shared.machine_checks import (
    Finding,
    check_folders,
    check_python,
    check_slurm,
    check_variables,
    package_finding,
)


def test_a_whole_machine_has_nothing_broken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["doctor", "--cache", str(tmp_path / "store"), "--root", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing is broken"
    assert not [line for line in lines if re.search(r"\b1 (cores|threads|entries)\b", line)]
    topics = {line[8:].partition(":")[0] for line in lines if not line.startswith(" ")}
    assert {"python", "packages", "CPU", "store", "runs", "temporary files", "models"} <= topics


def test_something_broken_is_the_exit_status(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_checks.metadata, "version", lambda name: "2.6.3" if name == "lightning" else "999")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--cache", str(tmp_path)])
    assert end.value.code == 1
    shown = capsys.readouterr().out
    assert "broken  lightning: 2.6.3 is a malicious release (GHSA-w37p-236h-pfx3)\n        -> pip install" in shown
    broken = sum(line.startswith("broken ") for line in shown.splitlines())
    assert shown.splitlines()[-1] == ("1 thing broken" if broken == 1 else f"{broken} things broken")


@pytest.mark.parametrize(
    ("installed", "text"),
    [
        (None, "is not installed"),
        ("2.6.2", "malicious"),
        ("2.5.0", "2.5.0, and >=2.6.4 is needed"),
        ("2.6.6", None),
    ],
)
def test_versions(installed: str | None, text: str | None) -> None:
    finding = package_finding(Requirement("lightning>=2.6.4"), installed)
    if text is None:
        assert finding is None
    else:
        assert finding is not None
        assert finding.state == "broken"
        assert text in finding.text
        assert "pip install 'lightning>=2.6.4'" in finding.way_out


def test_the_interpreter() -> None:
    assert [each.state for each in check_python("3.12.1", "<3.14,>=3.11")] == ["ok"]
    assert [each.state for each in check_python("3.10.9", "<3.14,>=3.11")] == ["broken"]


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (ok,) = check_folders({"store": tmp_path / "deep/down"})
    assert ok.state in ("ok", "note")
    (broken,) = check_folders({"store": Path("/proc/nothing")})  # not even root may write there
    assert broken == Finding(
        "broken",
        "store",
        broken.text,
        "set data.init_args.cache to a folder on another disk",
    )
    assert "nothing can be written to /proc" in broken.text


def test_a_job_of_slurm_and_a_shell_within_it(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_JOB_NUM_NODES": "2"}
    assert [each.state for each in check_slurm({**job, "SLURM_PROCID": "0"})] == ["ok"]
    (note,) = check_slurm(job)
    assert note.state == "note"
    assert "srun" in note.way_out
    assert [each.state for each in check_slurm({**job, "SLURM_JOB_NAME": "interactive"})] == ["ok"]
    (note,) = check_variables({"CROSSTASK_DATA": str(tmp_path / "nowhere")})
    assert note.state == "note"
    assert "is no folder" in note.text
