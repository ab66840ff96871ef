"""A pinned revision of the hub is what is loaded, trained, stored and exported; read offline from two snapshots."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recipes import save_model, tuning_data
from transformers import AutoModelForCausalLM

from crosstask.cli import main
from crosstask.datamodules.hub_names import hub_source, with_revision
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.model_digest import model_digest
from crosstask.lightning_modules.sampling.response_sampler import load_generator
from crosstask.lightning_modules.sharding.checkpoints import KEY, checkpoint_extras
from crosstask.lightning_modules.sharding.sharded_models import weights_folder

NAME = "owner/tiny"
FIRST, SECOND = "1" * 40, "2" * 40


def first(model: Any) -> list[float]:
    return model.get_input_embeddings().weight[5, :4].tolist()


@pytest.fixture
def cache(toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of the hub with two revisions of a model: v1, and main."""
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    repository = tmp_path / "hub/models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    for commit, reference, factor in ((FIRST, "v1", 1.0), (SECOND, "main", 2.0)):
        (repository / "refs" / reference).write_text(commit)
        built = save_model("opt", tmp_path / commit, len(tokenizer))
        model = AutoModelForCausalLM.from_pretrained(built)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(factor)
        model.save_pretrained(repository / "snapshots" / commit)
        tokenizer.save_pretrained(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("cache")
def test_a_pinned_revision_is_loaded_trained_stored_and_exported(toybench: Path, tmp_path: Path) -> None:
    data = tuning_data(toybench, tokenizer=NAME, instances={"validation": 1, "test": 3})
    trainer = {"max_steps": 1, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "logger": False}
    writer = {"dirpath": str(tmp_path / "run"), "every_n_train_steps": 1, "save_last": True, "save_top_k": 0}
    trainer |= {"callbacks": [{"class_path": "ModelCheckpoint", "init_args": writer}]}
    model = {"class_path": "InstructionTuningModule", "init_args": {"pretrained": NAME, "optimizer": {"warmup": 1}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))
    vectors = {}
    for revision in (None, "v1", FIRST):
        module = InstructionTuningModule(NAME, NAME, revision=revision, row_length=128)
        module.configure_model()
        vectors[revision] = first(module.model)
    assert vectors["v1"] == vectors[FIRST] == first(load_generator(f"{NAME}@v1", device="cpu")[0])
    assert vectors[None] == pytest.approx([2 * value for value in vectors["v1"]])
    assert model_digest(f"{NAME}@v1") == weights_folder(f"{NAME}@v1").name == FIRST
    main(["fit", "--config", str(tmp_path / "run.yaml"), "--model.revision", "v1"])
    last = tmp_path / "run/last.ckpt"
    extras = checkpoint_extras(last)[KEY]
    assert [extras["pretrained"], extras["tokenizer"]] == [f"{NAME}@v1"] * 2
    main(["export", str(last), str(tmp_path / "run/exported")])
    assert (tmp_path / "run/exported/model.safetensors").is_file()


def test_names_and_revisions(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    assert hub_source(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), {})
    assert hub_source("git@host/path") == ("git@host/path", {})
    assert with_revision("a/b", None) == "a/b"
    assert with_revision("a/b@v1", "v1") == "a/b@v1"
    for name, message in [(None, "not given"), (str(tmp_path), "is a folder"), ("a/b@v2", "another one")]:
        with pytest.raises(ValueError, match=message):
            with_revision(name, "v1")
