"""Settings that are rejected when an object is constructed, before data is prepared or weights are read."""

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest

from crosstask.commands.adapt import adapt_tasks
from crosstask.commands.classify import classify_tasks
from crosstask.commands.samples import write_samples
from crosstask.commands.select import select_samples
from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.rendering.demonstrations import Demonstrations
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.scorer_settings import PairRows
from crosstask.lightning_modules import InstructionTuningModule, ScorerModule
from crosstask.lightning_modules.adaptation.scorer_training import ScorerTraining
from crosstask.lightning_modules.adapters import LoRA
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.instructions.instruction_kinds import Representation
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.trainer_checks import reject_spawned_processes

NAN, INF = float("nan"), float("inf")
NOTHING: Any = None  # an argument that is never read
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
LONGT5 = {"model_type": "longt5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}

REJECTED: dict[str, tuple[Callable[[], Any], str]] = {
    "t5 without a start": (lambda: InstructionTuningModule("t", config=T5), "t5 names no decoder_start_token_id"),
    "longt5 without": (lambda: InstructionTuningModule("t", config=LONGT5), "longt5 names no decoder_start_token_id"),
    "scorer of t5": (lambda: ScorerModule("t", config=T5, row_length=0), "rows.length must be at least 1, got 0"),
    "model type": (
        lambda: InstructionTuningModule("t", config={"model_type": "lama"}),
        "'lama' in transformers; nearest",
    ),
    "row": (
        lambda: InstructionTuningModule("t", pretrained="p", row_length=0),
        "rows.length must be at least 1, got 0",
    ),
    "attention": (lambda: Network(attention="documents"), "no attention 'documents'; nearest: document"),
    "rate nan": (lambda: Optimization(learning_rate=NAN), "learning_rate .* at least 0, got nan"),
    "rate inf": (lambda: Optimization(learning_rate=INF), "learning_rate .* finite .*, got inf"),
    "rate": (lambda: Optimization(learning_rate=-1e-5), "at least 0, got -1e-05"),
    "temperature": (lambda: Decoding(sampling=True, temperature=NAN), "temperature"),
    "label temperature": (lambda: ScorerModule("t", pretrained="p", label_temperature=NAN), "positive, got nan"),
    "lora rank": (lambda: LoRA(r=0), "rank r of at least 1, .* got 0"),
    "lora alpha": (lambda: LoRA(alpha=NAN), "alpha above 0"),
    "lora targets": (lambda: LoRA(target_modules=[]), "target_modules needs names"),
    "width": (lambda: Representation(width=0), "width must be at least 1"),
    "exponent": (lambda: Demonstrations(exponent=NAN), "exponent must be finite"),
    "labels": (lambda: OptionRanking(labels=-1), "labels must be 0"),
    "budget": (
        lambda: Evaluation(max_new_tokens=64, batch_tokens=64),
        "batch_tokens = 64 leave no room for a prompt beside",
    ),
    "answers": (lambda: Evaluation(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
    "shots": (lambda: Evaluation(shots=[0, -2]), "different numbers of at least 0"),
    "rows": (lambda: Rows(length=0), "rows.length must be at least 1, got 0"),
    "pairs": (lambda: PairRows(length=100, pair_length=101), "pair_length = 101 exceeds rows.length = 100"),
    "scorer rate": (lambda: ScorerTraining(learning_rate=NAN), "learning_rate .* got nan"),
    "scorer pairs": (lambda: ScorerTraining(row_length=64), "pair_length = 512 exceeds rows.length = 64"),
    "scorer calibration": (lambda: ScorerTraining(calibration_examples=-1), "calibration_examples must be at least 0"),
    "sampled shots": (lambda: SampledExamples(NOTHING, shots=-1), "examples.shots must be at least 0, got -1"),
    "sampled parts": (lambda: SampledExamples(NOTHING, parts=["dev"]), r"parts must be some of .* got \['dev'\]"),  # type: ignore[list-item]
    "new tokens": (
        lambda: write_samples(NOTHING, "o", "g", max_new_tokens=0),
        "max_new_tokens must be at least 1, got 0",
    ),
    "sources": (lambda: write_samples(NOTHING, "o", "g", max_source=0), "max_source must be at least 1, got 0"),
    "pair length": (lambda: classify_tasks(NOTHING, "o", "s", max_length=0), "max_length must be at least 1, got 0"),
    "sizes": (lambda: select_samples(NOTHING, [], "o", sizes=[4, 0]), "sizes must be at least 1, got 0"),
    "test examples": (
        lambda: adapt_tasks(NOTHING, [], "o", NOTHING, test_examples=0),
        "test_examples must be at least 1",
    ),
}


@pytest.mark.parametrize("setting", REJECTED)
def test_a_setting_is_rejected_where_it_is_given(setting: str) -> None:
    build, message = REJECTED[setting]
    with pytest.raises(ValueError, match=message):
        build()


def test_a_datamodule_needs_a_tokenizer_and_processes(toybench: Any, tmp_path: Any) -> None:
    """Commands that read no tokens accept an empty name of a tokenizer, as recipes of evaluation have it."""
    benchmark = NaturalInstructions(str(toybench))
    with pytest.raises(ValueError, match="no tokenizer is named"):
        InstructionTuningDataModule(benchmark, "", cache=str(tmp_path / "store")).prepare_data()
    assert not (tmp_path / "store").exists()
    with pytest.raises(ValueError, match=r"data\.processes must be at least 1, got 0"):
        InstructionTuningDataModule(benchmark, "t", processes=0)


def test_a_tokenizer_without_tokens_for_text_is_rejected(tmp_path: Any) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokens for text"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_true"])
def test_copies_of_the_process_are_rejected(strategy: str) -> None:
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"starts copies of this process .* set trainer.strategy to ddp"):
        reject_spawned_processes(trainer)


def test_ddp_and_one_device_are_accepted() -> None:
    for strategy in ("ddp", "auto"):
        trainer = L.Trainer(accelerator="cpu", devices=1, strategy=strategy, logger=False, enable_checkpointing=False)
        reject_spawned_processes(trainer)
