"""The front door: help of all commands, without the libraries that a command imports when it runs."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from crosstask.cli import main
from crosstask.commands import doctor, report, samples
from crosstask.commands.shared.command_docs import GROUPS, command_doc, command_names
from crosstask.commands.shared.config_names import (
    VARIABLE,
    composed_paths,
    composed_settings,
    config_path,
    with_config_paths,
)
from crosstask.commands.shared.static_help import static_help

HEAVY = {"torch", "lightning", "transformers", "sklearn", "nltk", "datasets"}
LIGHT = [["--help"], *([name, "--help"] for name in command_names())]


def test_every_command_has_a_place_and_a_line_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == command_names()
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in command_names():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line) > 30, "a command without a description"
        assert len(line) <= 120
        doc = command_doc(name)
        assert f"    crosstask {name} " in doc.example, f"{name} has no example"


def test_help_imports_no_library_that_only_a_run_needs() -> None:
    """All in one process, since each module is imported once; torch alone takes a second or two."""
    program = (
        "import sys\nfrom crosstask.cli import main\n"
        f"for words in {LIGHT!r}:\n"
        "    try:\n        main(words)\n    except SystemExit as end:\n        assert not end.code, words\n"
        f"    assert not {HEAVY!r} & {{*sys.modules}}, (words, {HEAVY!r} & {{*sys.modules}})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def show_help(name: str) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])


def test_help_from_the_source_lists_every_option_of_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser of the run itself is the judge: help is written from the source alone."""
    functions = {"report": report.write_report, "samples": samples.write_samples, "doctor": doctor.check_machine}
    for name, function in functions.items():
        show_help(name)
        shown = capsys.readouterr().out
        for option in inspect.signature(function).parameters:
            assert f"--{option} " in shown, (name, option)
    show_help("samples")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--examples.train_examples TRAIN_EXAMPLES Maximum number of training examples of a task" in shown
    assert "--examples.benchmark.help CLASS shows the options of a class" in shown
    assert "(type: int, default: 0)" in shown
    show_help("select")
    assert "(type: Literal['instruction', 'longest_first'], default: instruction)" in " ".join(
        capsys.readouterr().out.split()
    )
    assert static_help("describe") is None  # its options are those of a run


@pytest.mark.parametrize("name", ["describe", "plan", "report"])
def test_help_shows_the_description_and_the_example_unwrapped(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    out = capsys.readouterr().out
    doc = command_doc(name)
    assert doc.description in out
    assert doc.example in out
    assert out.startswith(f"usage: crosstask {name} ")


def test_help_of_a_command_about_data_lists_what_it_uses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["describe", "--help"])
    options = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  --")}
    assert options == {"--config", "--data", "--depth"}


def test_a_configuration_goes_by_name_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    installed = config_path("quickstart")
    assert Path(installed).name == "quickstart.yaml"
    words = with_config_paths(["--config", "quickstart", "--depth", "1"])
    assert words[-3:] == [f"--config={installed}", "--depth", "1"]
    assert [Path(word).stem for word in words[:-2]] == ["tiny_llama", "quickstart"]  # what it includes
    (tmp_path / "quickstart.yaml").write_text("seed_everything: 1")
    assert config_path("quickstart.yaml") == "quickstart.yaml"  # a file is preferred
    assert config_path("quickstart") == installed
    with pytest.raises(ValueError, match=r"no configuration 'quikstart': .* nearest: quickstart"):
        main(["describe", "--config", "quikstart"])


def test_a_configuration_overrides_what_it_includes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("trainer: {max_steps: 1, devices: 1}")
    (tmp_path / "middle.yaml").write_text("include: [base.yaml]\ntrainer: {max_steps: 2}")
    (tmp_path / "top.yaml").write_text("include: [middle.yaml]\nseed_everything: 3")
    assert composed_paths("top.yaml") == ["base.yaml", "middle.yaml", "top.yaml"]
    assert composed_settings("top.yaml") == {"trainer": {"max_steps": 2, "devices": 1}, "seed_everything": 3}
    (tmp_path / "base.yaml").write_text("include: [top.yaml]")
    with pytest.raises(ValueError, match=r"include each other: top\.yaml -> middle\.yaml -> base\.yaml -> top\.yaml"):
        composed_paths("top.yaml")
    (tmp_path / "base.yaml").write_text("include: top.yaml")
    with pytest.raises(ValueError, match=r"base\.yaml: include must be a list of configurations .* got 'top\.yaml'"):
        composed_paths("base.yaml")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"trainer: {", "no valid YAML"), (b"[1]", "named settings"), (b"seed: \xba", "UTF-8")],
)
def test_a_damaged_configuration_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "damaged.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"damaged\.yaml.*{problem}"):
        composed_settings(str(tmp_path / "damaged.yaml"))


def test_another_folder_of_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/ours.yaml").write_text("seed_everything: 1")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert config_path("papers/ours") == str(tmp_path / "papers/ours.yaml")
