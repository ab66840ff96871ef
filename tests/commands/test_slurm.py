"""Jobs on a real SLURM cluster of two nodes: disturbed runs end with the losses of an undisturbed one.

`make test-slurm` runs them; they need root, slurm-wlm and munge (tests/helpers/slurm_cluster.sh).
"""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from recipes import few_tasks, tuning_data
from warm_program import WarmProgram

TESTS = Path(__file__).parents[1] / "helpers"
STEPS = 16
SBATCH = TESTS.parents[1] / "configs/slurm/fit.sbatch"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None or os.geteuid() != 0, reason="needs root and slurm-wlm"),
]


class Cluster:
    """Two nodes, n1 and n2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "CROSSTASK": f"{sys.executable} -m crosstask.cli",
            "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "GLOO_SOCKET_IFNAME": "lo",
            "MASTER_ADDR": "127.0.0.1",  # both nodes are this machine
        }

    def script(self, *words: str) -> None:
        subprocess.run(["bash", str(TESTS / "slurm_cluster.sh"), *words], check=True, env=self.environment)

    def run(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, folder: Path, *words: str, script: Path = SBATCH, options: tuple[str, ...] = ()) -> str:
        """The number of a new job that writes its output to job.out in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        nodes = options or ("--nodes=2", "--ntasks-per-node=1")
        output = f"--output={folder / 'job.out'}"
        return self.run("sbatch", "--parsable", *nodes, output, f"--chdir={folder}", str(script), *words)

    def state(self, job: str) -> str:
        return re.search(r"JobState=(\w+)", self.run("scontrol", "show", "job", job)).group(1)  # type: ignore[union-attr]

    def wait(self, condition: Callable[[], bool], what: str, seconds: int = 300) -> None:
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds, f"{what} did not come within {seconds} s\n{self.outputs()}"
            time.sleep(0.5)

    def finish(self, job: str, *, hurry: bool = True) -> None:
        """Wait until a job has ended well; where it may, a requeued one does not wait SLURM's two minutes."""

        def ended() -> bool:
            if (state := self.state(job)) == "PENDING" and hurry:
                subprocess.run(
                    ["scontrol", "update", f"JobId={job}", "StartTime=now"], env=self.environment, check=False
                )
            return state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

        self.wait(ended, f"the end of job {job}")
        assert self.state(job) == "COMPLETED", self.outputs()

    def outputs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()[-3000:]}" for path in self.folder.parent.rglob("job.out"))

    def processes_of(self, job: str, node: str) -> list[int]:
        """A job's tasks on a node, and the step daemons above them."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment = (path / "environ").read_bytes()
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                daemon = Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"slurmstepd")
            except OSError:
                continue
            if f"SLURM_JOB_ID={job}\0".encode() in environment and f"SLURMD_NODENAME={node}\0".encode() in environment:
                found += [int(path.name), *([parent] if daemon else [])]
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    cluster = Cluster(folder)
    cluster.script("start", str(folder))
    yield cluster
    cluster.run("scancel", "--state=RUNNING")
    cluster.run("scancel", "--state=PENDING")
    time.sleep(2)
    cluster.script("stop", str(folder))


@pytest.fixture(scope="module")
def recipe(cluster: Cluster, toybench: Path) -> Path:
    """Slow steps of a tiny model, with the callbacks of a long run."""
    path = cluster.folder.parent / "recipe.yaml"
    config = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": STEPS,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "gradient_clip_val": 1.0,
            "logger": {
                "class_path": "CSVLogger",
                "init_args": {"save_dir": "run", "name": None, "flush_logs_every_n_steps": 1},
            },
            "callbacks": [
                {"class_path": "Preemption"},
                {"class_path": "RunRecord"},
                {"class_path": "slow_steps.SlowSteps"},
                {
                    "class_path": "ModelCheckpoint",
                    "init_args": {
                        "dirpath": "checkpoints",
                        "every_n_train_steps": 4,
                        "save_last": True,
                        "save_top_k": 0,
                        "enable_version_counter": False,
                    },
                },
            ],
        },
        "model": {
            "class_path": "InstructionTuningModule",
            "init_args": {
                "config": {
                    "model_type": "llama",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "max_position_embeddings": 256,
                },
                "optimizer": {"learning_rate": 0.01, "warmup": 2},
                "network": {"embedding_dropout": 0.1},
            },
        },
        "data": tuning_data(toybench, cache=str(cluster.folder.parent / "store"), rows={"per_step": 8}),
    }
    splits = few_tasks(toybench, cluster.folder.parent / "splits")
    config["data"]["init_args"]["benchmark"]["init_args"]["splits"] = splits
    path.write_text(yaml.safe_dump(config))
    return path


def losses(folder: Path, files: str = "run/version_*/metrics.csv") -> dict[int, float]:
    """train/loss by step over all starts of a job; a step that was trained twice must have read the same."""
    found: dict[int, float] = {}
    for path in sorted(folder.glob(files)):
        with open(path) as file:
            for row in csv.DictReader(file):
                if row.get("train/loss"):
                    step, loss = int(row["step"]), float(row["train/loss"])
                    assert loss == pytest.approx(found.setdefault(step, loss), rel=1e-5)
    return found


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, recipe: Path) -> dict[int, float]:
    """DDP over both nodes."""
    folder = cluster.folder.parent / "undisturbed"
    cluster.finish(cluster.submit(folder, "--config", str(recipe), "--trainer.strategy", "ddp"))
    found = losses(folder)
    assert sorted(found) == list(range(STEPS))
    record = json.loads(next(folder.glob("run/version_0/run.json")).read_text())
    assert [host.split(":")[1] for host in record["host_of_rank"]] == ["n1", "n2"]
    assert record["packages"]["torch"]
    assert record["slurm"]["SLURM_NNODES"] == "2"
    return found


def test_signals_and_requeues_change_no_loss(cluster: Cluster, recipe: Path, undisturbed: dict[int, float]) -> None:
    """FSDP2 is told that its time ends; DDP is requeued from outside. Both at once, on both nodes."""
    folders = {name: cluster.folder.parent / name for name in ("time_ends", "requeued")}
    jobs = {
        "time_ends": cluster.submit(
            folders["time_ends"], "--config", str(recipe), "--trainer.strategy.class_path", "ShardedStrategy"
        ),
        "requeued": cluster.submit(folders["requeued"], "--config", str(recipe), "--trainer.strategy", "ddp"),
    }
    disturb = {
        "time_ends": lambda job: cluster.run("scancel", "--signal=USR1", job),
        "requeued": lambda job: cluster.run("scontrol", "requeue", job),
    }
    for name, job in jobs.items():
        cluster.wait(lambda name=name: len(losses(folders[name])) > 1, f"the second step of {name}")  # type: ignore[misc]
        disturb[name](job)
    for name, job in jobs.items():
        cluster.finish(job)
        output = (folders[name] / "job.out").read_text()
        assert "start 2" in output
        assert re.search(r"preempted at step \d+", output), output
        assert f"SLURM ends job {job}; its nodes:" in output, output
        assert len(list(folders[name].glob("run/version_*"))) == 2
        assert losses(folders[name]) == pytest.approx(undisturbed, rel=1e-5)


def test_a_lost_node_ends_the_job_with_a_message_and_the_requeued_job_resumes(
    cluster: Cluster, recipe: Path, undisturbed: dict[int, float]
) -> None:
    folder = cluster.folder.parent / "lost"
    job = cluster.submit(folder, "--config", str(recipe), "--trainer.strategy.class_path", "ShardedStrategy")
    cluster.wait(lambda: len(losses(folder)) > 5, "the sixth step")
    daemon = int((cluster.folder / "slurmd-n2.pid").read_text())
    for pid in [daemon, *cluster.processes_of(job, "n2")]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.wait(lambda: cluster.state(job) == "PENDING", "the requeued job")
    cluster.script("node", str(cluster.folder), "n2")
    cluster.finish(job, hurry=False)  # SLURM still ends what the lost node may have left of the job, by its number
    output = (folder / "job.out").read_text()
    assert "Node failure on n2" in output
    assert "start 2" in output
    assert losses(folder) == pytest.approx(undisturbed, rel=1e-5)


@pytest.fixture
def warm(cluster: Cluster, program: WarmProgram, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The command of jobs of one process that nothing disturbs: signals would reach what starts it, and not itself."""
    path = program.folder / "crosstask"
    with program.command(path):
        monkeypatch.setitem(cluster.environment, "CROSSTASK", str(path))
        yield str(path)


def test_the_arms_of_a_sweep_are_an_array_of_jobs(cluster: Cluster, recipe: Path, warm: str) -> None:
    """`crosstask sweep --write_only` writes the recipes, the array trains and evaluates them, and `sweep` reports."""
    folder = cluster.folder.parent / "arms"
    folder.mkdir()
    config = yaml.safe_load(recipe.read_text())
    config["trainer"] |= {"max_steps": 2, "callbacks": [], "logger": False}
    config["data"]["init_args"] |= {"instances": {"validation": 1}, "evaluation": {"max_new_tokens": 2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config))
    arms = {name: {"data.init_args.mixture.cap": cap} for name, cap in (("few", 8), ("all", None))}
    sweep = {"title": "Caps", "recipe": str(folder / "recipe.yaml"), "stage": "validation", "arms": arms}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    words = ["sweep", str(folder / "sweep.yaml"), "--output", str(folder / "runs")]
    cluster.run(warm, *words, "--write_only", "true")
    one = ("--array=1-2", "--nodes=1", "--ntasks-per-node=1")
    job = cluster.submit(folder, str(folder / "runs"), script=SBATCH.with_name("ablations.sbatch"), options=one)
    for task in (1, 2):
        cluster.finish(f"{job}_{task}")
    assert "few is finished" in cluster.run(warm, *words)
    report = json.loads((folder / "runs/report.json").read_text())
    assert [system["name"] for system in report["systems"]] == ["all", "few"]


@pytest.mark.usefixtures("warm")
def test_seeds_and_sweeps_are_arrays_of_jobs(cluster: Cluster, recipe: Path) -> None:
    """Each task of an array has a folder of its own, and its own seed or its own line of words."""
    folder = cluster.folder.parent / "arrays"
    folder.mkdir()
    (folder / "sweep.txt").write_text("--model.init_args.optimizer.warmup 0\n--model.init_args.optimizer.warmup 1\n")
    config = yaml.safe_load(recipe.read_text())
    config["trainer"]["callbacks"].pop()  # all tasks would write to its folder; the scripts add one for each task
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config))
    words = ("--config", str(folder / "recipe.yaml"), "--trainer.max_steps", "2")
    one = ("--nodes=1", "--ntasks-per-node=1")
    scripts = {
        "seeds": (("0-1", *one), words),
        "sweep": (("1-2", *one), ("sweep.txt", *words)),
    }
    found = {}
    jobs = {
        name: cluster.submit(
            folder, *script_words, script=SBATCH.with_name(f"{name}.sbatch"), options=(f"--array={array}", *options)
        )
        for name, ((array, *options), script_words) in scripts.items()
    }
    for name, job in jobs.items():
        tasks = (0, 1) if name == "seeds" else (1, 2)
        for task in tasks:
            cluster.finish(f"{job}_{task}")
        runs = [folder / f"runs/{name}-{job}/{task}" for task in tasks]
        assert all((run / "checkpoints/last.ckpt").is_file() for run in runs)
        found[name] = [losses(run, "version_*/metrics.csv") for run in runs]
    assert found["seeds"][0] != found["seeds"][1]
    first, second = found["sweep"]
    assert first[0] == pytest.approx(second[0], rel=1e-6)  # the learning rates differ from the first step on
    assert first[1] != second[1]
