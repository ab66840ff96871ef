"""Analyse the learned instructions of a checkpoint: a map, distances between tasks, nearest tokens.

The files are those that the callback InstructionAnalysis writes at the end of training. All options of `crosstask fit`
are accepted, and those of the data are used: they must be those of the training.

Example:
    crosstask instructions --config instruction_optimization_toybench \\
      --checkpoint runs/instruction_optimization/checkpoints/last.ckpt --folder runs/instructions
"""

from collections.abc import Sequence

from ..datamodules.atomic_files import require_new, whole_folder
from ..datamodules.messages import expanded
from .shared.run_settings import Settings, build_data, run_on_settings


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_on_settings(draw_instructions, words)


def draw_instructions(settings: Settings, checkpoint: str, folder: str, categories: int = 20, tokens: int = 3) -> None:
    """Write the analysis of a checkpoint's learned instructions.

    Args:
        settings: Settings of the run.
        checkpoint: Checkpoint of a training with InstructionOptimizationModule. If the training had the callback
            InstructionAnalysis, the checkpoint also has the initial instructions and the training curves.
        folder: Folder to write into; it must be new or empty.
        categories: Number of categories on the map, those with the most tasks first.
        tokens: Number of nearest vocabulary tokens that are listed for each embedding of a task's instruction.

    Raises:
        ValueError: The checkpoint has no learned instructions, or those of other tasks than the data's.
    """
    from ..callbacks.instruction_analysis import InstructionAnalysis, draw_curves, write_analysis
    from ..callbacks.instruction_states import instruction_states
    from ..datamodules.instruction_optimization import InstructionOptimizationDataModule
    from ..lightning_modules.instruction_optimization import InstructionOptimizationModule
    from ..lightning_modules.instructions.stored_instructions import require_same_vocabulary
    from ..lightning_modules.module_loading import load_module
    from ..lightning_modules.sharding.checkpoints import KEY, checkpoint_extras

    target, path = expanded(folder), expanded(checkpoint)
    require_new(target)
    extras = checkpoint_extras(path)
    described = extras.get(KEY, {}).get("instruction", {})
    tasks = described.get("tasks")
    if tasks is None:
        raise ValueError(f"{checkpoint} has no learned instructions: it was written by another module or command")
    if described["kind"] == "none":
        raise ValueError(f"{checkpoint} was trained with instruction.kind none: it has no instructions to draw")
    data = build_data(settings)
    if not isinstance(data, InstructionOptimizationDataModule):
        raise ValueError(f"learned instructions are of InstructionOptimizationDataModule, got {type(data).__name__}")
    data.setup("fit")
    if data.inner_tasks != tasks:
        raise ValueError(
            f"the checkpoint has instructions of {len(tasks)} inner tasks, and the data has {len(data.inner_tasks)} or "
            "others: give the configuration of the training"
        )
    require_same_vocabulary(described, data.preparation.tokenizer)
    module = load_module(InstructionOptimizationModule.__name__, path)
    assert isinstance(module, InstructionOptimizationModule)
    kept = extras.get("callbacks", {}).get(InstructionAnalysis.__qualname__, {})
    states = instruction_states(module, data, kept.get("initial"), tokens)
    with whole_folder(target) as partial:
        write_analysis(states, partial, step=extras["global_step"], categories=categories)
        draw_curves(kept.get("curves", {}), partial)
    print(f"map and distances of learned instructions: {folder}")
