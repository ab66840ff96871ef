"""The tutorials, and the page for users of other trainers, run in small: their files, their commands, their scripts."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tokenizer_kinds import byte_level
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from warm_program import WarmProgram

import crosstask

ROOT = Path(crosstask.__file__).parent
DOCS = ROOT / "docs"
CHATML = (ROOT / "tests/datamodules/rendering/chat_templates/chatml.jinja").read_text().strip()

SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}
KINDS = {
    "llama": {**SIZE, "intermediate_size": 64, "max_position_embeddings": 2048},
    "opt": {**SIZE, "ffn_dim": 64, "word_embed_proj_dim": 64, "max_position_embeddings": 2048},
    "roberta": {**SIZE, "intermediate_size": 64, "max_position_embeddings": 514, "num_labels": 1},
}
MODELS = {  # what is there in place of the models that the pages name
    "HuggingFaceTB/SmolLM2-360M-Instruct": "llama",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "llama",
    "facebook/opt-125m": "opt",
    "opt-30b": "opt",
    "btan2/cappy-large": "roberta",
}
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true", "--trainer.strategy=auto"]
SMALL = [*CPU, "--data.rows.length=256", "--data.rows.per_step=4", "--data.evaluation.max_new_tokens=4"]
SMALL += ["--trainer.num_sanity_val_steps=0"]
APPENDED = {  # to every command of a name, so that it takes a second
    "fit": SMALL,
    "test": SMALL,
    "adapt": ["--training.steps=1", "--training.batch=8", "--training.accelerator=cpu"],
}
PROGRAMS = {  # what the pages' other programs do here; a job runs as one process
    "pip": "exit 0",
    "hf": "exit 0",  # what it would download is there
    "scontrol": "echo here",
    "srun": 'while [[ $1 == --* ]]; do [[ $1 == *=* ]] || shift; shift; done; exec "$@"',
    "sbatch": """while [[ $1 == --* ]]; do shift 2; done
export SLURM_JOB_ID=1 SLURM_JOB_NAME=job SLURM_JOB_NODELIST=here SLURM_NODELIST=here SLURM_NNODES=1 SLURM_NTASKS=1
export SLURM_NTASKS_PER_NODE=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
exec bash "$@" --trainer.max_steps 2""",
    "python": f'exec {sys.executable} "$@"',
}
DATA = ("mine", "my_dataset")
"""Folders of tasks that a page may name without showing them."""

WRITTEN = {  # what a reader has at the end
    "tutorials/chat_with_lora.md": ["runs/compared/report.html", "answers.jsonl", "published/README.md"],
    "tutorials/datamodules_elsewhere.md": [],
    "tutorials/scorer_for_an_api.md": ["runs/adapted/report.md"],
    "tutorials/slurm.md": ["runs/wide/version_0/run.json", "exported/model.safetensors"],
    "migration.md": ["out/version_0/huggingface/model.safetensors"],
}

BLOCK = re.compile(r"([^\n]*)\n```(\w+)\n(.*?)```", re.DOTALL)
"""A fenced block, with the line before it."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of ``MODELS``."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    for name, kind in MODELS.items():
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **KINDS[kind])
        auto = AutoModelForSequenceClassification if kind == "roberta" else AutoModelForCausalLM
        auto.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def hosted_model() -> Iterator[str]:
    """The address of a server with a chat completions endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            logprobs = {"content": [{"logprob": -0.5}]}
            number = re.findall(r"\d+", request["messages"][-1]["content"])[0]
            texts = [f"{number}000 m", f"{number} m"]
            choices = [{"message": {"content": texts[n % 2]}, "logprobs": logprobs} for n in range(request["n"])]
            content = json.dumps({"model": request["model"], "choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def as_data(lines: str) -> str:
    """Enough lines for a training: at least 30, each with other numbers; lines with ids as they are."""
    if '"id"' in lines:
        return lines

    def moved(line: str, by: int) -> str:
        return re.sub(r"\d+", lambda number: str(int(number[0]) + by), line)

    shown = lines.splitlines()
    return "".join(f"{moved(line, 100 * by)}\n" for by in range(min(30, 60 // len(shown))) for line in shown)


def written_files(page: str) -> dict[str, str]:
    """The files of a page by name: a block begins with a comment of its name, or the line before it has the name.

    Python blocks without a name continue the script before them.
    """
    files: dict[str, str] = {}
    script = "script.py"
    for before, language, text in BLOCK.findall(page):
        if named := re.match(r"# (\S+\.(?:yaml|py))\n", text):
            files[named[1]] = text
            script = named[1] if language == "python" else script
        elif language == "python":
            files[script] = files.get(script, "") + text
        elif language == "json" and (name := re.search(r"`(\S+\.jsonl)`", before)):
            files[name[1]] = as_data(text)
    return files


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_page_runs(name: str, models: Path, hosted_model: str, tmp_path: Path, program: WarmProgram) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    for path in models.iterdir():
        (tmp_path / path.name).symlink_to(path)
    files = written_files(page)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for folder in DATA:
        if not (tmp_path / folder).exists() and f"benchmark: {folder}" in page:
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "next.jsonl").write_text(as_data('{"input": "1 + 1", "output": "2"}'))
    programs = tmp_path / "programs"
    programs.mkdir()
    for command, text in PROGRAMS.items():
        (programs / command).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / command).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "API_URL": hosted_model}
    commands = "".join(text for _, language, text in BLOCK.findall(page) if language == "bash")
    with program.command(programs / "crosstask", appended=APPENDED):
        words = ["bash", "-euo", "pipefail", "-c", commands]
        done = subprocess.run(words, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for script in [path for path in files if path.endswith(".py") and f"python {path}" not in commands]:
        ran = program.script((tmp_path / script).read_text(), cwd=tmp_path, **environment)
        assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
        assert ran.stdout.strip(), script
    for path in WRITTEN[name]:
        assert (tmp_path / path).is_file(), path


def test_every_tutorial_is_run_and_short() -> None:
    tutorials = sorted((DOCS / "tutorials").glob("*.md"))
    assert {path.relative_to(DOCS).as_posix() for path in tutorials} < set(WRITTEN)
    for path in tutorials:
        assert 60 <= len(path.read_text(encoding="utf-8").splitlines()) <= 120, path
