"""Adapters that would never change are rejected: unknown targets, and modules that the loss does not depend on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SmallRuns, small_trainer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, OPTConfig

from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.adapters import LoRA, add_adapters
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.untrained_adapters import require_trained

STACKS = {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in
          (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory, toybench: Path) -> str:
    """A BART whose embeddings are untied: its forward calls those of the stacks, and `shared` is called by nothing."""
    tokens = len(load_tokenizer(str(toybench / "tokenizer")))
    config = AutoConfig.for_model("bart", vocab_size=tokens, d_model=16, tie_word_embeddings=False, **STACKS)
    folder = tmp_path_factory.mktemp("bart")
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["shared"], "the loss depends on no trained parameter"),
        (["shared", "q_proj"], r"does not depend on shared in lora\.target_modules \(model\.shared\)"),
    ],
)
def test_a_module_that_the_forward_never_calls_is_rejected(
    targets: list[str], said: str, bart: str, small_runs: SmallRuns
) -> None:
    rows = {"packing": "one_per_row", "target_length": 32}
    model = {"config": None, "pretrained": bart, "network": Network(attention="sdpa")}
    module, data = small_runs("tuning", {"rows": rows}, lora=LoRA(r=2, target_modules=targets), **model)
    with pytest.raises(ValueError, match=said):
        small_trainer(1).fit(module, datamodule=data)


def test_a_target_that_fits_no_module_is_rejected_beside_others() -> None:
    shape = {
        "hidden_size": 8,
        "word_embed_proj_dim": 8,
        "ffn_dim": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    model = AutoModelForCausalLM.from_config(OPTConfig(vocab_size=30, **shape))
    with pytest.raises(ValueError, match=r"has query, which no module ends with in OPTForCausalLM, .*'q_proj'"):
        add_adapters(model, LoRA(target_modules=["q_proj", "query"]))


def test_a_model_for_which_peft_chooses_nothing_needs_targets() -> None:
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model("olmo3", vocab_size=30, pad_token_id=0, num_hidden_layers=1, **shape)
    with pytest.raises(ValueError, match=r"no modules for olmo3: set lora\.target_modules to some of \['down_proj', "):
        add_adapters(AutoModelForCausalLM.from_config(config), LoRA())


def test_adapters_without_a_gradient_are_told_from_experts_that_no_token_reached() -> None:
    some = torch.zeros(1)
    reached: list[tuple[str, Any]] = [("a.0.up.lora_A.default.weight", some), ("a.0.up.lora_B.default.weight", some)]
    missed: list[tuple[str, Any]] = [("a.1.up.lora_A.default.weight", None), ("a.1.up.lora_B.default.weight", None)]
    require_trained(reached, ["up"])
    for targets in (["up"], None):
        with pytest.warns(UserWarning, match=r"does not depend on 1 of 2 modules with adapters, e\.g\. a\.1\.up"):
            require_trained([*reached, *missed], targets)
    with pytest.raises(ValueError, match=r"does not depend on 1\.up in lora\.target_modules \(a\.1\.up\)"):
        require_trained([*reached, *missed], ["0.up", "1.up"])
    with pytest.raises(ValueError, match=r"does not depend on any module with adapters \(a\.1\.up\)"):
        require_trained(missed, None)
