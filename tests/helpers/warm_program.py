"""The program in processes forked from one that has imported its libraries: a start takes 0.1 s instead of 10 s.

A process is the program's otherwise: its words, environment, folder, streams, signals and exit status are its own.
"""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WarmProgram:
    """Starts commands of crosstask.

    Args:
        folder: Where the processes' standard output and errors are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(
        self, *words: str, cwd: Path | None = None, largest: int | None = None, **environment: str
    ) -> "WarmProcess":
        """Start a command.

        Args:
            words: What follows ``crosstask`` on the command line.
            cwd: Its working directory; that of the tests by default.
            largest: Most bytes of a file: writing more fails, as on a full disk.
            environment: Variables beside those of the tests.
        """
        self.started += 1
        streams = [str(self.folder / f"{self.started}.{name}") for name in ("out", "err")]
        request = {"words": words, "cwd": str(cwd or Path.cwd()), "largest": largest, "streams": streams}
        return WarmProcess(self, words, self.answer(request | {"environment": {**os.environ, **environment}}), streams)

    def run(
        self, *words: str, cwd: Path | None = None, largest: int | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; arguments as of `start`."""
        return self.start(*words, cwd=cwd, largest=largest, **environment).finish()

    def answer(self, request: Mapping[str, Any]) -> Any:
        """What the server answers to a request."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())

    def close(self) -> None:
        """End the server."""
        self.server.communicate()


class WarmProcess:
    """A command that runs, in a session of its own.

    Args:
        program: Who started it.
        words: Of the command.
        pid: Its process id, which is the id of its session, too.
        streams: Files of its standard output and errors.
    """

    def __init__(self, program: WarmProgram, words: tuple[str, ...], pid: int, streams: list[str]) -> None:
        self.program, self.words, self.pid, self.streams = program, words, pid, streams
        self.status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal that ended it; None while it runs."""
        if self.status is None:
            self.status = self.program.answer({"poll": self.pid})
        return self.status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def finish(self, timeout: float = 200) -> "subprocess.CompletedProcess[str]":
        """Its status, output and errors after its end; after the timeout it is killed, which the status shows."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        out, err = (Path(path).read_text() for path in self.streams)
        return subprocess.CompletedProcess(self.words, self.status, out, err)


def serve() -> None:
    """Answer requests until the tests end; returns in every process that is to run a command, and at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server beside the tests
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from crosstask.commands import prepare  # noqa: F401
    from crosstask.commands.shared import trainer  # noqa: F401

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


def become(request: Mapping[str, Any]) -> None:
    """Make this process look like one that was started for a request."""
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


if __name__ == "__main__":
    serve()
    from crosstask.cli import program

    program()
