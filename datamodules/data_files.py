"""Readers of text and JSON in data files. They reject faults that Python's own readers accept silently.

Python keeps the last of two equal keys, reads NaN, turns 1e999 into infinity, and makes texts of lone surrogates, which
no tokenizer encodes. Here, each is a ValueError that begins with the file and the line.
"""

import codecs
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from .messages import kind
from .tracked_files import note

LONGEST_LINE = 64 * 2**20
"""Maximum number of bytes of a line; a longer line is an error, since it is rarely one record."""

MOST_EXPANDED, MOST_TIMES = 2**28, 400
"""Bytes to which any compressed file may expand, and beyond them its own size this many times; gzip can expand to 1,000
times, so that a small file of a stranger would take hours."""

BYTE_ORDER_MARK = "\ufeff"  # begins the files of some editors and belongs to no value

FETCH_AGAIN = "mend the file or fetch it again"

ZERO_BYTE = "a zero byte, as in UTF-16 and in files that are not text"

SAVE_AS_UTF8 = "save the file as UTF-8"

HALF_PAIR = re.compile(r"[\ud800-\udfff]")
"""Half of a surrogate pair, which Python accepts in texts although it is not a character."""

_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # first, since it begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


_BINARY = {
    b"\x1f\x8b": ("gzip", "end its name in .gz"),
    b"PAR1\x15": ("Parquet", "end its name in .parquet"),
    b"PK\x03\x04": ("a ZIP archive (as of Excel)", "unpack it, or save the table as CSV"),
}
"""(format, way out) by the first bytes of files that are often named as text."""


def format_of(path: Path) -> str:
    """Return the suffix that decides how a file is read: in lower case, without ``.gz``.

    The suffixes ``.ndjson`` and ``.jsonlines`` become ``.jsonl``.

    >>> format_of(Path("rte/Train.JSONL")), format_of(Path("rte/train.tsv.gz")), format_of(Path("rte/train.ndjson"))
    ('.jsonl', '.tsv', '.jsonl')
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return ".jsonl" if suffix in (".ndjson", ".jsonlines") else suffix


def task_name_of(path: Path) -> str:
    """Return the name of the task in a data file: the file's name without its suffix, and without ``.gz``.

    >>> task_name_of(Path("train/rhymes.v2.jsonl.gz"))
    'rhymes.v2'
    """
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return name.removesuffix(Path(name).suffix)


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file without a byte order mark; a ``.gz`` file is decompressed.

    Raises:
        ValueError: It is not UTF-8, or cannot be decompressed.
    """
    with _opened(path) as file:
        return decoded(file.read(), str(path))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without line end) of every line of a UTF-8 file; a ``.gz`` file is decompressed.

    Raises:
        ValueError: A line is not UTF-8, has a zero byte, or is longer than ``LONGEST_LINE``.
    """
    with _opened(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            place = f"{path}, line {number}"
            if len(line) > LONGEST_LINE:
                raise ValueError(f"{place}: longer than {LONGEST_LINE // 2**20} MiB; expected one record a line")
            text = decoded(line, place) if number == 1 else _utf8(line, place)
            if "\0" in text:
                raise ValueError(f"{place}: {ZERO_BYTE}; {SAVE_AS_UTF8}")
            yield number, text.rstrip("\r\n")


def listed_lines(path: Path) -> list[tuple[int, str]]:
    """Return (number from 1, stripped text) of every line that is not blank, e.g. of a list of names."""
    return [(number, line.strip()) for number, line in text_lines(path) if line.strip()]


def decoded(content: bytes, place: str) -> str:
    """Return the text of UTF-8 bytes without a byte order mark; errors begin with `place`.

    Raises:
        ValueError: The bytes are not UTF-8, or begin as those of gzip, Parquet or ZIP.
    """
    if other := next((name for mark, name in _OTHER_MARKS.items() if content.startswith(mark)), None):
        raise ValueError(f"{place}: {other} by its first bytes; {SAVE_AS_UTF8}")
    if binary := next((named for mark, named in _BINARY.items() if content.startswith(mark)), None):
        raise ValueError(f"{place}: {binary[0]} by its first bytes; {binary[1]}")
    return _utf8(content, place).removeprefix(BYTE_ORDER_MARK)


def read_json(path: Path) -> Any:
    """Return the content of a UTF-8 JSON file.

    Raises:
        ValueError: It is not JSON, has a key twice in an object, or has a number that is not finite.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, place: str, remedy: str = FETCH_AGAIN) -> Any:
    """Return the value of a JSON text.

    >>> parse_json('{"input": "a", "input": "b"}', "rte.jsonl, line 7")
    Traceback (most recent call last):
    ValueError: rte.jsonl, line 7: the key 'input' occurs twice in an object, and only one value would be read; \
    mend the file or fetch it again

    Args:
        text: One JSON value.
        place: File, and line if `text` is a line of it. Errors begin with it, and add the line of a longer text.
        remedy: Advice at the end of errors.

    Raises:
        ValueError: The text is not JSON, has a key twice in an object, a number that is not a finite float or has
            thousands of digits, nesting that is too deep for Python, or half of a surrogate pair.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if "\0" in text:
            raise _error(place, text, text.index("\0"), ZERO_BYTE, SAVE_AS_UTF8) from error
        problem = f"not valid JSON at column {error.colno}: {error.msg}"
        raise _error(place, text, error.pos, problem, remedy) from error
    except RecursionError as error:
        raise ValueError(f"{place}: lists and objects are nested too deeply for Python to read; {remedy}") from error
    except _NoFiniteNumber as error:
        raise _error(place, text, _number_at(text, _not_finite), str(error), remedy) from error
    except _RepeatedKey as error:
        raise _error(place, text, _repeated_key_at(text), str(error), remedy) from error
    except ValueError as error:  # Python reads no integer of more digits
        digits = sys.get_int_max_str_digits()
        problem = f"a whole number of more than {digits} digits"
        raise _error(
            place, text, _number_at(text, lambda n: n.lstrip("-").isdecimal() and len(n) > digits), problem, remedy
        ) from error
    if (position := _lone_surrogate_at(text)) is not None:
        problem = f"{text[position : position + 6]} is half of a surrogate pair, and not a character"
        raise _error(place, text, position, problem, remedy)
    return value


class _RepeatedKey(ValueError):
    """An object has a key twice."""


class _NoFiniteNumber(ValueError):
    """NaN, an infinity, or a number that a float cannot hold."""


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        repeated = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise _RepeatedKey(f"the key {repeated!r} occurs twice in an object, and only one value would be read")
    return fields


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise _NoFiniteNumber(f"the number {kind(digits)[4:]} is larger than a float can be")
    return value


def _no_constant(name: str) -> float:
    raise _NoFiniteNumber(f"{name} is not a JSON number; write null for a missing one")


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of, parse_float=_finite, parse_constant=_no_constant)

# Positions of errors, computed only after there is one.
_STRING = r'"(?:[^"\\]|\\.)*"'
_NUMBERS = re.compile(rf"{_STRING}|(?P<number>NaN|-?Infinity|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)", re.DOTALL)
_CLOSED = re.compile(rf"{_STRING}|(?P<brace>}})", re.DOTALL)

_HIGH, _LOW = r"u[dD][89abAB][0-9a-fA-F]{2}", r"u[dD][c-fC-F][0-9a-fA-F]{2}"
# Also matches \\ud800, which is a backslash and a text.
_MAYBE_LONE = re.compile(rf"\\{_HIGH}(?!\\{_LOW})|\\{_LOW}(?<!\\{_HIGH}\\{_LOW})")
_ESCAPE = re.compile(rf"\\(?:{_HIGH}\\{_LOW}|(?P<lone>{_HIGH}|{_LOW})|.)", re.DOTALL)


def _error(place: str, text: str, position: int, problem: str, remedy: str) -> ValueError:
    # A line of a file has its number in `place`.
    line = f", line {text.count(chr(10), 0, position) + 1}" if "\n" in text.strip() else ""
    return ValueError(f"{place}{line}: {problem}; {remedy}")


def _not_finite(number: str) -> bool:
    return not math.isfinite(float(number)) if number.lstrip("-")[0].isdecimal() else True


def _number_at(text: str, wanted: Callable[[str], bool]) -> int:
    positions = (match.start() for match in _NUMBERS.finditer(text) if match["number"] and wanted(match["number"]))
    return next(positions, 0)


def _repeated_key_at(text: str) -> int:
    """Return the position where the object with the repeated key ends; objects are parsed by their ends."""
    ends = (match.start() for match in _CLOSED.finditer(text) if match["brace"])

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        end = next(ends)
        try:
            return _object_of(pairs)
        except _RepeatedKey as error:
            raise _At(end) from error

    try:
        json.JSONDecoder(object_pairs_hook=count).decode(text)
    except _At as at:
        return int(at.args[0])
    raise AssertionError("no key is repeated")


class _At(Exception):
    """A position in a text."""


def _lone_surrogate_at(text: str) -> int | None:
    if not _MAYBE_LONE.search(text):
        return None
    return next((match.start() for match in _ESCAPE.finditer(text) if match["lone"]), None)


def _utf8(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        at = f", line {line}" if line > 1 else ""
        raise ValueError(f"{place}{at}: not UTF-8 at byte {error.start}; {SAVE_AS_UTF8}") from error


class _Expanded(io.RawIOBase):
    """The expanded bytes of a gzip file, which ends with an error if it expands beyond what data do.

    Args:
        path: The compressed file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.expanded = path, gzip.open(path), 0  # noqa: SIM115 - closed by close
        self.most = max(MOST_EXPANDED, MOST_TIMES * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.expanded += count
        if self.expanded > self.most:
            raise ValueError(
                f"{self.path}: expands to more than {MOST_TIMES} times its size, as no file of data does; if it is "
                "right, expand it by gunzip"
            )
        return int(count)

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    note(path)
    compressed = path.name.lower().endswith(".gz")
    with cast("IO[bytes]", io.BufferedReader(_Expanded(path)) if compressed else path.open("rb")) as file:
        try:
            yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            with path.open("rb") as plain:
                remedy = (
                    FETCH_AGAIN
                    if plain.read(2) == b"\x1f\x8b"
                    else "if it is not compressed, leave .gz out of its name"
                )
            raise ValueError(f"{path}: cannot be decompressed ({error}); {remedy}") from error
