"""Download of files from a git repository at a pinned commit; only that commit and the listed paths are transferred.

An interrupted transfer resumes: the repository stays in the staging folder, and objects that arrived are kept. Git
verifies the files by the commit's hash.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from ..benchmarks.rows.row import Row
from ..benchmarks.rows.row_files import table_rows
from ..data_files import text_lines
from ..messages import some
from ..worker_processes import end_when_parent_dies
from .row_output import recipe_columns, write_rows
from .sources import GitPart, Table

# Texts of git's errors without a connection.
NO_NETWORK = ("Could not resolve host", "unable to access", "Connection timed out", "Network is unreachable")


def fetch_git(part: GitPart, staging: Path) -> dict[str, Path]:
    """Fetch files of a git repository at a pinned commit, and return their paths by their later place.

    Args:
        part: The repository, the commit, and the files with their places in the data folder.
        staging: Folder of the checkout, outside of what readers see.

    Raises:
        ValueError: git is missing or fails, or the commit or a file is not in the repository.
    """
    repository = staging / "repository"
    repository.mkdir(parents=True, exist_ok=True)
    needed = [*part.files, *(path for table in part.tables.values() for path in table.from_files)]
    paths = [*needed, *([part.licence_file] if part.licence_file else [])]
    _git(part, repository, "init", "--quiet")
    for lock in (repository / ".git").rglob("*.lock"):  # of an interrupted git
        lock.unlink()
    _git(part, repository, "config", "remote.origin.url", part.git)
    _git(part, repository, "fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", part.commit)
    _git(part, repository, "sparse-checkout", "set", "--no-cone", *(f"/{path}" for path in paths))
    _git(part, repository, "checkout", "--quiet", "--force", "--detach", part.commit)
    if part.licence_file and not (repository / part.licence_file).is_file():
        raise ValueError(
            f"{part.origin}: no licence file {part.licence_file}: the licence may not be {part.licence} any more; "
            "read it upstream, and correct `licence` and `licence_file` in a table of your own (--sources)"
        )
    if missing := [path for path in needed if not (repository / path).exists()]:
        raise ValueError(f"{part.origin}: no {some(missing)}; correct the paths in a table of your own (--sources)")
    copied = {target: repository / path for path, target in part.files.items()}
    for path in copied.values():
        _require_inner_links(part, path, repository)
    return copied | {target: _converted(table, repository, target) for target, table in part.tables.items()}


def _require_inner_links(part: GitPart, copied: Path, repository: Path) -> None:
    """Reject a link that leads out of a repository: a reader would take files of this machine for its data.

    Raises:
        ValueError: With the link.
    """
    inside = [Path(folder) / name for folder, *names in os.walk(copied) for name in (*names[0], *names[1])]
    for path in (copied, *inside):
        if path.is_symlink() and not path.resolve().is_relative_to(repository.resolve()):
            raise ValueError(
                f"{part.origin}: {path.relative_to(repository)} is a link out of the repository, to {path.readlink()}: "
                "nothing of this part is placed"
            )


def _converted(table: Table, repository: Path, target: str) -> Path:
    paths = [repository / path for path in table.from_files]
    rows = table_rows(paths[0], table.names or None) if len(paths) == 1 else _parallel_rows(paths, table.names)
    path = repository.parent / "converted" / target
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, (recipe_columns(row, table.columns) for row in rows))
    return path


def _parallel_rows(paths: Sequence[Path], names: Sequence[str]) -> Iterator[Row]:
    for lines in zip_longest(*map(text_lines, paths)):
        if None in lines:
            raise ValueError(f"{' and '.join(map(str, paths))}: expected equally many lines")
        texts = [text for _, text in lines]
        yield Row(dict(zip(names, texts, strict=True)), f"{paths[0]}, line {lines[0][0]}")


def _git(part: GitPart, repository: Path, *words: str) -> None:
    # Without this, git asks for a password and waits for ever.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    program = shutil.which("git")
    if program is None:
        raise ValueError(f"git is not installed, which {part.git} needs: install it (e.g. apt install git)")
    done = subprocess.run(
        [program, "-C", str(repository), *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        preexec_fn=end_when_parent_dies,  # the next download would use the repository beside it
    )
    if done.returncode:
        raise ValueError(f"{part.origin}: {_reason(done.stderr, words, repository)}")


def _reason(message: str, words: tuple[str, ...], repository: Path) -> str:
    lines = message.strip().splitlines() or ["no message"]
    problem = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1])  # hints follow
    if any(text in message for text in NO_NETWORK):
        return f"no connection ({problem}); run the command again: what arrived is kept"
    if words[0] == "checkout" and "not our ref" in message:
        return (
            f"the repository lacks the content of a file of this commit ({problem}), as a partial copy does; name a "
            "complete one as `git` in a table of your own (--sources), or place the files by hand"
        )
    if "not our ref" in message or "unadvertised object" in message:
        return (
            "this commit is no longer in the repository, so upstream has changed; choose another commit in a table of "
            "your own (--sources), and compare the reader's counts with `crosstask describe`"
        )
    if "Authentication failed" in message or "could not read Username" in message:
        return (
            "there is no such repository, or it asks for a password; correct `git` in a table of your own (--sources)"
        )
    return (
        f"git {words[0]} failed ({problem}); run the command again: what arrived is kept; if it fails as before, "
        f"remove {repository} and what arrived with it"
    )
