"""The ablations of OPT-IML: every arm is a valid run, and the published numbers are those of the paper's tables."""

from pathlib import Path

import pytest
import yaml

import crosstask
from crosstask.commands.shared.settings_reader import SettingsReader
from crosstask.commands.shared.sweep_declarations import Sweep, read_sweep
from crosstask.commands.shared.sweep_runs import SweepRun, sweep_runs

CONFIGS = Path(crosstask.__file__).parent / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "papers/ablations").glob("*.yaml"))


def ablation(name: str) -> Sweep:
    return read_sweep(f"papers/ablations/{name}")


def runs_of(name: str, folder: Path) -> dict[str, SweepRun]:
    return {run.arm: run for run in sweep_runs(ablation(name), folder, model="facebook/opt-1.3b")}


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_of_every_ablation_is_a_run_that_the_trainer_accepts(name: str, tmp_path: Path) -> None:
    """The second one: arms of a table set the same options, and the first may set none."""
    run = list(runs_of(name, tmp_path).values())[1]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(run.settings)))
    settings = SettingsReader("test", ["--config", str(path)]).settings
    assert settings["model"]["init_args"]["pretrained"] == "facebook/opt-1.3b"
    data = settings["data"]["init_args"]
    assert (data["evaluation"]["shots"], data["mixture"]["extra"]["pretraining"]["unit"]) == ([0, 5], "rows")


def test_arms_differ_in_what_their_table_varies(tmp_path: Path) -> None:
    caps = [run.settings["data"]["init_args"]["mixture"]["cap"] for run in runs_of("caps", tmp_path).values()]
    assert caps == [128, 256, 512, 1024, 2048, 4096, 8192, 16384, None]
    for arm, run in runs_of("proportions", tmp_path).items():
        shares = run.settings["data"]["init_args"]["mixture"]["proportions"]
        assert "/".join(f"{100 * share:.0f}" for share in shares.values()) == arm
        assert list(shares) == "crossfit exmix flan super_natural_instructions promptsource t5 unifiedskg".split()
    for name, shares in (("reasoning", [0, 0.01, 0.02, 0.04]), ("pretraining", [0, 0.01, 0.05, 0.1, 0.5])):
        mixtures = [run.settings["data"]["init_args"]["mixture"] for run in runs_of(name, tmp_path).values()]
        assert [mixture["extra"][name]["share"] for mixture in mixtures] == shares
    forms = [run.settings["data"]["init_args"].get("demonstrations") for run in runs_of("metaicl", tmp_path).values()]
    assert [form and (form["exponent"], form.get("suffix_loss", False)) for form in forms] == [
        None,
        (4.0, False),
        (4.0, True),
        (2.0, False),
        (2.0, True),
    ]


def published(name: str) -> dict[str, dict[str, tuple[float, ...]]]:
    table = ablation(name).published
    assert table is not None
    return {arm: dict(columns) for arm, columns in table.scores.items()}


@pytest.mark.parametrize("name", ["dialogue", "metaicl"])
def test_the_papers_averages_are_the_means_of_its_columns(name: str) -> None:
    """A column without a five-shot score (summarization) counts zero-shot only."""
    for arm, columns in published(name).items():
        average = columns.pop("Average")
        for place, stated in enumerate(average):
            cells = [numbers[place] for numbers in columns.values() if len(numbers) > place]
            assert len(cells) == (12, 10)[place]
            assert sum(cells) / len(cells) == pytest.approx(stated, abs=0.06), (arm, place)


def test_the_pooled_means_of_table_5_order_the_proportions_as_the_paper_does() -> None:
    pooled = {
        arm: sum(number for numbers in columns.values() for number in numbers) / sum(map(len, columns.values()))
        for arm, columns in published("proportions").items()
    }
    best = sorted(pooled, key=pooled.__getitem__, reverse=True)[:3]
    assert best == ["2/1/27/40/27/1/2", "7/1/35/25/28/2/2", "4/2/20/25/45/2/2"]
    assert [round(pooled[arm], 2) for arm in best] == [55.93, 55.79, 55.52]


def test_the_row_of_4096_is_the_baseline_of_the_dialogue_table() -> None:
    caps, dialogue = published("caps")["4096"], published("dialogue")["none"]
    assert caps == {column: numbers for column, numbers in dialogue.items() if column != "Average"}


def test_an_unknown_arm_is_named_with_the_arms_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the sweep has no arm '99'; there are 128, 256, 512, .*16384"):
        sweep_runs(ablation("caps"), tmp_path, arms=["99"])
