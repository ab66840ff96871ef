"""Adapters are what is trained, saved and added again; the weights beside them stay as they are."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from peft import PeftModel
from processes import losses
from recipes import save_model
from strategy_runs import STEPS, fit, write_recipe
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, OPTConfig, PreTrainedModel

from crosstask.cli import main
from crosstask.commands.export import export_checkpoint
from crosstask.commands.shared.trainer import run_trainer
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.adapters import (
    LoRA,
    add_adapters,
    describe_adapters,
    merged_weights,
    reject_adapters,
    require_same_base,
    start_adapters,
)
from crosstask.lightning_modules.sharding.safetensors_folder import empty_copy, whole_tensors, write_weights

TARGETS = ["q_proj", "v_proj", "fc1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toybench: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    save_model("opt", folder, len(load_tokenizer(str(toybench / "tokenizer"))))
    return folder


@pytest.fixture(scope="module")
def recipe(folder: Path, toybench: Path) -> Path:
    arguments = {
        "pretrained": str(folder / "opt"),
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1, "target_modules": TARGETS},
        "optimizer": {"learning_rate": 0.05, "warmup": 1},
        "network": {"gradient_checkpointing": True},
    }
    return write_recipe(
        folder / "lora.yaml", toybench, {"class_path": "InstructionTuningModule", "init_args": arguments}, {}
    )


@pytest.fixture(scope="module")
def trained(recipe: Path, folder: Path) -> PreTrainedModel:
    """Four steps on packed rows, with the exporting callback."""
    words = ["--trainer.callbacks+=HuggingFaceExport", f"--trainer.callbacks.folder={folder / 'at_end'}"]
    module: Any = run_trainer([*fit(recipe, "whole"), *words]).model
    return module.language_model.eval()


def logits(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Of one document of every eleventh token."""
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        return model.to(dtype).eval()(torch.arange(5, 90, 11)[None]).logits


def test_an_adapters_gradient_is_that_of_its_matrix() -> None:
    """W + alpha / r * B A with B = 0: dL/dB is alpha / r * dL/dW A^T, and A does not move."""
    shape = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_attention_heads": 2}
    config = {"vocab_size": 30, "num_hidden_layers": 1, "max_position_embeddings": 16, "dropout": 0.0, **shape}
    ids = torch.arange(4, 12)[None]

    def model() -> PreTrainedModel:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(OPTConfig(**config)).double().train()

    plain, adapted = model(), model()
    add_adapters(adapted, LoRA(r=2, alpha=6.0, target_modules=["fc1"]))
    start_adapters(adapted)
    adapted.double()
    for each in (plain, adapted):
        each(ids).logits.square().sum().backward()
    found = adapted.get_submodule("model.decoder.layers.0.fc1")
    a, b = (getattr(found, name)["default"].weight for name in ("lora_A", "lora_B"))
    weight = plain.get_submodule("model.decoder.layers.0.fc1").weight
    assert weight.grad is not None
    torch.testing.assert_close(b.grad, 6.0 / 2 * weight.grad @ a.detach().T)
    assert not a.grad.any()
    assert {name for name, value in adapted.named_parameters() if value.requires_grad} == {
        f"model.decoder.layers.0.fc1.lora_{part}.default.weight" for part in "AB"
    }


def test_only_adapters_are_trained_and_saved(trained: PreTrainedModel, folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder / "opt").state_dict()
    moved = {name: value for name, value in trained.state_dict().items() if "lora_" in name}
    assert len(moved) == 2 * 2 * len(TARGETS)
    assert all(value.any() for name, value in moved.items() if "lora_B" in name)
    for name, value in trained.state_dict().items():
        if name not in moved:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name
    checkpoint = torch.load(folder / f"whole/step={STEPS}.ckpt", weights_only=False)
    assert set(checkpoint["state_dict"]) == {f"model.{name}" for name in moved}
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(moved)


def test_merged_weights_answer_as_the_adapters_do(trained: PreTrainedModel, folder: Path) -> None:
    export_checkpoint([str(folder / f"whole/step={STEPS}.ckpt"), str(folder / "exported")])
    merged, at_end = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("exported", "at_end"))
    assert {name: value.tolist() for name, value in merged.state_dict().items()} == {
        name: value.tolist() for name, value in at_end.state_dict().items()
    }
    expected = logits(trained)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder / "opt")), expected, atol=1e-3)


def test_a_run_of_adapters_resumes(trained: PreTrainedModel, recipe: Path, folder: Path) -> None:
    main(fit(recipe, "half", f"--ckpt_path={folder / f'whole/step={STEPS // 2}.ckpt'}"))
    assert losses(folder / "run/half") == pytest.approx(losses(folder / "run/whole")[STEPS // 2 :], rel=1e-6)


def test_what_adapters_do_not_belong_to_is_rejected(trained: PreTrainedModel, recipe: Path, folder: Path) -> None:
    lora = LoRA(r=4, alpha=8, target_modules=TARGETS)
    described = describe_adapters(trained, lora, "somewhere")
    require_same_base(trained, lora, described, "it")
    with pytest.raises(ValueError, match=r"it holds adapters of LoRA\(r=4, .* expected LoRA\(r=8"):
        require_same_base(trained, LoRA(r=8), described, "it")
    with pytest.raises(ValueError, match=r"called \[.*'out_proj'"):
        add_adapters(AutoModelForCausalLM.from_pretrained(folder / "opt"), LoRA(target_modules=["query"]))
    other = AutoModelForCausalLM.from_pretrained(folder / "opt")
    other.get_submodule("model.decoder.layers.1.fc2").weight.data += 1e-3
    other.save_pretrained(folder / "other")
    resumed = fit(recipe, "no", f"--ckpt_path={folder / f'whole/step={STEPS}.ckpt'}")
    with pytest.raises(ValueError, match="adapters of other weights"):
        main([*resumed, f"--model.init_args.pretrained={folder / 'other'}"])
    last = AutoModelForCausalLM.from_pretrained(folder / "opt")
    last.get_submodule("model.decoder.embed_tokens").weight.data[-1, -1] += 1e-3  # a single number at the end
    last.save_pretrained(folder / "last")
    with pytest.raises(ValueError, match="adapters of other weights"):
        main([*resumed, f"--model.init_args.pretrained={folder / 'last'}"])
    with pytest.raises(
        ValueError, match="lora trains under auto, ddp, ShardedStrategy and DeepSpeed, got FSDPStrategy"
    ):
        reject_adapters(lora, FSDPStrategy())


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_adapters_of_tied_embeddings_are_rejected(name: str, folder: Path) -> None:
    """A matrix with two names is merged once, so that an adapter of its other use would be lost."""
    with pytest.raises(ValueError, match=r"ties its head .* leave them out of lora\.target_modules"):
        add_adapters(AutoModelForCausalLM.from_pretrained(folder / "opt"), LoRA(target_modules=[name]))


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_of_an_untied_head_are_merged(dora: bool) -> None:
    shape = {
        "hidden_size": 8,
        "word_embed_proj_dim": 8,
        "ffn_dim": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    config = AutoConfig.for_model("opt", vocab_size=30, tie_word_embeddings=False, **shape)
    model = AutoModelForCausalLM.from_config(config).eval()
    base, ids = copy.deepcopy(model), torch.arange(4, 12)[None]
    add_adapters(model, LoRA(r=2, target_modules=["lm_head"], dora=dora))
    start_adapters(model)
    model.lm_head.lora_B["default"].weight.data.normal_()
    expected = model(ids).logits
    assert (expected - base(ids).logits).norm() > 0.05 * expected.norm()
    base.load_state_dict(dict(merged_weights(model)))
    torch.testing.assert_close(base(ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["opt", "gpt2"])
@pytest.mark.parametrize("dora", [False, True])
def test_merged_matrices_compute_what_adapters_do(kind: str, dora: bool) -> None:
    torch.manual_seed(0)
    opt = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    shapes = {"opt": opt, "gpt2": {"n_embd": 8, "n_head": 2, "n_layer": 1, "tie_word_embeddings": False}}
    targets = {
        "opt": ["q_proj", "fc2"],
        "gpt2": ["c_attn", "c_fc", "wte"],
    }  # GPT-2 stores matrices as inputs by outputs
    config = AutoConfig.for_model(kind, vocab_size=30, bos_token_id=0, eos_token_id=1, **shapes[kind])
    model = AutoModelForCausalLM.from_config(config).double().eval()
    base, ids = copy.deepcopy(model), torch.arange(4, 12)[None]
    add_adapters(model, LoRA(r=2, alpha=6.0, target_modules=targets[kind], dora=dora))
    start_adapters(model)
    model.double()
    torch.testing.assert_close(model(ids).logits, base(ids).logits)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    expected = model(ids).logits
    assert (expected - base(ids).logits).norm() > 0.05 * expected.norm()
    base.load_state_dict(dict(merged_weights(model)), strict=False)
    torch.testing.assert_close(base(ids).logits, expected, rtol=1e-5, atol=1e-6)  # merged in float32


def test_merged_weights_are_written_with_the_models_buffers(tmp_path: Path) -> None:
    """BART has a bias of its logits, and a mixture of experts the bias of its choice, which are no parameters."""
    shape = {f"{stack}_{part}": 2 for stack in ("encoder", "decoder") for part in ("attention_heads", "ffn_dim")}
    shape |= {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "max_position_embeddings": 16}
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("bart", vocab_size=30, **shape)).eval()
    model.final_logits_bias.normal_()
    ids = torch.arange(4, 12)[None]
    expected = model(ids, decoder_input_ids=ids).logits
    tensors = dict(whole_tensors(model))
    add_adapters(model, LoRA(r=2, target_modules=["q_proj"]))
    start_adapters(model)
    for name, each in (("merged", dict(merged_weights(model))), ("whole", tensors)):
        write_weights(each.items(), empty_copy(model), tmp_path / name, dtype=torch.float64)
        read = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        torch.testing.assert_close(read(ids, decoder_input_ids=ids).logits, expected)


def test_adapters_alone_are_a_folder_of_peft(trained: PreTrainedModel, folder: Path) -> None:
    export_checkpoint([str(folder / f"whole/step={STEPS}.ckpt"), str(folder / "peft")], adapters="alone")
    base = AutoModelForCausalLM.from_pretrained(folder / "opt")
    loaded = PeftModel.from_pretrained(base, folder / "peft")
    torch.testing.assert_close(logits(loaded.base_model.model), logits(trained), rtol=1e-6, atol=1e-6)
    assert loaded.peft_config["default"].base_model_name_or_path == str(folder / "opt")
    assert len(list((folder / "peft").glob("*.safetensors"))) == 1


def test_frozen_matrices_may_be_in_four_bits(trained: PreTrainedModel, recipe: Path, folder: Path) -> None:
    """Trained, resumed, and merged into what the adapters and the matrices of 4 bits compute."""
    pytest.importorskip("bitsandbytes")
    words = ["--model.init_args.lora.bits=4"]
    module: Any = run_trainer(fit(recipe, "four_bits", *words)).model
    model = module.language_model.eval()
    kinds = {type(part).__name__ for name, part in model.named_parameters() if name.endswith("k_proj.weight")}
    assert kinds == {"Params4bit"}
    halfway = f"--ckpt_path={folder / f'four_bits/step={STEPS // 2}.ckpt'}"
    main(fit(recipe, "four_bits_resumed", *words, halfway))
    expected = losses(folder / "run/four_bits")
    assert losses(folder / "run/four_bits_resumed") == pytest.approx(expected[STEPS // 2 :], rel=1e-6)
    assert expected == pytest.approx(losses(folder / "run/whole"), rel=0.1)
    assert expected != losses(folder / "run/whole")

    export_checkpoint([str(folder / f"four_bits/step={STEPS}.ckpt"), str(folder / "four_bits_merged")])
    merged = AutoModelForCausalLM.from_pretrained(folder / "four_bits_merged")
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-5, atol=1e-5)


def test_frozen_weights_may_be_of_half_precision(recipe: Path, folder: Path) -> None:
    """As in papers/opt_iml_6.7b_lora: bfloat16 beside adapters in float32."""
    words = ["--trainer.precision=bf16-mixed", "--model.init_args.network.dtype=bfloat16", "--trainer.max_steps=2"]
    module: Any = run_trainer(fit(recipe, "half_precision", *words)).model
    types = {"lora_" in name: value.dtype for name, value in module.language_model.named_parameters()}
    assert types == {False: torch.bfloat16, True: torch.float32}
    assert {value.dtype for _, value in merged_weights(module.language_model)} == {torch.bfloat16}
    assert losses(folder / "run/half_precision") == pytest.approx(losses(folder / "run/whole")[:2], rel=0.02)
