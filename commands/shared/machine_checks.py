"""The checks of ``crosstask doctor``: packages, devices, folders, limits, SLURM and variables of this machine."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from ...datamodules.messages import counted
from .config_names import VARIABLE, configs_folder
from .errors import PACKAGE, sentence

GIB = 2**30
LITTLE_SPACE = 5 * GIB
"""Free bytes below which a folder gets a note: checkpoints of a 1.3B model with its moments take 15 GB."""

FEW_FILES = 1024
"""Least number of open files that a process should be allowed, for the store and for sharded checkpoints."""

MALICIOUS = {("lightning", version): "GHSA-w37p-236h-pfx3" for version in ("2.6.2", "2.6.3")}
"""Releases on PyPI that contained malware, with their advisories."""

State = Literal["ok", "note", "broken"]


class Finding(NamedTuple):
    """Result of one check of `crosstask doctor`.

    Args:
        state: ``ok``; ``note`` if some runs will not work, or not well; ``broken`` if no run will work.
        topic: Name of the checked part of the machine.
        text: The state of the part, in words.
        way_out: Advice to the user; empty if there is nothing to do.
    """

    state: State
    topic: str
    text: str
    way_out: str = ""


def all_findings(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Yield the results of all checks; the result of a check that raises an error is ``broken``.

    Args:
        folders: Folders that runs write to, by their contents; the names are the keys of ``WAYS``.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        check_packages,
        check_devices,
        lambda: check_folders(folders),
        check_limits,
        lambda: check_slurm(os.environ),
        lambda: check_variables(os.environ),
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding("broken", "check", f"{type(error).__name__}: {sentence(error)}", "install the package again")


def check_packages() -> Iterator[Finding]:
    """Check the versions of Python and of the required packages, and list the optional ones that are not installed."""
    version = ".".join(map(str, sys.version_info[:3]))
    try:
        about = metadata.metadata(PACKAGE)
        listed = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        where = Path(__file__).parents[2]
        yield Finding("note", "crosstask", f"imported from {where}, not installed", f"pip install {where}")
        return
    yield from check_python(version, about["Requires-Python"] or "")
    needed = [each for each in listed if each.marker is None or each.marker.evaluate({"extra": ""})]
    problems = [finding for each in needed if (finding := package_finding(each, _installed(each.name)))]
    yield from problems
    if not problems:
        yield Finding("ok", "packages", f"the {len(needed)} required ones are installed in versions that work")
    yield from _extras([each for each in listed if each not in needed])


def check_python(version: str, required: str) -> Iterator[Finding]:
    """Check that crosstask supports the interpreter.

    Args:
        version: Version of the interpreter, e.g. ``3.11.4``.
        required: Required versions, e.g. ``>=3.10``.
    """
    if Requirement(f"python{required}").specifier.contains(version):
        yield Finding("ok", "python", version)
    else:
        yield Finding("broken", "python", f"{version}, and {required} is needed", f"use a Python {required}")


def package_finding(required: Requirement, installed: str | None) -> Finding | None:
    """Return a ``broken`` result for a package that is missing, malicious or of a wrong version; None if it fits.

    Args:
        required: Name and required versions of the package.
        installed: Installed version; None if the package is not installed.
    """
    name = required.name
    if installed is None:
        return Finding("broken", name, "is not installed", f"pip install '{required}'")
    if advisory := MALICIOUS.get((name, installed)):
        out = f"pip install '{required}', and replace every credential that this machine holds"
        return Finding("broken", name, f"{installed} is a malicious release ({advisory})", out)
    if not required.specifier.contains(installed, prereleases=True):
        return Finding("broken", name, f"{installed}, and {required.specifier} is needed", f"pip install '{required}'")
    return None


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras(optional: list[Requirement]) -> Iterator[Finding]:
    missing = sorted({each.name for each in optional if _installed(each.name) is None})
    if missing:
        yield Finding("ok", "optional packages", f"not installed, and needed by few runs: {', '.join(missing)}")


def check_devices() -> Iterator[Finding]:
    """Check the devices: their memory, precision and attention kernels, and the cores of the CPU."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = counted(torch.get_num_threads(), "thread")
    yield Finding("ok", "CPU", f"{counted(cores, 'core')}, {threads} of torch {torch.__version__}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield from _check_gpu(number)
    elif shutil.which("nvidia-smi"):
        out = "install the build of torch for this driver (pytorch.org), or load the driver's module"
        yield Finding("note", "GPU", "nvidia-smi is there, and torch sees no device", out)
    elif torch.backends.mps.is_available():
        yield Finding("ok", "GPU", "Apple MPS; document attention runs as one sdpa call per group of lengths")
    else:
        yield Finding("ok", "GPU", "none: small models train on the CPU, DeepSpeed and the varlen kernel need CUDA")


def _check_gpu(number: int) -> Iterator[Finding]:
    import torch

    about = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    topic = f"GPU {number}"
    text = (
        f"{about.name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, compute capability {about.major}.{about.minor}"
    )
    busy = "another process uses it: see nvidia-smi" if free < 0.8 * total else ""
    yield Finding("note" if busy else "ok", topic, text, busy)
    half = about.major >= 8
    yield Finding(
        "ok" if half else "note",
        topic,
        "bf16 is computed in hardware" if half else "bf16 is emulated on this device",
        "" if half else "set trainer.precision to 16-mixed or 32-true",
    )
    try:
        run_varlen(number)
        yield Finding("ok", topic, "the varlen kernel runs: packed documents attend without a mask")
    except RuntimeError as error:
        text = f"the varlen kernel does not run ({str(error).splitlines()[0]})"
        yield Finding("note", topic, text, "documents attend by sdpa, which is slower (docs/performance.md)")


def run_varlen(device: int) -> None:
    """Run torch's varlen attention kernel on two documents of eight tokens.

    Args:
        device: Index of the CUDA device.

    Raises:
        RuntimeError: The device has no such kernel.
    """
    import torch
    from torch.nn.attention.varlen import varlen_attn

    states = torch.zeros(16, 1, 64, device=f"cuda:{device}", dtype=torch.bfloat16)
    offsets = torch.tensor([0, 8, 16], device=f"cuda:{device}", dtype=torch.int32)
    varlen_attn(states, states, states, offsets, offsets, 8, 8)
    torch.cuda.synchronize(device)


def check_folders(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Check that folders can be written to and have space; of a missing folder, its deepest existing parent."""
    for topic, folder in folders.items():
        place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=place) as file:
                file.write(b"\0" * 4096)
                file.flush()
        except OSError as error:
            yield Finding(
                "broken", topic, f"{folder}: nothing can be written to {place} ({error.strerror})", WAYS[topic]
            )
            continue
        free = shutil.disk_usage(place).free
        text = f"{folder}: {free / GIB:.1f} GiB free"
        little = free < LITTLE_SPACE
        yield Finding("note" if little else "ok", topic, text, WAYS[topic] if little else "")


WAYS = {
    "store": "set data.init_args.cache to a folder on another disk",
    "temporary files": "set TMPDIR to a folder on another disk",
    "runs": "start in another folder, or set trainer.default_root_dir",
    "models": "set HF_HOME to a folder on another disk",
}
"""Advice for a folder that cannot be used, by its contents."""


def check_limits() -> Iterator[Finding]:
    """Check the limit of open files, and report the number of threads if it is set."""
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FEW_FILES:
        yield Finding("note", "open files", f"a process may open {files}", f"ulimit -n {FEW_FILES}")
    if threads := os.environ.get("OMP_NUM_THREADS"):
        yield Finding("ok", "threads", f"OMP_NUM_THREADS is {threads}")


def check_slurm(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check that a SLURM job, if there is one, is set up as Lightning expects it."""
    if "SLURM_JOB_ID" not in environment:
        if shutil.which("sbatch"):
            yield Finding("ok", "SLURM", "sbatch is there; configs/slurm holds scripts of jobs")
        return
    tasks, nodes = environment.get("SLURM_NTASKS", "1"), environment.get("SLURM_JOB_NUM_NODES", "1")
    text = f"job {environment['SLURM_JOB_ID']}: {counted(int(tasks), 'task')} on {counted(int(nodes), 'node')}"
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        yield Finding("ok", "SLURM", f"{text}, interactive: Lightning starts its processes by itself")
    elif tasks != "1" and "SLURM_PROCID" not in environment:
        out = "start the program by srun; in an interactive shell, export SLURM_JOB_NAME=interactive"
        yield Finding(
            "note", "SLURM", f"{text}, and this process is none of them: a run would wait for the others", out
        )
    else:
        yield Finding("ok", "SLURM", text)


def check_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check the environment variables that configurations use."""
    data = environment.get("CROSSTASK_DATA")
    if data is None:
        text = "is not set: the recipes of OPT-IML and of evaluation read their collections there"
        yield Finding("ok", "CROSSTASK_DATA", text)
    elif not Path(data).is_dir():
        yield Finding("note", "CROSSTASK_DATA", f"{data} is no folder", "export CROSSTASK_DATA=/path/to/the/data")
    else:
        yield Finding("ok", "CROSSTASK_DATA", f"{data}: {counted(len(list(Path(data).iterdir())), 'entry', 'entries')}")
    if not configs_folder().is_dir():
        out = f"unset {VARIABLE}, or name a folder of configurations"
        yield Finding("broken", VARIABLE, f"{configs_folder()} is no folder", out)
    if environment.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        yield Finding("ok", "HF_HUB_OFFLINE", "is set: models and tokenizers come from folders or the cache alone")
