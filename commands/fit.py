"""Train a model by the settings of a YAML.

Every setting of the YAML is an option, too: --trainer for Lightning's trainer, --model and --data for classes of
crosstask. Later files and options override earlier ones. If both `pretrained` and `config` of a model are given, the
later one is used. --model.help CLASS and --data.help CLASS explain the arguments of a class.

Example:
    crosstask toybench --folder runs/quickstart/toybench
    crosstask fit --config quickstart
    crosstask fit --config quickstart --trainer.max_steps 100
    crosstask fit --data.help InstructionTuningDataModule
"""

from collections.abc import Sequence

from .shared.trainer import run_and_leave


def run(words: Sequence[str]) -> None:
    """Run the command with the words after ``crosstask fit``."""
    run_and_leave(["fit", *words])
