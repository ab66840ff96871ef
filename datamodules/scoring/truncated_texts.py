"""Texts that were too long and were cut: how many are equal to another one in what remains."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray


class CutTexts:
    """Counts texts that truncation has made equal to another text, so that a scorer cannot tell them apart.

    It keeps digests of each text's tokens before and after truncation. Digests can be joined over batches and
    processes, so that equal remainders are found wherever they were scored.

    Args:
        remainders: Digest of the remainder of each text, by the digest of the whole text.

    Attributes:
        added: Number of texts that were added, equal ones included.
    """

    def __init__(self, remainders: Mapping[str, str] | None = None) -> None:
        self.remainders, self.added = dict(remainders or {}), 0

    def add(self, whole: NDArray[Any], remainder: NDArray[Any]) -> None:
        """Add a text.

        Args:
            whole: int64 [L], its tokens before truncation.
            remainder: int64 [R], the tokens that remain; all of them for a text that fits exactly.
        """
        self.remainders[_digest(whole)] = _digest(remainder)
        self.added += 1

    def equal(self) -> int:
        """Return the number of texts whose remaining tokens are equal to those of another text.

        >>> CutTexts({"a": "x", "b": "x", "c": "z"}).equal()
        2
        """
        return sum(count for count in Counter(self.remainders.values()).values() if count > 1)


def _digest(ids: NDArray[Any]) -> str:
    return hashlib.blake2b(ids.astype("int64").tobytes(), digest_size=8).hexdigest()
