"""Git repositories into a data folder: pinned, whole, resumed, and never over files that a person placed."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from crosstask.cli import main
from crosstask.datamodules.downloads.downloading import Outcome, chosen_collections, download
from crosstask.datamodules.downloads.manual_files import PartFolder
from crosstask.datamodules.downloads.sources import GitPart, read_sources


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A repository of two tasks with a licence."""
    folder = tmp_path / "upstream"
    for name in ("bbh/navigate.json", "bbh/snarks.json", "paper/large.pdf"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"examples": [{"input": "a", "target": "b"}]}')
    (folder / "LICENSE").write_text("MIT License")
    git(folder, "init", "--quiet")
    commit_all(folder)
    return folder


def commit_all(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "State")
    return git(folder, "rev-parse", "HEAD")


def part(upstream: Path, **changes: object) -> dict[str, object]:
    commit = git(upstream, "rev-parse", "HEAD")
    fields = {"name": "tasks", "licence": "MIT", "git": f"file://{upstream}", "commit": commit}
    return fields | {"licence_file": "LICENSE", "files": {"bbh": "bbh/bbh"}} | changes


def table(tmp_path: Path, *parts: dict[str, object]) -> str:
    path = tmp_path / "sources.yaml"
    bbh = {"title": "BBH", "use": "evaluation", "reader": "BigBenchHard", "parts": list(parts)}
    path.write_text(yaml.safe_dump({"bbh": bbh}))
    read_sources.cache_clear()
    return str(path)


def outcomes(tmp_path: Path, *parts: dict[str, object], verify: bool = False) -> list[Outcome]:
    collections = chosen_collections(["bbh"], read_sources(table(tmp_path, *parts)))
    return list(download(collections, tmp_path / "data", verify=verify))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_listed_files_of_the_commit_are_placed_with_licence_and_record(upstream: Path, tmp_path: Path) -> None:
    pinned = part(upstream)
    (upstream / "bbh/snarks.json").write_text("{}")  # a later commit is not obtained
    commit_all(upstream)
    ((*_, status, _),) = outcomes(tmp_path, pinned)
    assert status == "placed"
    placed = ["bbh/bbh/navigate.json", "bbh/bbh/snarks.json", "licences/bbh-tasks.txt"]
    assert files(tmp_path / "data") == [".downloads/bbh/tasks.json", *placed]
    assert "examples" in (tmp_path / "data/bbh/bbh/snarks.json").read_text()
    shutil.rmtree(upstream)  # what is complete needs no connection
    assert [outcome.status for outcome in outcomes(tmp_path, pinned)] == ["complete"]


def test_what_was_interrupted_resumes_and_nothing_half_placed_is_read(upstream: Path, tmp_path: Path) -> None:
    pinned, data = part(upstream), tmp_path / "data"
    repository = data / ".downloads/bbh/tasks.unfinished/repository"
    repository.mkdir(parents=True)
    git(repository, "init", "--quiet")
    for lock in ("index.lock", "info/sparse-checkout.lock"):  # git was killed
        (repository / ".git" / lock).parent.mkdir(exist_ok=True)
        (repository / ".git" / lock).touch()
    outcomes(tmp_path, pinned)
    whole = files(data)
    # Killed between the record and the last rename: the files wait below .downloads, where no reader looks.
    ready = data / ".downloads/bbh/tasks.unfinished/ready/bbh"
    ready.mkdir(parents=True)
    (data / "bbh/bbh").rename(ready / "bbh")
    shutil.rmtree(upstream)
    assert [outcome.status for outcome in outcomes(tmp_path, pinned)] == ["complete"]
    assert files(data) == whole


@pytest.mark.parametrize(("name", "target"), [("passwd.json", "/etc/passwd"), ("all", "../..")])
def test_a_link_out_of_a_repository_is_not_placed(name: str, target: str, upstream: Path, tmp_path: Path) -> None:
    """A reader would take files of this machine for examples."""
    (upstream / "bbh" / name).symlink_to(target)
    commit_all(upstream)
    ((*_, status, message),) = outcomes(tmp_path, part(upstream))
    assert status != "placed"
    assert f"bbh/{name} is a link out of the repository, to {target}: nothing of this part is placed" in message
    assert not (tmp_path / "data/bbh").exists()


def test_a_link_within_a_repository_is_placed(upstream: Path, tmp_path: Path) -> None:
    (upstream / "bbh/again.json").symlink_to("snarks.json")
    commit_all(upstream)
    ((*_, status, _),) = outcomes(tmp_path, part(upstream))
    assert status == "placed"
    assert (tmp_path / "data/bbh/bbh/again.json").read_text() == (upstream / "bbh/snarks.json").read_text()


def test_files_placed_by_hand_are_kept(upstream: Path, tmp_path: Path) -> None:
    own = tmp_path / "data/bbh/bbh/navigate.json"
    own.parent.mkdir(parents=True)
    own.write_text("my own")
    (outcome,) = outcomes(tmp_path, part(upstream))
    assert outcome.status == "kept"
    assert own.read_text() == "my own"


def test_a_changed_file_is_reported_by_its_digest(upstream: Path, tmp_path: Path) -> None:
    pinned = part(upstream)
    outcomes(tmp_path, pinned)
    path = tmp_path / "data/bbh/bbh/snarks.json"
    path.write_text(path.read_text().replace("b", "c"))  # of equal size
    assert [outcome.status for outcome in outcomes(tmp_path, pinned)] == ["complete"]
    (outcome,) = outcomes(tmp_path, pinned, verify=True)
    assert outcome.status == "failed"
    assert "bbh/bbh/snarks.json changed after the download" in outcome.message
    path.unlink()  # a missing one is obtained again, and the changed one is not replaced silently
    assert [outcome.status for outcome in outcomes(tmp_path, pinned)] == ["failed"]


def test_tables_become_rows_of_inputs_and_targets(upstream: Path, tmp_path: Path) -> None:
    (upstream / "data.tsv").write_text("A cat ran .\tcat ( 1 ) AND run ( 2 )\tin_distribution\n")
    (upstream / "modern").write_text("you are\nhe is\n")
    (upstream / "original").write_text("thou art\nhe is\n")
    commit_all(upstream)
    columns = {"inputs": {"from": "sentence"}, "targets": {"from": "form"}}
    tables = {
        "exmix/cogs/train.jsonl": {
            "from_files": ["data.tsv"],
            "names": ["sentence", "form", "kind"],
            "columns": columns,
        },
        "exmix/style/train.jsonl": {
            "from_files": ["modern", "original"],
            "names": ["sentence", "form"],
            "columns": columns,
        },
    }
    outcomes(tmp_path, part(upstream, files={}, tables=tables))
    assert (tmp_path / "data/exmix/cogs/train.jsonl").read_text() == (
        '{"inputs": "A cat ran .", "targets": "cat ( 1 ) AND run ( 2 )"}\n'
    )
    assert '{"inputs": "you are", "targets": "thou art"}' in (tmp_path / "data/exmix/style/train.jsonl").read_text()
    tables["exmix/cogs/train.jsonl"]["columns"] = {"inputs": {"from": "sentense"}}
    shutil.rmtree(tmp_path / "data")
    (outcome,) = outcomes(tmp_path, part(upstream, files={}, tables=tables))
    assert (
        "data.tsv, line 1: nothing at sentense, from which 'inputs' is made; nearest: sentence; there are"
        in outcome.message
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": "0" * 40}, "this commit is no longer in the repository, so upstream has changed"),
        ({"licence_file": "COPYING"}, "no licence file COPYING: the licence may not be MIT any more"),
        ({"files": {"tasks": "bbh/bbh"}}, "no tasks; correct the paths in a table of your own"),
        (
            {"git": "file:///nowhere"},
            "git fetch failed .*/nowhere.* does not appear to be a git repository.*; run the command again",
        ),
    ],
    ids=["commit", "licence", "path", "repository"],
)
def test_what_upstream_lacks_is_named(upstream: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    (outcome,) = outcomes(tmp_path, part(upstream, **changes))
    assert outcome.status == "failed"
    with pytest.raises(ValueError, match=message):
        raise ValueError(outcome.message)
    assert not (tmp_path / "data/bbh").exists()


def test_a_partial_copy_of_a_repository_is_not_taken_for_a_change(upstream: Path, tmp_path: Path) -> None:
    pinned = part(upstream)
    for name in ("allowFilter", "allowAnySHA1InWant"):
        git(upstream, "config", f"uploadpack.{name}", "true")
    digest = git(upstream, "rev-parse", "HEAD:bbh/navigate.json")  # the content of both files
    (upstream / ".git/objects" / digest[:2] / digest[2:]).unlink()
    (outcome,) = outcomes(tmp_path, pinned)
    assert "the repository lacks the content of a file of this commit" in outcome.message
    assert not (tmp_path / "data/bbh").exists()


def test_no_git_is_named(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = part(upstream)
    monkeypatch.setenv("PATH", str(tmp_path))
    (outcome,) = outcomes(tmp_path, pinned)
    assert "git is not installed" in outcome.message


def test_files_by_hand_are_explained_until_they_are_there(tmp_path: Path) -> None:
    by_hand = {
        "name": "a",
        "licence": "LDC",
        "by_hand": "https://a",
        "how": "Sign the form",
        "files": {"a.csv": "a/a.csv"},
    }
    (outcome,) = outcomes(tmp_path, by_hand)
    assert (outcome.status, outcome.message) == (
        "by hand",
        "Sign the form (https://a; licence: LDC). Place a/a.csv below the folder",
    )
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/a.csv").touch()
    assert [outcome.status for outcome in outcomes(tmp_path, by_hand)] == ["kept"]


def test_the_command_lists_downloads_and_ends_with_an_error_if_a_part_failed(
    upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--to", str(tmp_path / "data"), "--sources", table(tmp_path, part(upstream))]
    main(["download", "bbh", *words, "--dry_run"])
    assert f"tasks: file://{upstream} @ " in capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    main(["download", "bbh", *words])
    assert "1 placed; export CROSSTASK_DATA=" in capsys.readouterr().out
    words = ["--to", str(tmp_path / "new"), "--sources", table(tmp_path, part(upstream, commit="0" * 40))]
    with pytest.raises(ValueError, match=r"1 of 1 parts were not obtained, for the reasons above: \w+/\w+"):
        main(["download", "bbh", *words])
    with pytest.raises(ValueError, match="no collection 'bhb'; nearest: bbh"):
        main(["download", "bhb", *words])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"comit": "a"}, "no field 'comit'; nearest: commit"),
        ({"commit": "9ee07bd"}, "a commit has 40 hexadecimal digits"),
        ({"files": {"bbh": "../bbh"}}, "'../bbh' is outside the data folder"),
        ({"hub": "a/b"}, "a part has one of git, hub, by_hand, rows_of"),
        ({"files": None}, r"files should be a mapping of \(text\), got NoneType None"),
        ({"files": {"bbh": 5}}, r"files should be a mapping of \(text\), got dict {'bbh': 5}"),
        ({"megabytes": "many"}, "megabytes should be number or null, got str 'many'"),
        ({"name": "../../tasks"}, "a name has letters, digits, '_', '.' and '-' alone, got '../../tasks'"),
        ({"tables": {"a.jsonl": 5}}, r"tables should be a mapping of \(a mapping\)"),
        ({"tables": {"a.jsonl": {"columns": {}}}}, "from_files is missing"),
        ({"tables": {"a.jsonl": {"from_files": ["a.tsv"], "columns": {"b": {}}}}}, "column 'b' needs `from`"),
    ],
    ids="field commit target kinds files file number name tables table recipe".split(),
)
def test_mistakes_in_a_table_are_named(
    upstream: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_sources(table(tmp_path, part(upstream, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"most": "few"}, "most should be whole number or null, got str 'few'"),
        ({"merged": 1}, "merged should be true or false, got int 1"),
        ({"one_of": {"a": {}}}, r"one_of should be a list of \(a mapping of \(a mapping\)\)"),
        ({"columns": {"inputs": {"before": "?"}}}, "column 'inputs' needs `from`"),
        ({"skip": {"text": "("}}, r"'\(' is not a regular expression: missing \)"),
    ],
    ids=["number", "flag", "list", "recipe", "pattern"],
)
def test_mistakes_in_a_hub_dataset_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    rows = {"name": "tasks", "licence": "MIT", "hub": "a/b", "to": "bbh/a.jsonl"}
    assert read_sources(table(tmp_path, rows | {"megabytes": 1, "skip": {"text": "^$"}}))["bbh"].parts
    with pytest.raises(ValueError, match=message):
        read_sources(table(tmp_path, rows | changes))


def test_parts_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text("bbh: {title: BBH, use: evaluation, reader: BigBenchHard, parts: null}")
    with pytest.raises(ValueError, match=r"bbh: parts should be a list of \(a mapping\), got NoneType None"):
        read_sources(str(path))


def test_two_parts_share_neither_name_nor_target(upstream: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two parts are called 'tasks'"):
        read_sources(table(tmp_path, part(upstream), part(upstream)))
    with pytest.raises(ValueError, match="'bbh/bbh' is a target of 'tasks' and of 'again'"):
        read_sources(table(tmp_path, part(upstream), part(upstream, name="again")))


def test_a_part_without_all_its_files_is_obtained_again(upstream: Path, tmp_path: Path) -> None:
    pinned = part(upstream)
    outcomes(tmp_path, pinned)
    shutil.rmtree(tmp_path / "data/bbh")
    assert [outcome.status for outcome in outcomes(tmp_path, pinned)] == ["placed"]
    read = read_sources(table(tmp_path, pinned))["bbh"].parts[0]
    assert isinstance(read, GitPart)
    place = PartFolder(tmp_path / "data", "bbh", read)
    record = place.record()
    assert record is not None
    assert place.missing(record) == []
