"""Text as language models read it: tokens, one document after another, each behind a separator.

Tokens are byte-level BPE (the `tokenizers` package), learnt from the training documents alone. The separator has id 0,
so that a document begins wherever `ids == 0`, and parts that must not look across documents see where that is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["SEPARATOR", "encode", "fingerprint", "learn_tokenizer", "split_documents"]

SEPARATOR = "<|text|>"


def learn_tokenizer(texts: Iterable[str], vocab: int = 4096) -> Tokenizer:
    """A byte-level BPE tokenizer of `vocab` tokens; id 0 is the separator, any text can be told back exactly."""
    if vocab < 258:
        raise BadInput(f"vocab must be at least 258 (256 bytes, the separator and one merge), got {vocab}")
    tokenizers = _tokenizers()
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    if made.get_vocab_size() < vocab:
        raise BadInput(f"the text has {made.get_vocab_size()} tokens to learn, fewer than vocab {vocab}; lower it")
    return made


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Token ids int64 [n] of documents, the separator before each."""
    if isinstance(texts, str):
        raise BadInput("encode takes a list of documents, got one str; write [text]")
    rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    if not rows:
        raise BadInput("there are no documents to encode")
    start = tokenizer.token_to_id(SEPARATOR)
    if start is None:
        raise BadInput(f"this tokenizer has no separator {SEPARATOR}; make it with learn_tokenizer")
    return np.concatenate([np.array([start, *row.ids], dtype=np.int64) for row in rows])


def split_documents(texts: Sequence[str], share: float = 0.1) -> tuple[list[str], list[str]]:
    """Whole documents for training and, evenly spread over them, a share for validation."""
    if not 0 < share < 1:
        raise BadInput(f"share must be between 0 and 1, got {share}")
    every = max(2, round(1 / share))
    if len(texts) < 2:
        raise BadInput("a split needs at least two documents")
    kept = [text for i, text in enumerate(texts) if i % every != min(every, len(texts)) - 1]
    return kept, [text for i, text in enumerate(texts) if i % every == min(every, len(texts)) - 1]


def fingerprint(tokenizer: Any) -> str:
    """What tells tokenizers apart: a digest of everything this one does."""
    return hashlib.blake2b(tokenizer.to_str().encode(), digest_size=16).hexdigest()


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError:
        raise MissingExtra("tokenizers of language models", "train") from None
    return tokenizers
