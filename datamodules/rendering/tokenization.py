"""Tokenization of prompts: tokens of source and target become a document.

For a decoder-only model, ``source.rstrip(" ") + " " + target`` is tokenized as one text, because a tokenizer may treat
a word differently at the start of a text. Released OPT-IML data was joined the same way (metaseq,
``_tokenize_src_tgt_json``). For an encoder-decoder model, source and target are tokenized apart. In both, the tokens
before the target are those of the source alone, so that a model is evaluated on the tokens that it was trained behind.
Conversations in a chat template are tokenized in ``chat.py``.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..hub_names import hub_source
from ..messages import command_line, expanded
from ..optional_packages import missing_package
from ..schema import Prompt, TokenizedExample
from .special_tokens import encode, leading_tokens, special_tokens

ENCODING_VERSION = 2
"""Part of every tokenizer's fingerprint: raise it when the same text gets other ids."""


def load_tokenizer(name: str, *, eos: bool = True) -> PreTrainedTokenizerBase:
    """Return a fast tokenizer with an end-of-sequence token, from a hub name or a local folder.

    A tokenizer without a padding token gets the end-of-sequence token for it, since padding is never a target.

    Args:
        name: Hub name, possibly with @revision, or folder of the tokenizer.
        eos: Whether an eos token is required. Scored pairs need none, and BERT's tokenizer has none.

    Raises:
        ValueError: The tokenizer cannot be loaded, has no eos token, or has no fast version.
    """
    if not name:
        raise ValueError("no tokenizer is named: set `tokenizer`, or `pretrained`, whose folder may hold one")
    try:
        source, revision = hub_source(name)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **revision)
    except ImportError as error:
        raise ValueError(f"the tokenizer {name!r} cannot be loaded: {missing_package(error) or error}") from error
    except Exception as error:  # tokenizers raises errors of no kind for a damaged tokenizer.json
        raise ValueError(
            f"no tokenizer could be loaded from {name!r}: expected a hub name or a folder with tokenizer.json "
            f"({_missing_folder(name) or error})"
        ) from error
    if not tokenizer("a 1", add_special_tokens=False)["input_ids"]:
        raise ValueError(f"tokenizer {name!r} has no tokens for text: its vocabulary is empty, or special tokens alone")
    if eos and tokenizer.eos_token_id is None:
        raise ValueError(
            f"tokenizer {name!r} has no eos token, and eos ends every document; "
            "set eos_token in its tokenizer_config.json"
        )
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer {name!r} has no fast version (tokenizer.json), which token offsets need")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _missing_folder(name: str) -> str:
    """Where a path to a tokenizer ends, and how to get the quickstart's; empty for a hub name or an existing path."""
    path = expanded(name)
    if path.exists() or len(path.parts) < 3:  # owner/name may be on the hub
        return ""
    deepest = next(parent for parent in path.absolute().parents if parent.is_dir())
    written = (
        f"; {command_line('toybench', '--folder', path.parent)} writes it" if path.parent.name == "toybench" else ""
    )
    return f"the path exists as far as {deepest}{written}"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 of all that decides the token ids of a text: vocabulary, special tokens and chat template."""
    special = [
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
        tokenizer.pad_token_id,
        *sorted(special_tokens(tokenizer)),
    ]
    template = [tokenizer.chat_template] if tokenizer.chat_template else []
    definition = tokenizer.backend_tokenizer.to_str() + json.dumps([ENCODING_VERSION, *special, *template])
    return hashlib.sha256(definition.encode()).hexdigest()


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 of a tokenizer's tokens with their ids: equal digests mean that an id is the same token."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def tokenize_joint(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    bos: bool | None = None,
    joint: str = " ",
    end: int | None = None,
) -> list[TokenizedExample]:
    """Tokenize prompts for a decoder-only model: bos (if any), source, joint text, target, end token.

    The tokens before the target are those of ``tokenize_sources``, which are read at evaluation. The target's tokens
    are the remaining tokens of the whole text. If a tokenizer merges text across the joint, the whole text does not
    begin with the source's tokens, and the target is tokenized by itself.

    Args:
        tokenizer: The model's tokenizer.
        prompts: Sources and targets.
        bos: Whether the bos token begins a document; None for what the tokenizer adds by itself.
        joint: Text between source and target. With a chat template, the white space that it writes there.
        end: Id of the token after the target; None for the tokenizer's eos.

    Raises:
        ValueError: The tokenizer merges text across the joint, and the target's own tokens decode to another text.
    """
    sources = [_stripped(prompt.source, joint) for prompt in prompts]
    distinct = list(dict.fromkeys(sources))
    source_ids = dict(zip(distinct, encode(tokenizer, distinct), strict=True))
    whole = encode(
        tokenizer, [f"{source}{joint}{prompt.target}" for source, prompt in zip(sources, prompts, strict=True)]
    )
    head, tail = leading_tokens(tokenizer, bos), [tokenizer.eos_token_id if end is None else end]
    documents = []
    for source, prompt, ids in zip(sources, prompts, whole, strict=True):
        before = source_ids[source]
        n_source = len(before)
        if ids[:n_source] != before:
            ids = before + _target_alone(tokenizer, before, ids, joint, prompt.target)
        documents.append(TokenizedExample(np.array([*head, *ids, *tail], dtype=np.int64), len(head) + n_source))
    return documents


def _stripped(source: str, joint: str) -> str:
    """Return a source without the spaces that the joint replaces; a chat template may end in a space."""
    return source.rstrip(" ") if joint else source


def _target_alone(
    tokenizer: PreTrainedTokenizerBase, before: list[int], whole: list[int], joint: str, target: str
) -> list[int]:
    """Return a target's tokens by themselves, if they continue the source's tokens to the same text as the whole."""
    text = _visible(tokenizer, whole)
    for ids in encode(tokenizer, [joint + target, target]):
        if _visible(tokenizer, before + ids) == text:
            return ids
    raise ValueError(
        f"the tokenizer {tokenizer.name_or_path!r} merges text across the joint of a source and its target, so that "
        f"the tokens that are read at evaluation cannot be trained, e.g. before the target {target[:40]!r}: choose a "
        "tokenizer that splits text at spaces"
    )


def _visible(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return decoded text without white space: SentencePiece begins a text by itself with a space."""
    decoded = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return unicodedata.normalize("NFC", "".join(decoded.split()))


def tokenize_pair(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, bos: bool | None = None
) -> list[TokenizedExample]:
    """Tokenize prompts for an encoder-decoder model: source, eos, target, eos; each side is tokenized alone.

    Args:
        tokenizer: The model's tokenizer.
        prompts: Sources and targets.
        bos: Whether the bos token begins both sides; None for what the tokenizer adds by itself, which BART's does and
            T5's does not.
    """
    head, eos = leading_tokens(tokenizer, bos), tokenizer.eos_token_id
    sources = encode(tokenizer, [prompt.source for prompt in prompts])
    targets = encode(tokenizer, [prompt.target for prompt in prompts])
    return [
        TokenizedExample(
            np.array([*head, *source, eos, *head, *target, eos], dtype=np.int64), len(head) + len(source) + 1
        )
        for source, target in zip(sources, targets, strict=True)
    ]


def tokenize_sources(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    pair: bool,
    bos: bool | None = None,
    joint: str = " ",
) -> list[list[int]]:
    """Tokenize prompts for evaluation: return the ids that the model reads, the same that precede a target in training.

    Args:
        tokenizer: The model's tokenizer.
        sources: Texts of the prompts.
        pair: Whether the model is an encoder-decoder, so that eos ends a source.
        bos: Whether the bos token begins a document; None for what the tokenizer adds by itself.
        joint: Text between source and target, as in training. Unless it is empty, spaces at the end of a source are
            dropped, as training drops them.
    """
    head, end = leading_tokens(tokenizer, bos), [tokenizer.eos_token_id] if pair else []
    texts = list(sources) if pair else [_stripped(source, joint) for source in sources]
    return [[*head, *ids, *end] for ids in encode(tokenizer, texts)]
