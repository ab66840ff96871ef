"""The program in processes forked from one that has imported its libraries: a start takes 0.1 s instead of 10 s.

A process is the program's otherwise: its words, environment, folder, streams, signals and exit status are its own.
"""

import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{socket}")
    stream = server.makefile("rw")
    print(json.dumps((sys.argv[1:], os.getcwd(), dict(os.environ))), file=stream, flush=True)
    out, err, status = json.load(stream)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
"""

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}
"""Events of Python's audit that change a file system, beside opening a file for writing."""


LATE = (
    "attrs",
    "deepspeed",
    "fsspec.implementations.chained",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "nltk.stem.porter",
    "rich._emoji_codes",
    "torch.utils.serialization.config",
    "transformers.models.llama.modeling_llama",
    "transformers.models.opt.modeling_opt",
    "transformers.models.roberta.modeling_roberta",
    "transformers.models.t5.modeling_t5",
)
"""Libraries that are imported on first use, several of which take a second or more."""


class Death(NamedTuple):
    """Time at which a process is killed: at one of its changes of files, so that a seed chooses the same change again.

    Args:
        below: Folder in which changes are counted.
        change: Number of the change before which the process is killed, from 0; a negative number only counts changes.
        delay: Seconds between that change and the kill.
        counted: File to which a byte is appended for every change.
        number: The signal.
    """

    below: str
    change: int
    delay: float
    counted: str
    number: int = signal.SIGKILL


class WarmProgram:
    """Server that starts commands of crosstask in forked processes.

    Args:
        folder: Folder of the processes' standard output and errors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(
        self,
        *words: str,
        cwd: Path | None = None,
        largest: int | None = None,
        death: Death | None = None,
        **environment: str,
    ) -> "WarmProcess":
        """Start a command.

        Args:
            words: The words after ``crosstask`` on the command line.
            cwd: Working directory; None for that of the tests.
            largest: Most bytes of a file; writing more fails, as on a full disk.
            death: Time at which the process is killed; None for never.
            environment: Environment variables beside those of the tests.
        """
        self.started += 1
        streams = [str(self.folder / f"{self.started}.{name}") for name in ("out", "err")]
        request = {"words": words, "cwd": str(cwd or Path.cwd()), "largest": largest, "streams": streams}
        request["death"] = death and death._asdict()
        return WarmProcess(self, words, self.answer(request | {"environment": {**os.environ, **environment}}), streams)

    def script(self, code: str, *, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run Python code to its end, as ``python -c`` does; other arguments as of `start`."""
        return self.start("-c", code, cwd=cwd, **environment).finish()

    def ranks(
        self, number: int, *words: str, cwd: Path | None = None, timeout: float = 1800, **environment: str
    ) -> "list[subprocess.CompletedProcess[str]]":
        """Run a command in several processes, as torchrun does, to their ends; other arguments as of `start`.

        Once a process has failed, the others are killed, which would wait for it; all are after the timeout.
        """
        running, end = self.start_ranks(number, *words, cwd=cwd, **environment), time.monotonic() + timeout
        while None in (statuses := [process.poll() for process in running]):
            if any(statuses) or time.monotonic() > end:
                for process in running:
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.05)
        return [process.finish() for process in running]

    def start_ranks(self, number: int, *words: str, cwd: Path | None = None, **environment: str) -> "list[WarmProcess]":
        """Start a command in several processes, as torchrun does; arguments as of `start`."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "TORCHELASTIC_RUN_ID": "1"}
        size = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
        return [
            self.start(*words, cwd=cwd, **environment, **place, **size, RANK=rank, LOCAL_RANK=rank)
            for rank in map(str, range(number))
        ]

    @contextmanager
    def command(self, path: Path, *, appended: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Iterator[None]:
        """Write a command for a shell that runs the program here; it accepts the words of ``python -m``, too.

        Args:
            path: Path of the command.
            appended: Words that are added at the end of a command line, by its first word.
        """
        path.write_text(COMMAND.format(python=sys.executable, socket=f"{path}.socket"))
        path.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listening:
            Path(f"{path}.socket").unlink(missing_ok=True)
            listening.bind(f"{path}.socket")
            listening.listen()
            threading.Thread(target=self._serve, args=(listening, appended), daemon=True).start()
            yield

    def _serve(self, listening: socket.socket, appended: Mapping[str, Sequence[str]]) -> None:
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rw") as stream:
                words, cwd, environment = json.loads(stream.readline())
                words = words[2 * (words[:2] == ["-m", "crosstask.cli"]) :]
                started = self.start(*words, *appended.get(words[0], ()), cwd=Path(cwd), **environment)
                done = started.finish(timeout=3600)  # who starts it decides how long it may take
                json.dump((done.stdout, done.stderr, done.returncode), stream)

    def run(
        self, *words: str, cwd: Path | None = None, largest: int | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; arguments as of `start`."""
        return self.start(*words, cwd=cwd, largest=largest, **environment).finish()

    def answer(self, request: Mapping[str, Any]) -> Any:
        """Return the server's answer to a request."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())

    def close(self) -> None:
        """Stop the server."""
        self.server.communicate()


class WarmProcess:
    """Running command, in a session of its own.

    Args:
        program: Server that started the command.
        words: The words of the command line.
        pid: Process id, which is the id of the session, too.
        streams: Files of standard output and errors.
    """

    def __init__(self, program: WarmProgram, words: tuple[str, ...], pid: int, streams: list[str]) -> None:
        self.program, self.words, self.pid, self.streams = program, words, pid, streams
        self.status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal that ended the command; None while it runs."""
        if self.status is None:
            self.status = self.program.answer({"poll": self.pid})
        return self.status

    def send_signal(self, number: int) -> None:
        """Send the command a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def finish(self, timeout: float = 200) -> "subprocess.CompletedProcess[str]":
        """Wait for the end, and return status, output and errors; after the timeout the command is killed."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        out, err = (Path(path).read_text() for path in self.streams)
        return subprocess.CompletedProcess(self.words, self.status, out, err)


def serve() -> None:
    """Answer requests until the tests end; return in every process that is to run a command, and at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server beside the tests
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.disable()
    import_everything()
    parse_once()
    gc.enable()
    gc.freeze()  # what was imported stays; collecting it again in every process takes longer than the fork
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            answers.close()
            become(request)
            return
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)


def import_everything() -> None:
    """Import the package, and the libraries that its commands import late."""
    import crosstask

    root = Path(crosstask.__file__).parent
    for room in ("datamodules", "lightning_modules", "callbacks", "commands"):
        for module in pkgutil.walk_packages([str(root / room)], f"crosstask.{room}."):
            importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)


def parse_once() -> None:
    """Read a recipe, which leaves the parsers of its classes in jsonargparse's cache."""
    from crosstask.commands.shared.settings_reader import SettingsReader

    SettingsReader("tests", ["--config", "quickstart"])


def become(request: Mapping[str, Any]) -> None:
    """Give this process the words, folder, environment and streams of a request."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # depends on the environment
    os.chdir(request["cwd"])
    sys.argv[1:] = request["words"]
    files = [os.devnull, *request["streams"]]
    modes = [os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2]
    for descriptor, (path, mode) in enumerate(zip(files, modes, strict=True)):
        opened = os.open(path, mode)
        os.dup2(opened, descriptor)
        os.close(opened)
    if (largest := request["largest"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if request["death"] is not None:
        die(Death(**request["death"]))


def die(death: Death) -> None:
    """Let this process kill itself at the time of a ``Death``."""
    counted = os.open(death.counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    changes = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES) or not os.fsdecode(str(arguments[0])).startswith(death.below):
            return
        os.write(counted, b".")
        changes += 1  # before the signal, whose handler may raise an error here
        if changes - 1 != death.change:
            return
        if death.delay:
            threading.Timer(death.delay, os.kill, (os.getpid(), death.number)).start()
        else:
            os.kill(os.getpid(), death.number)

    sys.addaudithook(count)


if __name__ == "__main__":
    serve()
    if sys.argv[1:2] == ["-c"]:
        _, _, code, *words = sys.argv
        sys.argv = ["-c", *words]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        from crosstask.cli import program

        program()
