"""Dialogues as text to continue: turns joined by one newline, all of it target (OPT-IML, section 4.1 and appendix A.2).

::

    folder/wizard_of_wikipedia/train.json, folder/convai2/train_both_original_no_cands.txt, ...     as ParlAI has them
    folder/taskmaster4/data_00.json, folder/sgd/train/dialogues_001.json

Speakers are not named, and personas, knowledge and acts are left out. A newline within a turn becomes a space.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..messages import kind
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Rendered
from .row_files import Row, file_rows, json_rows, jsonl_rows, text_lines

NO_TURNS = "no turns"

SPOKEN = ("Wizard => Apprentice", "Apprentice => Wizard")
"""Actions of Wizard of Internet that are turns; the others are searches."""


class Dialogue(Catalogue):
    """Reads the paper's dialogue datasets, Taskmaster-4 and schema-guided dialogue; see ``Catalogue`` for arguments.

    A file of your own in `sources` holds rows with ``turns``, a list of texts. LIGHT is published as a pickle, which
    can run code when it is opened: write its records as JSON first.
    """

    name = "dialogue"

    def datasets(self) -> Mapping[str, Dataset]:
        return DATASETS


def joined(turns: Iterable[str]) -> Iterable[Rendered]:
    """One dialogue.

    >>> next(iter(joined(["Hello! ", "", "Good\\nday."]))).targets
    ('Hello!\\nGood day.',)
    """
    said = [" ".join(turn.split()) for turn in turns if turn.strip()]
    yield Rendered("", ("\n".join(said),), skipped="" if said else NO_TURNS)


def _texts(row: Row, key: str, field: str) -> list[str]:
    """The field of every object that the row lists under `key`."""
    items = row.value(key)
    if not isinstance(items, list):
        raise row.error(f"{key!r} should be a list of turns, got {kind(items)}")
    return [
        Row(item, f"{row.place}, turn {place}").text(field) if isinstance(item, dict) else _refuse(row, place, item)
        for place, item in enumerate(items)
    ]


def _refuse(row: Row, place: int, item: object) -> str:
    raise row.error(f"turn {place} should be an object, got {kind(item)}")


def turns_of(key: str, field: str) -> Callable[[Row], Iterable[Rendered]]:
    """Renders rows that list their turns under `key`, each with its text in `field`."""
    return lambda row: joined(_texts(row, key, field))


def plain(row: Row) -> Iterable[Rendered]:
    yield from joined(row.texts("turns"))


def light(row: Row) -> Iterable[Rendered]:
    yield from joined(row.texts("speech"))


def wizard_of_internet(row: Row) -> Iterable[Rendered]:
    history = row.value("dialog_history")
    spoken = [turn for turn in history if Row(turn, row.place).text("action") in SPOKEN]
    yield from joined(_texts(Row({"spoken": spoken}, row.place), "spoken", "text"))


def wizard_of_internet_rows(path: Path) -> Iterator[Row]:
    """A line holds one conversation under its id."""
    for row in jsonl_rows(path):
        for identifier, record in row.fields.items():
            if not isinstance(record, dict):
                raise row.error(f"conversation {identifier!r} should be an object, got {kind(record)}")
            yield Row(record, row.place)


def blended_skill_talk(row: Row) -> Iterable[Rendered]:
    opening = [row.text("free_turker_utterance"), row.text("guided_turker_utterance")]
    said = row.value("dialog")
    if not all(isinstance(turn, list) and len(turn) == 2 and isinstance(turn[1], str) for turn in said):
        raise row.error(f"'dialog' should list pairs of speaker and text, got {kind(said)}")
    yield from joined([*opening, *(turn[1] for turn in said)])


def blended_skill_talk_of_hub(row: Row) -> Iterable[Rendered]:
    free, guided = row.texts("free_messages"), row.texts("guided_messages")
    if not len(guided) <= len(free) <= len(guided) + 1:
        raise row.error(f"expected messages in turn, got {len(free)} free and {len(guided)} guided ones")
    taken = [message for pair in zip(free, guided, strict=False) for message in pair]
    yield from joined([*row.texts("previous_utterance"), *taken, *free[len(guided) :]])


def convai2_rows(path: Path) -> Iterator[Row]:
    """Numbered lines; number 1 begins a dialogue. A line is a turn, a tab, the reply; candidates follow two tabs."""
    turns: list[str] = []
    begun = 0
    for number, line in text_lines(path):
        parts = re.fullmatch(r"(\d+) (.*)", line)
        if not parts:
            raise ValueError(f"{path}, line {number}: expected a number and a turn, got {kind(line)}")
        if parts.group(1) == "1":
            if begun:
                yield Row({"turns": turns}, f"{path}, line {begun}")
            turns, begun = [], number
        if not re.match(r"(your|partner's) persona: ", parts.group(2)):
            turns += parts.group(2).split("\t")[:2]
    if begun:
        yield Row({"turns": turns}, f"{path}, line {begun}")


def sessions(*paths: Path) -> Iterator[Row]:
    """Multi-Session Chat: JSONL named .txt, a file each session; the first sessions are ConvAI2's."""
    for path in paths:
        yield from jsonl_rows(path)


def folder_rows(folder: Path) -> Iterator[Row]:
    """The records of all JSON files of a folder but those that describe a schema."""
    for path in sorted(folder.glob("*.json")):
        if path.name != "schema.json":
            yield from json_rows(path)


def _dataset(
    name: str,
    columns: Sequence[str],
    render: Callable[[Row], Iterable[Rendered]],
    files: Mapping[Split, str | tuple[str, ...]],
    read: Callable[..., Iterable[Row]] = file_rows,
    more: tuple[Layout, ...] = (),
    licence: str = "",
) -> Dataset:
    return Dataset(
        name=name,
        category="Dialogue Generation",
        layouts=(Layout(tuple(columns), render), *more, Layout(("turns",), plain)),
        files={split: (Files((paths,) if isinstance(paths, str) else paths, read),) for split, paths in files.items()},
        licence=licence,
    )


def _splits(pattern: str, validation: str = "valid") -> dict[Split, str]:
    return {"train": pattern.format("train"), "validation": pattern.format(validation), "test": pattern.format("test")}


def _sessions(split: str, last: int) -> tuple[str, ...]:
    return tuple(f"msc/msc_dialogue/session_{number}/{split}.txt" for number in range(2, last + 1))


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        _dataset(
            "wizard_of_internet",
            ("dialog_history",),
            wizard_of_internet,
            _splits("wizard_of_internet/{}.jsonl"),
            wizard_of_internet_rows,
        ),
        _dataset(
            "wizard_of_wikipedia",
            ("chosen_topic", "dialog"),
            turns_of("dialog", "text"),
            {
                "train": "wizard_of_wikipedia/train.json",
                "validation": "wizard_of_wikipedia/valid_random_split.json",
                "test": "wizard_of_wikipedia/test_random_split.json",
            },
        ),
        _dataset(
            "blended_skill_talk",
            ("free_turker_utterance", "guided_turker_utterance", "dialog"),
            blended_skill_talk,
            _splits("blended_skill_talk/{}.json"),
            more=(Layout(("previous_utterance", "free_messages", "guided_messages"), blended_skill_talk_of_hub),),
        ),
        _dataset(
            "convai2",
            ("turns",),
            plain,
            {
                "train": "convai2/train_both_original_no_cands.txt",
                "validation": "convai2/valid_both_original_no_cands.txt",
            },
            convai2_rows,
        ),
        _dataset(
            "multi_session_chat",
            ("dialog", "previous_dialogs"),
            turns_of("dialog", "text"),
            {"train": _sessions("train", 4), "validation": _sessions("valid", 5), "test": _sessions("test", 5)},
            sessions,
        ),
        _dataset("light", ("speech",), light, {"train": "light/light_data.json"}),
        _dataset(
            "taskmaster4",
            ("utterances",),
            turns_of("utterances", "text"),
            {"train": "taskmaster4"},
            folder_rows,
            licence="CC BY 4.0",
        ),
        _dataset(
            "sgd",
            ("services", "turns"),
            turns_of("turns", "utterance"),
            _splits("sgd/{}", validation="dev"),
            folder_rows,
            licence="CC BY-SA 4.0",
        ),
    )
}
