"""Adapters under every strategy that shards weights: trained, resumed, merged and saved as on one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import STRATEGIES, losses, run_on
from recipes import save_model
from strategy_runs import STEPS, TWO, fit, write_recipe
from transformers import AutoModelForCausalLM
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.commands.export import export_checkpoint
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.sharding.checkpoint_weights import checkpoint_weights

pytestmark = pytest.mark.distributed

ADAPTED = {"lora": ["fsdp2", "tensor", "sequence", "zero2", "zero3"], "dora": ["fsdp2"]}
"""Strategies by kind of adapter; one device and DDP hold whole weights, as test_adapters.py trains them."""

RESUMED = {"fsdp2": "fsdp2", "tensor": "one", "one": "fsdp2", "zero2": "zero2"}
"""Where adapters are trained on from whose checkpoint."""

HALFWAY = f"step={STEPS // 2}.ckpt"


@pytest.fixture(scope="module")
def runs(program: WarmProgram, tmp_path_factory: pytest.TempPathFactory, toybench: Path) -> Path:
    """Adapters on one process, and under all strategies in one start of two."""
    folder = tmp_path_factory.mktemp("adapter_strategies")
    save_model("opt", folder, len(load_tokenizer(str(toybench / "tokenizer"))))
    commands: list[dict[str, Any]] = []
    targets = ["q_proj", "v_proj", "out_proj", "fc1", "fc2"]
    for kind, names in ADAPTED.items():
        lora = {"r": 4, "alpha": 8, "target_modules": targets, "dora": kind == "dora"}
        optimizer = {"learning_rate": 0.02, "options": {"eps": 1e-4}}  # Adam enlarges rounding of gradients below eps
        arguments = {"pretrained": str(folder / "opt"), "optimizer": optimizer, "lora": lora}
        model = {"class_path": "InstructionTuningModule", "init_args": arguments}
        recipe = write_recipe(folder / f"{kind}.yaml", toybench, model, {})
        main(fit(recipe, f"{kind}_one", *exporting(folder, f"{kind}_one")))
        commands += [
            {"words": fit(recipe, f"{kind}_{name}", *TWO, *STRATEGIES[name], *exporting(folder, f"{kind}_{name}"))}
            for name in names
        ]
    for name in ("tensor", "zero3"):
        rejected = {"words": fit(recipe, "no", *TWO, *STRATEGIES[name]), "skipped": "lora.dora reads whole rows"}
        commands.append(rejected)
    for name, source in RESUMED.items():
        if name != "one":
            words = [*TWO, *STRATEGIES[name], f"--ckpt_path={folder}/lora_{source}/{HALFWAY}"]
            commands.append({"words": fit(folder / "lora.yaml", f"lora_resumed_{name}", *words)})
    run_on(program, 2, commands, folder)
    main(fit(folder / "lora.yaml", "lora_resumed_one", f"--ckpt_path={folder}/lora_{RESUMED['one']}/{HALFWAY}"))
    return folder


def exporting(folder: Path, name: str) -> list[str]:
    return ["--trainer.callbacks+=HuggingFaceExport", f"--trainer.callbacks.folder={folder / 'exported' / name}"]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in ADAPTED.items() for name in names])
def test_adapters_train_and_merge_as_on_one_process(runs: Path, kind: str, name: str) -> None:
    alone = losses(runs / f"run/{kind}_one")
    assert len(set(alone)) == STEPS
    assert losses(runs / f"run/{kind}_{name}") == pytest.approx(alone, rel=2e-5)
    expected, merged = (
        AutoModelForCausalLM.from_pretrained(runs / "exported" / f"{kind}_{each}").state_dict()
        for each in ("one", name)
    )
    base = AutoModelForCausalLM.from_pretrained(runs / "opt").state_dict()
    for key, value in merged.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=2e-4, msg=key)
        adapted = key.endswith(tuple(f"{name}.weight" for name in ("q_proj", "v_proj", "out_proj", "fc1", "fc2")))
        assert torch.equal(value, base[key]) != adapted, key


@pytest.mark.parametrize("name", RESUMED)
def test_adapters_resume_under_every_strategy(runs: Path, name: str) -> None:
    undisturbed = losses(runs / "run/lora_one")
    assert losses(runs / f"run/lora_resumed_{name}") == pytest.approx(undisturbed[STEPS // 2 :], rel=2e-5)


@pytest.mark.parametrize("name", ADAPTED["lora"])
def test_a_checkpoint_holds_adapters_alone_and_becomes_a_folder(runs: Path, name: str, tmp_path: Path) -> None:
    checkpoint = runs / f"lora_{name}" / f"step={STEPS}.ckpt"
    assert all(".lora_" in key for key, _ in checkpoint_weights(checkpoint))
    export_checkpoint([str(checkpoint), str(tmp_path / "hf")])
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    at_end = AutoModelForCausalLM.from_pretrained(runs / "exported" / f"lora_{name}").state_dict()
    for key, value in exported.items():
        torch.testing.assert_close(value, at_end[key], rtol=1e-6, atol=1e-6, msg=key)
