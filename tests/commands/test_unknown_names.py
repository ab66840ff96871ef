"""What the command line answers to a class or an option that is not there."""

from pathlib import Path

import pytest
import yaml

from crosstask.cli import main
from crosstask.datamodules.messages import unknown_class_hint


def test_an_unknown_reader_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = {"class_path": "PromptSorce", "init_args": {"templates": "x"}}
    bench = {"class_path": "Bench", "init_args": {"collections": {"promptsource": reader}}}
    data = {"class_path": "InstructionTuningDataModule", "init_args": {"benchmark": bench, "tokenizer": "x"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": data}))
    for command in ("fit", "describe"):
        with pytest.raises(SystemExit):
            main([command, "--config", str(tmp_path / "run.yaml")])
        assert "no class is called PromptSorce, nearest: PromptSource" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no reader or file is called 'BigBenchHrd', nearest: BigBenchHard"):
        main(["tokenizer", "--benchmark", "BigBenchHrd", "--folder", str(tmp_path / "tokenizer")])


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"no command 'sampels', nearest: samples, .*; there are adapt, .*, fit, .*, validate"
    ):
        main(["sampels", "--generator", "x"])


def test_a_module_of_ones_own_that_is_not_found_is_no_misspelt_class(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(
            ["plan", "--config", "instruction_optimization_toybench", "--data.init_args.split", "my_project.splits.Own"]
        )
    said = capsys.readouterr().err
    assert "Python finds no module my_project: add its folder to PYTHONPATH" in said
    assert "no class is called" not in said


def test_other_errors_are_left_alone() -> None:
    assert unknown_class_hint("Expected a value", ["P3"]) == ""
    assert (
        unknown_class_hint("module 'a.b' has no attribute 'P4'", ["P3"])
        == "; no class is called P4, none has a similar name"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.rows.lenght", "64"], "InstructionTuningDataModule has no option 'rows.lenght', nearest: rows.length"),
        (["--model.optimizer.lr", "1"], "'optimizer.lr', there are optimizer.learning_rate, optimizer.warmup, "),
        (["--data.benchmark.foldr", "x"], "NaturalInstructions has no option 'foldr', nearest: folder"),
        (["--trainer.max_step", "5"], "the trainer has no option 'max_step', nearest: max_steps"),
        (["--model.optimizer.learning_rate", "high"], "Expected a <class 'float'>. Got value: high"),
    ],
)
def test_a_misspelt_option_is_answered_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", "quickstart", *words])
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
