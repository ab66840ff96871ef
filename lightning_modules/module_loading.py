"""A module of crosstask with the weights of a checkpoint, built without a trainer."""

from pathlib import Path

from .instruction_optimization import InstructionOptimizationModule
from .instruction_tuning import InstructionTuningModule
from .planned_training import PlannedTraining
from .scorer import ScorerModule
from .sharding.checkpoint_weights import module_weights
from .sharding.checkpoints import KEY, checkpoint_extras

MODULES: dict[str, type[PlannedTraining]] = {
    kind.__name__: kind for kind in (InstructionTuningModule, InstructionOptimizationModule, ScorerModule)
}


def load_module(name: str, checkpoint: Path) -> PlannedTraining:
    """Build a LightningModule by its class name, and load a checkpoint's weights and learned instructions.

    Args:
        name: Name of the module's class, e.g. "ScorerModule".
        checkpoint: Checkpoint of any strategy.

    Raises:
        ValueError: There is no such module, or the checkpoint does not fit it.
    """
    if name not in MODULES:
        raise ValueError(f"a checkpoint of {', '.join(MODULES)} can be restored, and this one is of {name}")
    extras = checkpoint_extras(checkpoint)
    module = MODULES[name](**extras["hyper_parameters"])
    module.configure_model()
    if isinstance(module, InstructionOptimizationModule) and "instruction" in extras[KEY]:
        module.add_instruction(len(extras[KEY]["instruction"]["tasks"]))
    unknown = module.load_state_dict(dict(module_weights(checkpoint)), strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"{checkpoint} does not fit {name}: it has {unknown[0]}")
    return module
