"""The model card of an exported model: README.md for a repository of the hub, from its run's files."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...datamodules.data_files import parse_json, read_json, read_text
from ...datamodules.hub_names import hub_source
from ...datamodules.messages import counted, expanded, kind
from ...datamodules.visible_text import markdown_code, visible
from ...datamodules.yaml_files import read_yaml

SHOWN_VERSIONS = ("crosstask", "torch", "transformers", "lightning", "tokenizers", "peft")
LONGEST_MIXTURE = 80  # lines of the mixture's tree; the others are counted
USE = {
    "text-classification": """\
from crosstask.lightning_modules.scoring.cross_encoder import CrossEncoder

scorer = CrossEncoder.from_pretrained("{name}")
scorer.rank("instruction", ["one", "another"])
""",
    "text-generation": """\
from transformers import pipeline

generate = pipeline("text-generation", "{name}", max_new_tokens=64, return_full_text=False)
print(generate("Translate to French: cheese")[0]["generated_text"])
""",
    "chat": """\
from transformers import pipeline

generate = pipeline("text-generation", "{name}", max_new_tokens=64)
messages = [{{"role": "user", "content": "Translate to French: cheese"}}]
print(generate(messages)[0]["generated_text"][-1]["content"])
""",
    "text2text-generation": """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("{name}"), AutoModelForSeq2SeqLM.from_pretrained("{name}")
answer = model.generate(**tokenizer("Translate to French: cheese", return_tensors="pt"), max_new_tokens=64)
print(tokenizer.decode(answer[0], skip_special_tokens=True))
""",
}
"""A program that uses the model, by its task on the hub; ``chat`` is for a model with a chat template."""
TRAINER_SETTINGS = ("max_steps", "precision", "strategy", "accumulate_grad_batches", "gradient_clip_val")
PLACES = ("cache", "folder", "path", "dirpath", "save_dir", "source")
"""Settings that name places of the machine of the training, which a card does not publish."""


@dataclass(frozen=True)
class RunFiles:
    """Contents of the files that a run's callbacks have written, from which its model card is made.

    Args:
        settings: Configuration of the run (config.yaml).
        record: Commit and versions (run.json).
        mixture: Tree of the training data with licences, as text (mixture.txt).
        scores: Markdown of the report, by stage (report.md).
        prompts: A few prompts in the form of the training (prompts.jsonl), which a card does not publish.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    mixture: str = ""
    scores: Mapping[str, str] = field(default_factory=dict)
    prompts: str = ""

    @property
    def plain(self) -> bool:
        """Whether the run is known to have trained on plain prompts, without a chat template."""
        return "prompt" in parse_json(self.prompts.partition("\n")[0] or "{}", "prompts.jsonl")


def read_run_files(folder: Path) -> RunFiles:
    """Read the files of a run that a model card needs: the newest of each, over all versions below the run's folder.

    Contents of missing files are empty.

    Raises:
        ValueError: A file cannot be read, or holds something else.
    """

    def newest(pattern: str) -> Path | None:
        paths = sorted(folder.glob(f"**/{pattern}"), key=lambda path: path.stat().st_mtime)
        return paths[-1] if paths else None

    trained = newest("mixture.txt")
    configuration = trained.with_name("config.yaml") if trained else folder / "config.yaml"
    prompts = configuration.with_name("prompts.jsonl")
    settings = configuration if configuration.is_file() else newest("config.yaml")
    record = newest("run.json")
    reports = {stage: newest(f"report/{stage}/report.md") for stage in ("test", "validation")}
    return RunFiles(
        settings=_fields(read_yaml(settings), settings) if settings else {},
        record=_fields(read_json(record), record) if record else {},
        mixture=read_text(trained) if trained else "",
        scores={stage: read_text(path) for stage, path in reports.items() if path},
        prompts=read_text(prompts) if prompts.is_file() else "",
    )


def _fields(content: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected named fields, got {kind(content)}; remove the file, or name another `run`")
    return content


def run_of_checkpoint(checkpoint: Path) -> Path:
    """Return the folder of the run that wrote a checkpoint: the nearest folder above it that holds a configuration."""
    parents = list(checkpoint.absolute().parents)[:3]
    return next(
        (each for each in parents if any(each.glob("*config.yaml")) or any(each.glob("*/config.yaml"))), parents[0]
    )


def model_card(
    name: str, extras: Mapping[str, Any], run: RunFiles, *, steps: int, licence: str | None = None, chat: bool = False
) -> str:
    """Return the text of a model's README.md.

    Args:
        name: Name of the repository.
        extras: Description of the model in the checkpoint (``checkpoint_extras(path)[KEY]``).
        run: Files of the run.
        steps: Optimizer steps of the checkpoint.
        licence: Identifier of the licence of the weights on the hub; None leaves the choice to the user.
        chat: Whether the model's folder has a chat template.
    """
    sections = [
        _front_matter(extras, licence),
        f"# {visible(name)}",
        _origin(extras, steps, run.record),
        *_use(name, extras, run, chat),
        *_data(run),
        *_settings(run.settings),
        *_scores(run.scores),
        *_versions(run.record),
    ]
    return "\n\n".join(sections) + "\n"


def published_base(extras: Mapping[str, Any]) -> str | None:
    """Return the name of the model that training started from, without revision; None if it has no name on the hub."""
    source = extras.get("pretrained")
    if not source or expanded(source).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_source(source)[0]):
        return None
    return hub_source(source)[0]


def _kind(extras: Mapping[str, Any]) -> str:
    architecture = extras["architecture"]
    if architecture.endswith("ForSequenceClassification"):
        return "text-classification"
    return "text2text-generation" if "ConditionalGeneration" in architecture else "text-generation"


def _front_matter(extras: Mapping[str, Any], licence: str | None) -> str:
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": _kind(extras)}
    if licence is not None:
        fields["license"] = licence
    if base := published_base(extras):
        fields["base_model"] = base
    fields["tags"] = ["crosstask", "scorer" if _kind(extras) == "text-classification" else "instruction-tuning"]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _origin(extras: Mapping[str, Any], steps: int, record: Mapping[str, Any]) -> str:
    source = extras.get("pretrained")
    begun = "random weights"
    if source:
        _, pin = hub_source(source)
        base = published_base(extras)
        begun = markdown_code(base) if base else "weights in a local folder"
        begun += f" at revision {markdown_code(pin['revision'])}" if base and pin else ""
    adapters = next((kind for kind in ("lora", "prefix") if kind in extras.get("adapters", {})), None)
    how = {None: "", "lora": ", by low-rank adapters that are merged into them", "prefix": ", as a trained prefix"}
    commit = f" (commit {str(record['commit'])[:12]})" if record.get("commit") else ""
    return (
        f"{markdown_code(extras['architecture'])}, trained from {begun} for {counted(steps, 'optimizer step')}"
        f"{how[adapters]} with crosstask{commit}."
    )


def _use(name: str, extras: Mapping[str, Any], run: RunFiles, chat: bool) -> Iterator[str]:
    kind = "chat" if chat and not run.plain and _kind(extras) == "text-generation" else _kind(extras)
    yield "## Use"
    yield _fenced(USE[kind].format(name=name), "python")
    if kind == "text-classification":
        return
    plain = " --chat false" if chat and run.plain else ""
    predict = f"crosstask predict {name} --inputs my.jsonl --output answers.jsonl{plain}"
    yield f"```bash\ncrosstask chat {name}{plain}\n{predict}\n```"
    form = ((run.settings.get("data") or {}).get("init_args") or {}).get("prompt") or {}
    if delimiters := (form.get("init_args") or {}).get("delimiters"):
        listed = ", ".join(markdown_code(json.dumps(delimiter, ensure_ascii=False)) for delimiter in delimiters)
        yield (
            f"Prompts of tasks ended in one of {listed} in training, unless their instruction ended in a colon; "
            "conversations were in the tokenizer's chat template."
        )
    elif name_of := str(form.get("class_path", "")).rpartition(".")[2]:
        yield f"Prompts of tasks had the form of {markdown_code(name_of)} in training."


def _data(run: RunFiles) -> Iterator[str]:
    yield "## Training data"
    if not run.mixture:
        yield "The run's folder holds no mixture.txt (callback PackingSummary)."
        return
    lines = run.mixture.splitlines()
    licences = [line for line in lines if line.startswith("licences of ")]
    tree = [line for line in lines if line not in licences]
    more = [f"... and {len(tree) - LONGEST_MIXTURE:,} more lines"] if len(tree) > LONGEST_MIXTURE else []
    yield _fenced("\n".join([*tree[:LONGEST_MIXTURE], *more]))
    yield "### Licences of the data"
    yield "\n".join(f"- {_plain(line)}" for line in licences) or "The collections state no licence."


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    if not settings:
        return
    trainer = settings.get("trainer") or {}
    shown = {"trainer": {name: trainer[name] for name in TRAINER_SETTINGS if trainer.get(name) is not None}}
    shown |= {part: without_places(settings.get(part) or {}) for part in ("model", "data")}
    yield "## Settings"
    yield _fenced(yaml.dump(_given(shown), Dumper=_QuotedLines, sort_keys=False), "yaml")


class _QuotedLines(yaml.SafeDumper):
    """Writes texts with line ends in double quotes, as ``"\\nAnswer:"``."""


def _text_as_yaml(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_QuotedLines.add_representer(str, _text_as_yaml)


def _given(settings: Any) -> Any:
    """Return settings without those that are null or empty."""
    if not isinstance(settings, Mapping):
        return settings
    kept = {name: _given(each) for name, each in settings.items()}
    return {name: each for name, each in kept.items() if each is not None and each != {} and each != []}


def without_places(value: Any) -> Any:
    """Return settings without the paths of files.

    >>> without_places({"folder": "/home/me/data", "seed": 0, "tokenizer": "/home/me/runs/tokenizer"})
    {'seed': 0, 'tokenizer': 'tokenizer'}
    """
    if isinstance(value, Mapping):
        return {name: without_places(each) for name, each in value.items() if name not in PLACES}
    if isinstance(value, list | tuple):
        return [without_places(each) for each in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "$", ".")) or os.path.exists(value)):
        return Path(value).name
    return value


def _scores(scores: Mapping[str, str]) -> Iterator[str]:
    yield "## Scores"
    if not scores:
        yield "The run's folder holds no report (callback GeneralizationReport, `crosstask test`)."
    for stage, text in scores.items():
        body = text.partition("\n## Categories")[0].partition("\n")[2].strip()  # without its heading
        yield f"### {stage.capitalize()}"
        yield re.sub(r"^## ", "#### ", body, flags=re.MULTILINE)


def _versions(record: Mapping[str, Any]) -> Iterator[str]:
    packages = record.get("packages", {})
    if listed := [f"{name} {packages[name]}" for name in SHOWN_VERSIONS if name in packages]:
        yield "## Versions"
        yield _plain(f"Python {record.get('python')}, {', '.join(listed)}.")


def _plain(text: str) -> str:
    return " ".join(visible(text).split())


def _fenced(text: str, language: str = "") -> str:
    """Return a code block, fenced by more backticks than the text has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"
