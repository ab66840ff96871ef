"""Prompts become documents: tokens of source and target, joined; and the examples that are skipped.

For a decoder-only model, ``source.rstrip(" ") + " " + target`` is tokenized as one text, because a tokenizer may treat
a word differently at the start of a text. Released OPT-IML data was joined the same way (metaseq,
``_tokenize_src_tgt_json``). For an encoder-decoder model, source and target are tokenized apart.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..schema import Example, Prompt, Task, TokenizedExample


def load_tokenizer(name: str, *, eos: bool = True) -> PreTrainedTokenizerBase:
    """A fast tokenizer with an end-of-sequence token, from a hub name or a local folder.

    A tokenizer without a padding token gets the end-of-sequence token for it, since padding is never a target.

    Args:
        name: Hub name or folder.
        eos: Whether an eos token is required; a BERT tokenizer has none, and scored pairs need none.

    Raises:
        ValueError: It cannot be loaded, has no eos token, or cannot tell which characters a token covers.
    """
    if not name:
        raise ValueError("no tokenizer is named: set `tokenizer`, or `pretrained`, whose folder may hold one")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no tokenizer could be loaded from {name!r}: expected a hub name or a folder with tokenizer.json ({error})"
        ) from error
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


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of all that decides the token ids of a text."""
    special = json.dumps([tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id])
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + special).encode()).hexdigest()


def skip_reason(task: Task, example: Example) -> str | None:
    """Why an example is skipped: the reader's reason, or an empty input or target; None if it is used.

    A task-level example needs an input. An instance-level example may have none: dialogue and pre-training text have an
    empty source, and all of the text is target.
    """
    if example.skipped:
        return example.skipped
    if task.instruction_level == "task" and not example.input.strip():
        return "empty input"
    if not any(target.strip() for target in example.targets):
        return "empty target"
    return None


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text as a user's message in the tokenizer's chat template, up to where the answer begins.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: use plain prompts (chat: false), or "
            "a model that was tuned on chats"
        )
    message = {"role": "user", "content": text}
    prompt: str = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)  # type: ignore[assignment]
    return prompt


def tokenize_joint(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, bos: bool = False, joint: str = " "
) -> list[TokenizedExample]:
    """Documents of a decoder-only model: [bos] source joint target eos.

    A token that covers both sides of the joint belongs to the target, since the model has to write it. Behind a chat
    template the joint is empty.
    """
    sources = [prompt.source.rstrip(" ") for prompt in prompts]
    texts = [f"{source}{joint}{prompt.target}" for source, prompt in zip(sources, prompts, strict=True)]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    head = [tokenizer.bos_token_id] if bos else []
    if bos and tokenizer.bos_token_id is None:
        raise ValueError("bos is true, but the tokenizer has no bos token")
    documents = []
    for source, ids, spans in zip(sources, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        n_source = sum(1 for _, end in spans if end <= len(source))
        document = np.array([*head, *ids, tokenizer.eos_token_id], dtype=np.int64)
        documents.append(TokenizedExample(document, len(head) + n_source))
    return documents


def tokenize_pair(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[TokenizedExample]:
    """Documents of an encoder-decoder model: source eos | target eos, each side tokenized alone."""
    sides = [
        tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for texts in ([prompt.source for prompt in prompts], [prompt.target for prompt in prompts])
    ]
    eos = tokenizer.eos_token_id
    return [
        TokenizedExample(np.array([*source, eos, *target, eos], dtype=np.int64), len(source) + 1)
        for source, target in zip(*sides, strict=True)
    ]


def tokenize_sources(
    tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], *, pair: bool, bos: bool = False
) -> list[list[int]]:
    """Token ids of the sources: the same ids that precede the target in training."""
    if not sources:
        return []
    if pair:
        ids = tokenizer(list(sources), add_special_tokens=False, verbose=False)["input_ids"]
        return [[*source, tokenizer.eos_token_id] for source in ids]
    stripped = [source.rstrip(" ") for source in sources]
    ids = tokenizer(stripped, add_special_tokens=False, verbose=False)["input_ids"]
    return [[tokenizer.bos_token_id, *source] if bos else source for source in ids]
