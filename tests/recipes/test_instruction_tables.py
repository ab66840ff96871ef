"""Tables 2 and 3 of arXiv 2306.10098 on real files: what each row trains and tests, and that all of them start."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from bilevel_runs import CONFIGS, T5, texts

from crosstask.commands.shared.linked_cli import LinkedCLI
from crosstask.datamodules.bilevel.bilevel_stream import BilevelPlan
from crosstask.datamodules.bilevel.level_instances import Instance
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder"),
]

TEXTS = Path(__file__).parent / "instruction_table_texts"
ROWS = sorted(path.stem for path in (CONFIGS / "papers/instruction_tables").glob("*.yaml"))
TRAINED, TESTED = "task1147_country_currency", "task1195_disflqa_disfluent_to_fluent_conversion"
FEW = ("task062_bigbench_repeat_copy_logic", "task628_xlwic_word_with_different_meaning_sentence_generation")
"""The training tasks with 29 and 39 instances, of which 10 are validated."""


def table_run(row: str, toybench: Path, *words: str) -> LinkedCLI:
    """The row as it ships, on the files that are available, with a tiny model; K = 2, so that phi moves at step 2."""
    options = {
        "model.init_args.config": str(T5),
        "model.init_args.optimizer.warmup": "1",
        "data.init_args.tokenizer": str(toybench / "tokenizer"),
        "data.init_args.benchmark.init_args.splits": "splits/bundle",
        "data.init_args.levels.inner_steps": "2",
        "trainer.callbacks": "[]",
        "trainer.accelerator": "cpu",
        "trainer.max_steps": "2",
        "trainer.logger": "false",
        "trainer.enable_checkpointing": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.limit_val_batches": "0",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    row_words = ["--config", f"papers/instruction_tables/{row}", *given, *words]
    return LinkedCLI(row_words, run=False, save_config_callback=None)


@pytest.fixture(scope="module", params=ROWS)
def row(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(row: str, toybench: Path) -> LinkedCLI:
    """The run of a row after its two steps: reading its files takes far longer than the steps."""
    cli = table_run(row, toybench)
    cli.trainer.fit(cli.model, cli.datamodule)
    return cli


def texts_of_row(cli: LinkedCLI) -> str:
    """What the model reads of an inner, an outer and a test instance, and z of the inner one; after ``setup("fit")``.

    z and the outer instance are of the rows that learn an instruction.
    """
    data: Any = cli.datamodule
    data.setup("test")
    plan, tokenizer = data.plan, data.preparation.tokenizer
    assert isinstance(plan, BilevelPlan)
    batch = plan.first_batch(data.inner_tasks.index(TRAINED))
    kind, settings = cli.model.instruction_settings.kind, data.instructions
    instruction = ""
    if kind.endswith("embedder"):
        instruction = f"<{settings.length} embeddings, {kind}>"
    if settings.exemplars:
        assert batch.inputs.exemplar_ids is not None
        assert batch.inputs.exemplar_mask is not None
        count = "" if settings.exemplars == 1 else f"<the first of {settings.exemplars} exemplars>"
        instruction = count + tokenizer.decode(batch.inputs.exemplar_ids[0, 0][batch.inputs.exemplar_mask[0, 0].bool()])
    target = tokenizer.decode(batch.rows.targets[0][batch.rows.targets[0] >= 0])
    written = f"{instruction}{texts(data, batch.rows)[0]}\n=== target\n{target}\n"
    if plan.outer:
        outer = plan.rows.prompt(plan.outer, Instance(0, 0))
        written += f"=== z\n{tokenizer.decode(batch.inputs.pair_ids[0][batch.inputs.pair_mask[0].bool()])}\n"
        written += f"=== outer\n{outer.source}\n=== target\n{outer.target}\n"
    tested = next(example for example in data.stage("test").examples if example.task == TESTED)
    return f"{written}=== test\n{tested.source}\n"


def test_a_row_reads_as_its_golden(row: str, trained: LinkedCLI) -> None:
    assert texts_of_row(trained) == (TEXTS / f"{row}.txt").read_text()


def test_there_are_goldens_of_all_13_rows() -> None:
    assert len(ROWS) == 13
    assert [path.stem for path in sorted(TEXTS.glob("*.txt"))] == ROWS


def test_the_other_reading_has_definition_and_exemplar_in_one_order(toybench: Path) -> None:
    prompt, inner = "--data.init_args.prompt.init_args", "--data.init_args.levels.inner_prompt.init_args"
    words = [f"{prompt}.definition=true", f"{prompt}.demonstrations_first=true", f"{inner}.definition=true"]
    cli = table_run("direct_extractor", toybench, *words, "--data.init_args.instructions.numbered=true")
    cli.datamodule.setup("fit")
    for text in texts_of_row(cli).split("=== test\n"):
        assert 0 <= text.index(" Positive Example 1 -") < text.index("Definition: ") < text.index("Now complete")


def test_a_row_starts_and_trains_two_steps(row: str, trained: LinkedCLI) -> None:
    cli, module, data = trained, trained.model, trained.datamodule
    assert isinstance(module, InstructionOptimizationModule)
    assert isinstance(data, InstructionOptimizationDataModule)
    learned = row.endswith(("embedder", "extractor"))
    assert (cli.trainer.global_step, module.outer_step) == (2, int(learned))
    assert torch.isfinite(cli.trainer.callback_metrics["train/inner_loss"])
    if learned:
        assert cli.trainer.callback_metrics["train/hypergradient_norm"] > 0
    if not row.endswith("extractor"):
        return
    assert data.plan is not None
    assert dict(data.report().lines())["inner tasks that repeat exemplars"] == "2"
    for name in FEW:
        place = data.inner_tasks.index(name)
        (examples,) = (task.examples for task in data.plan.inner if task.task.name == name)
        assert len(examples) <= 32  # and the instance itself is none of them
        pools = data.plan.text.pools
        assert pools is not None
        for index, example in enumerate(examples):
            drawn = pools.draw(examples, examples[index])
            assert len(drawn) == 32
            assert all(other is not None and not set(other.targets) & set(example.targets) for other in drawn) or (
                all(other is not None and other.input != example.input for other in drawn)
            )
        assert data.plan.first_batch(place).inputs.exemplar_ids.shape[1] == 32  # type: ignore[union-attr]
