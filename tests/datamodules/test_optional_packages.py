"""A package that only some settings need and that is missing: one sentence, with the command that installs it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CometLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins import BitsandbytesPrecision, TransformerEnginePrecision
from warm_program import WarmProgram

from crosstask.datamodules.optional_packages import missing_package
from crosstask.datamodules.rendering.tokenization import load_tokenizer

NEEDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "tensorboard": (TensorBoardLogger, {"save_dir": "logs"}, "tensorboard"),
    "wandb": (WandbLogger, {}, "wandb"),
    "mlflow": (MLFlowLogger, {}, "mlflow"),
    "comet_ml": (CometLogger, {}, "comet-ml"),
    "bitsandbytes": (BitsandbytesPrecision, {"mode": "nf4"}, "bitsandbytes"),
    "transformer_engine": (TransformerEnginePrecision, {"weights_dtype": None}, "transformer-engine"),
}


@pytest.mark.parametrize("module", NEEDS)
def test_lightnings_optional_classes_name_what_to_install(module: str) -> None:
    if find_spec(module):
        pytest.skip(f"{module} is installed here")
    build, arguments, package = NEEDS[module]
    with pytest.raises(ImportError) as caught:
        build(**arguments)
    assert missing_package(caught.value) == (
        f"the package {package} is not installed, which these settings need: pip install {package}"
    )


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ModuleNotFoundError("No module named 'sklearnX.cluster'", name="sklearnX.cluster"), "sklearnX"),
        (ImportError("LlamaTokenizer requires the SentencePiece library but it was not found"), "sentencepiece"),
        (
            ImportError("FlashAttention2 has been toggled on, but it cannot be used: flash_attn is missing"),
            "flash-attn",
        ),
        (ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes"), "bitsandbytes"),
        (ImportError("Install s3fs to access S3"), "s3fs"),
        (ImportError("cannot import name 'Task' from 'crosstask.datamodules'", name="crosstask.datamodules"), None),
        (ImportError("cannot import name 'x' from 'torch'", name="torch"), None),
        (ValueError("pip install nothing"), None),
    ],
)
def test_other_errors_are_told_apart(error: Exception, package: str | None) -> None:
    hint = missing_package(error)
    assert hint is None if package is None else str(hint).endswith(f"pip install {package}")


def test_the_cause_of_an_error_counts() -> None:
    error = RuntimeError("the callback failed")
    error.__cause__ = ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package")
    assert str(missing_package(error)).endswith("pip install no_such_package")


def test_a_tokenizer_that_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **options: Any) -> None:
        raise ImportError("tiktoken is required to read a `tiktoken` file: install `tiktoken`")

    monkeypatch.setattr("crosstask.datamodules.rendering.tokenization.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(
        ValueError, match=r"'some/model' cannot be loaded: the package tiktoken is not .*install tiktoken"
    ):
        load_tokenizer("some/model")


@pytest.mark.parametrize(("module", "logger"), [("tensorboard", "TensorBoardLogger"), ("wandb", "WandbLogger")])
def test_the_program_says_it_in_a_sentence(
    program: WarmProgram, module: str, logger: str, toybench: Path, tmp_path: Path
) -> None:
    if find_spec(module):
        pytest.skip(f"{module} is installed here")
    words = ["fit", "--config", "quickstart", "--trainer.logger", logger]
    if module == "tensorboard":
        words += ["--trainer.logger.save_dir", str(tmp_path)]
    run = program.run(*words, cwd=tmp_path)
    assert run.returncode == 1
    assert f"pip install {module}" in run.stderr.splitlines()[-2]
    assert "Traceback" not in run.stderr
