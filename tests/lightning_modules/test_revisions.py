"""A pinned revision of the hub is what is loaded, trained, stored and exported; read offline from two snapshots."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from recipes import save_model, tuning_data
from transformers import AutoModelForCausalLM

from crosstask.datamodules.hub_names import hub_source, pinned
from crosstask.datamodules.rendering.tokenization import load_tokenizer

NAME = "owner/tiny"
FIRST, SECOND = "1" * 40, "2" * 40

PROGRAM = """
import json, sys
from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.model_digest import model_digest
from crosstask.lightning_modules.scoring.sampling import load_generator
from crosstask.lightning_modules.sharding.checkpoints import KEY, checkpoint_extras
from crosstask.lightning_modules.sharding.sharded_models import weights_folder

def first(model):
    return model.get_input_embeddings().weight[5, :4].tolist()

shown = {}
for revision in (None, "v1", sys.argv[1]):
    module = InstructionTuningModule("owner/tiny", "owner/tiny", revision=revision, row_length=128)
    module.configure_model()
    shown[str(revision)] = first(module.model)
shown["generator"] = first(load_generator("owner/tiny@v1", device="cpu")[0])
shown["digest"] = model_digest("owner/tiny@v1")
shown["shards"] = weights_folder("owner/tiny@v1").name
main(["fit", "--config", sys.argv[2], "--model.revision", "v1"])
folder = sys.argv[3]
extras = checkpoint_extras(__import__("pathlib").Path(folder, "last.ckpt"))
shown["stored"] = [extras[KEY]["pretrained"], extras[KEY]["tokenizer"]]
main(["export", folder + "/last.ckpt", folder + "/exported"])
print(json.dumps(shown))
"""


@pytest.fixture
def cache(toybench: Path, tmp_path: Path) -> Path:
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
    return tmp_path / "hub"


def test_a_pinned_revision_is_loaded_trained_stored_and_exported(cache: Path, toybench: Path, tmp_path: Path) -> None:
    data = tuning_data(toybench, tmp_path / "store", tokenizer=NAME, instances={"validation": 1, "test": 3})
    trainer = {"max_steps": 1, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "logger": False}
    writer = {"dirpath": str(tmp_path / "run"), "every_n_train_steps": 1, "save_last": True, "save_top_k": 0}
    trainer |= {"callbacks": [{"class_path": "ModelCheckpoint", "init_args": writer}]}
    model = {"class_path": "InstructionTuningModule", "init_args": {"pretrained": NAME, "optimizer": {"warmup": 1}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))
    words = [FIRST, str(tmp_path / "run.yaml"), str(tmp_path / "run")]
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["v1"] == shown[FIRST] == shown["generator"]
    assert shown["None"] == pytest.approx([2 * value for value in shown["v1"]])
    assert shown["digest"] == shown["shards"] == FIRST
    assert shown["stored"] == [f"{NAME}@v1"] * 2
    assert (tmp_path / "run/exported/model.safetensors").is_file()


def test_names_and_revisions(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    assert hub_source(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), {})
    assert hub_source("git@host/path") == ("git@host/path", {})
    assert pinned("a/b", None) == "a/b"
    assert pinned("a/b@v1", "v1") == "a/b@v1"
    for name, message in [(None, "not given"), (str(tmp_path), "is a folder"), ("a/b@v2", "another one")]:
        with pytest.raises(ValueError, match=message):
            pinned(name, "v1")
