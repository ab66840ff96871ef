"""Mirrors of upstream's repositories and datasets on this machine, made of the real files in CROSSTASK_DATA.

The repositories have upstream's paths, and the hub has upstream's names, splits and columns. What the data folder lacks
is missing upstream, too. Of CrossFit and ExMix it has nothing: their rows are made up, in upstream's form.
"""

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from small_hub import SmallHub

from crosstask.datamodules.downloads.sources import SHIPPED

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")

ONE_OF = {"tasks": 24, "bbh": 9, "cot-prompts": 9, "test": 12}
"""Folders of which one file in so many is mirrored (Super-NaturalInstructions, BIG-Bench Hard, MMLU)."""

PROMPTSOURCE = ("ag_news", "aqua_rat", "asnq", "cnn_dailymail", "imdb", "samsum", "super_glue")
"""Datasets of PromptSource whose templates are mirrored; one is not on the hub."""

FLAN_TEMPLATES = {
    "ag_news_subset": [("{title}\n{text}\nWhat is this about?\n{options_}", "{answer}")],
    "cnn_dailymail": [("{text}\nSum it up.", "{highlights}")],
    "imdb_reviews": [("{text}\nIs this review positive?\n{options_}", "{answer}")],
    "samsum": [("{dialogue}\nSum it up.", "{summary}")],
    "rte": [("{premise}\nDoes it follow that {hypothesis}?\n{options_}", "{answer}")],
    "cb": [("{premise}\nDoes it follow that {hypothesis}?\n{options_}", "{answer}")],
    "copa": [("{premise}\n{question}?\n{options_}", "{answer}")],
}
"""Templates in the form of upstream's program; its file is not a data file."""


@dataclass(frozen=True)
class Mirrors:
    """Mirrors of upstream's repositories and of the hub.

    Args:
        folder: Folder of the repositories.
        real: Data folder with the real files.
        sources: Path of a YAML of sources with the mirrors' addresses.
        hub: The hub, which the caller serves.
    """

    folder: Path
    real: Path
    sources: Path
    hub: SmallHub

    def place_by_hand(self, data: Path) -> None:
        """Place the files that a person downloads: the archives of MMLU, SuperGLUE and ToTTo."""
        shutil.copytree(self.real / "superglue", data / "superglue")
        _copy(self.real / "mmlu/test", data / "mmlu/test")
        (data / "totto").mkdir()
        for split in ("train", "dev"):
            shutil.copyfile(self.real / f"totto/{split}_sample.jsonl", data / f"totto/totto_{split}_data.jsonl")


def mirror(real: Path, folder: Path) -> Mirrors:
    """Mirror the collections of the shipped table whose files are in a data folder.

    Args:
        real: The data folder.
        folder: New folder of the mirrors.
    """
    table: dict[str, Any] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    hub, repositories = _hub(real), dict[str, Path]()
    for collection in table.values():
        for part in collection["parts"]:
            if "git" in part and _fill(part, real, folder):
                repositories[part["git"]] = folder / _name(part["git"])
            part.pop("rows", None)  # the mirrors have fewer
    commits = {address: _commit(repository) for address, repository in repositories.items()}
    for collection in table.values():
        collection["parts"] = [part for part in collection["parts"] if _has(part, commits, hub)]
        for part in collection["parts"]:
            if "git" in part:
                part |= {"commit": commits[part["git"]], "git": f"file://{repositories[part['git']]}"}
    sources = folder / "sources.yaml"
    sources.write_text(yaml.safe_dump(table), encoding="utf-8")
    return Mirrors(folder, real, sources, hub)


def _has(part: Mapping[str, Any], commits: Mapping[str, str], hub: SmallHub) -> bool:
    if "hub" in part:
        return any(path.startswith(f"{part.get('config') or ''}") for path in hub.files.get(part["hub"], ()))
    return part.get("git", "") in {"", *commits}


def _name(address: str) -> str:
    return address.rpartition("/")[2]


def _fill(part: dict[str, Any], real: Path, folder: Path) -> bool:
    """Copy a part's files to upstream's paths, list only these in the part, and return whether there are any."""
    repository = folder / _name(part["git"])
    kept = {path: target for path, target in part.get("files", {}).items() if (real / target).exists()}
    for path, target in kept.items():
        _copy(real / target, repository / path)
    if part["name"] == "templates" and "FLAN" in part["git"]:
        kept = part["files"]
        path = repository / "flan/templates.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"PATTERNS = {FLAN_TEMPLATES!r}\n")
    if part["name"] == "cogs":
        for table in part["tables"].values():
            path = repository / table["from_files"][0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"A cat ate {n} cakes .\teat ( cat , {n} )\tin_distribution\n" for n in range(60)))
    elif not kept:
        return False
    part["files"] = kept
    if part.get("licence_file"):
        (repository / part["licence_file"]).write_text(part["licence"])
    return True


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
    elif source.name in ONE_OF and source.parent.name != "sgd":
        target.mkdir()
        for path in sorted(source.iterdir())[:: ONE_OF[source.name]]:
            shutil.copyfile(path, target / path.name)
    elif source.name == "templates":  # PromptSource
        for name in PROMPTSOURCE:
            shutil.copytree(source / name, target / name)
    else:
        shutil.copytree(source, target, dirs_exist_ok=True)


def _commit(repository: Path) -> str:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(repository), *IDENTITY, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Files")
    return git("rev-parse", "HEAD")


def _hub(real: Path) -> SmallHub:
    """Return a hub of datasets whose texts the data folder has in another form."""
    hub = SmallHub()
    for name, codes in {
        "RTE": {"entailment": 0, "not_entailment": 1},
        "CB": {"entailment": 0, "contradiction": 1, "neutral": 2},
        "COPA": {},
    }.items():
        for split, file in {"train": "train", "validation": "val"}.items():
            rows = [
                row | {"label": codes.get(row["label"], row["label"])}
                for row in _lines(real, f"superglue/{name}/{file}")
            ]
            hub.add("super_glue", rows, name.lower(), split)
    for split, part in _parts("test", _news(real)).items():
        hub.add(
            "sh0416/ag_news", [{"title": t, "description": d, "label": n + 1} for t, d, n in part], "default", split
        )
        hub.add("ag_news", [{"text": f"{t} {d}", "label": n} for t, d, n in part], "default", split)
    for split, articles in _parts("validation", _articles(real)).items():
        for other in (split, "test") if split == "validation" else (split,):
            hub.add("cnn_dailymail", articles, "3.0.0", other)
    for split, chats in _parts("validation", _chats(real)).items():
        for other in (split, "test") if split == "validation" else (split,):
            hub.add("samsum", chats, "default", other)
    for split, reviews in _parts("test", _reviews(real)).items():
        hub.add("imdb", reviews, "plain_text", split)
    for split in ("validation", "test"):
        file = {"validation": "dev", "test": "test"}[split]
        hub.add("aqua_rat", list(_lines(real, f"aqua/{file}", "json")), "raw", "train" if file == "dev" else split)
    hub.add("allenai/c4", _paragraphs(real), "en")
    number = [
        {"sentence_good": f"{n} cats hurt themselves.", "sentence_bad": f"{n} cats hurt itself."} for n in range(60)
    ]
    hub.add("blimp", number, "anaphor_number_agreement")
    return hub


def _parts(held_out: str, rows: Iterator[Any]) -> dict[str, list[Any]]:
    """Divide rows into train and the held-out split, to which every fourth row goes."""
    listed = list(rows)
    rest = [row for place, row in enumerate(listed) if place % 4]
    return {"train": rest, held_out: listed[::4]}


def _lines(real: Path, file: str, ending: str = "jsonl") -> Iterator[dict[str, Any]]:
    with (real / f"{file}.{ending}").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _rendered(real: Path, template: str, pattern: str) -> Iterator[tuple[Mapping[str, str], str]]:
    """Yield the fields that a template of P3 renders, and the answer; rows without an answer are left out."""
    for row in _lines(real, f"p3_t0/{template}"):
        match = re.fullmatch(pattern, row["prompt"], re.DOTALL)
        if match and (answer := row["completion"].removesuffix("<|endoftext|>")):
            yield match.groupdict(), answer


def _news(real: Path) -> Iterator[tuple[str, str, int]]:
    labels = ("World politics", "Sports", "Business", "Science and technology")
    for fields, answer in _rendered(real, "ag_news_classify", r"(?P<text>.*) \nWhat label.*\n"):
        title, _, description = fields["text"].partition(") ")
        if answer in labels and description:
            yield f"{title})", description, labels.index(answer)


def _articles(real: Path) -> Iterator[dict[str, str]]:
    pattern = r"Summarise the article:\n\n(?P<text>.*)"
    for n, (fields, answer) in enumerate(_rendered(real, "cnn_dailymail_3_0_0_news_summary", pattern)):
        yield {"article": fields["text"][:1500], "highlights": answer, "id": str(n)}


def _chats(real: Path) -> Iterator[dict[str, str]]:
    for n, (fields, answer) in enumerate(_rendered(real, "samsum_Summarize_", r"Summarize: (?P<text>.*)\n")):
        yield {"id": str(n), "dialogue": fields["text"], "summary": answer}


def _reviews(real: Path) -> Iterator[dict[str, Any]]:
    pattern = r"(?P<text>.*) What is the sentiment expressed in this text\?\n?"
    for fields, answer in _rendered(real, "imdb_Text_Expressed_Sentiment", pattern):
        yield {"text": fields["text"][:1000], "label": int(answer == "positive")}


def _paragraphs(real: Path) -> list[dict[str, str]]:
    with (real / "anli/ANLI_analysis_r3_dev.csv").open(encoding="utf-8", newline="") as file:
        return [{"text": row["context"]} for row in islice(csv.DictReader(file), 200)]
