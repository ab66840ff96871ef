"""Benchmark reader of OPT-IML's dialogue datasets: dialogues as plain text, all of which is target.

Turns are joined by newlines (OPT-IML, arXiv 2212.12017, section 4.1 and appendix A.2). A user's conversations with
roles are read by ``FileTasks`` (``conversations.py``).

::

    folder/wizard_of_wikipedia/train.json, folder/convai2/train_both_original_no_cands.txt, ...     as ParlAI has them
    folder/taskmaster4/data_00.json, folder/sgd/train/dialogues_001.json

Speakers, personas, knowledge and dialogue acts are left out. A newline within a turn becomes a space.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..data_files import text_lines
from ..messages import kind
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Layout, RenderedExample, Renderer, split_files
from .rows.row import Row
from .rows.row_files import file_rows, json_rows, jsonl_rows

NO_TURNS = "no turns"
"""Reason for skipping a dialogue."""

SPOKEN = ("Wizard => Apprentice", "Apprentice => Wizard")
"""Actions of Wizard of Internet that are turns; the others are searches."""


class Dialogue(Catalogue):
    """Reads OPT-IML's dialogue datasets, Taskmaster-4 and schema-guided dialogue as text that is all target.

    A dialogue is its turns, one per line, without speakers. A file of your own in `sources` has rows with ``turns``, a
    list of texts. LIGHT is published as a pickle, which can run code when it is opened: convert its records to JSON
    first.

    Args:
        folder: Folder with a folder for each dataset.
        sources: File or hub name of single datasets that are outside the folder, by dataset.
        split: Split of the datasets to read: ``train``, ``validation`` or ``test``.
    """

    name = "dialogue"

    def datasets(self) -> Mapping[str, Dataset]:
        return DATASETS


def dialogue_example(turns: Iterable[str]) -> Iterable[RenderedExample]:
    """Yield one example without an input, whose target is the dialogue with one turn per line.

    It is skipped if no turn has text.

    >>> next(iter(dialogue_example(["Hello! ", "", "Good\\nday."]))).targets
    ('Hello!\\nGood day.',)
    """
    lines = [" ".join(turn.split()) for turn in turns if turn.strip()]
    yield RenderedExample("", ("\n".join(lines),), skipped="" if lines else NO_TURNS)


def _texts(row: Row, key: str, field: str) -> list[str]:
    """Return one field of every object that the row lists under `key`."""
    items = row.value(key)
    if not isinstance(items, list):
        raise row.error(f"{key!r} should be a list of turns, got {kind(items)}")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise row.error(f"turn {index} should be an object, got {kind(item)}")
    return [Row(item, f"{row.location}, turn {index}").text(field) for index, item in enumerate(items)]


def turns_of(key: str, field: str) -> Renderer:
    """Return a function that renders a dialogue from a row in which `key` lists the turns as objects.

    Args:
        key: Column of the row with the list of turns.
        field: Field of a turn with its text.
    """
    return lambda row: dialogue_example(_texts(row, key, field))


def plain(row: Row) -> Iterable[RenderedExample]:
    """Yield the dialogue of a row with ``turns``, a list of texts."""
    yield from dialogue_example(row.texts("turns"))


def light(row: Row) -> Iterable[RenderedExample]:
    """Yield the dialogue of a LIGHT record, whose turns are in ``speech``."""
    yield from dialogue_example(row.texts("speech"))


def wizard_of_internet(row: Row) -> Iterable[RenderedExample]:
    """Yield the dialogue of a Wizard of Internet record, without its searches."""
    history = row.value("dialog_history")
    spoken = [turn for turn in history if Row(turn, row.location).text("action") in SPOKEN]
    yield from dialogue_example(_texts(Row({"spoken": spoken}, row.location), "spoken", "text"))


def wizard_of_internet_rows(path: Path) -> Iterator[Row]:
    """Yield the conversations of Wizard of Internet's JSONL file, whose lines map ids to conversations.

    Raises:
        ValueError: A conversation is not a JSON object.
    """
    for row in jsonl_rows(path):
        for identifier, record in row.fields.items():
            if not isinstance(record, dict):
                raise row.error(f"conversation {identifier!r} should be an object, got {kind(record)}")
            yield Row(record, row.location)


def blended_skill_talk(row: Row) -> Iterable[RenderedExample]:
    """Yield the dialogue of a Blended Skill Talk record: two opening utterances, then (speaker, text) pairs.

    Raises:
        ValueError: The turns are not pairs of speaker and text.
    """
    opening = [row.text("free_turker_utterance"), row.text("guided_turker_utterance")]
    turns = row.value("dialog")
    if not all(isinstance(turn, list) and len(turn) == 2 and isinstance(turn[1], str) for turn in turns):
        raise row.error(f"'dialog' should list pairs of speaker and text, got {kind(turns)}")
    yield from dialogue_example([*opening, *(turn[1] for turn in turns)])


def blended_skill_talk_of_hub(row: Row) -> Iterable[RenderedExample]:
    """Yield the dialogue of a Blended Skill Talk row on the hub, whose speakers' messages are in two lists.

    Raises:
        ValueError: The numbers of messages of the two speakers differ.
    """
    free, guided = row.texts("free_messages"), row.texts("guided_messages")
    if not len(guided) <= len(free) <= len(guided) + 1:
        raise row.error(f"expected alternating messages, got {len(free)} free and {len(guided)} guided ones")
    alternating = [message for pair in zip(free, guided, strict=False) for message in pair]
    yield from dialogue_example([*row.texts("previous_utterance"), *alternating, *free[len(guided) :]])


def convai2_rows(path: Path) -> Iterator[Row]:
    """Yield a row with ``turns`` for each dialogue of a ConvAI2 file, in ParlAI's format of numbered lines.

    A dialogue begins at number 1. A line is a turn, a tab, the reply, two tabs and candidate replies, which are not
    read; lines about personas are left out.

    Raises:
        ValueError: A line does not begin with a number.
    """
    turns: list[str] = []
    first_line = 0
    for number, line in text_lines(path):
        parts = re.fullmatch(r"(\d+) (.*)", line)
        if not parts:
            raise ValueError(f"{path}, line {number}: expected a number and a turn, got {kind(line)}")
        if parts.group(1) == "1":
            if first_line:
                yield Row({"turns": turns}, f"{path}, line {first_line}")
            turns, first_line = [], number
        if not re.match(r"(your|partner's) persona: ", parts.group(2)):
            turns += parts.group(2).split("\t")[:2]
    if first_line:
        yield Row({"turns": turns}, f"{path}, line {first_line}")


def session_rows(*paths: Path) -> Iterator[Row]:
    """Yield rows of Multi-Session Chat: JSONL files with the suffix .txt, one for each session but the first."""
    for path in paths:
        yield from jsonl_rows(path)


def folder_rows(folder: Path) -> Iterator[Row]:
    """Yield the records of all JSON files in a folder except schema.json."""
    for path in sorted(folder.glob("*.json")):
        if path.name != "schema.json":
            yield from json_rows(path)


def _dataset(
    name: str,
    columns: Sequence[str],
    render: Renderer,
    files: Mapping[Split, str | tuple[str, ...]],
    read: Callable[..., Iterable[Row]] = file_rows,
    more: tuple[Layout, ...] = (),
    licence: str = "",
) -> Dataset:
    return Dataset(
        name=name,
        category="Dialogue Generation",
        layouts=(Layout(tuple(columns), render), *more, Layout(("turns",), plain)),
        files=split_files(files, read),
        instruction_level="none",
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
            session_rows,
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
