"""Texts as token numbers with a marker behind the first: `[CLS] [Q] tokens [SEP]`, so that one model can tell queries
from documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from inlay.errors import BadInput, Corrupt

__all__ = ["MarkedTokens"]


class MarkedTokens:
    """Token numbers of texts of one role.

    The marker is inserted as a number, never read from the text. Where the vocabulary has no such token it is text that
    is put before the text; its last space goes with it or stays before the text, as the vocabulary has it.

    Args:
        path: `tokenizer.json`.
        marker: put behind the tokens that begin every text; may be empty.
        prompt: text put before each text.
        length: tokens after which all is cut, the marker and both ends included.
    """

    def __init__(self, path: str | Path, *, marker: str = "", prompt: str = "", length: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise Corrupt(f"{path} cannot be read ({error}); fetch the model again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        number, rest = self._known(marker)
        self._marker = np.array([] if number is None else [number], dtype=np.int64)
        self._before = rest + prompt
        ends = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        room = length - len(self._marker)
        if room <= ends:
            raise BadInput(
                f"{length} tokens leave none for the text: {ends + len(self._marker)} mark its ends and role"
            )
        # Special tokens that stand before a text: as many as lead the encoding of a letter.
        lead = np.array(self._tokenizer.encode("a").special_tokens_mask, dtype=bool)
        self._lead = int(np.argmin(lead)) if not lead.all() else 0
        self._tokenizer.enable_truncation(room)

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Int64 [tokens] of each text."""
        found = self._tokenizer.encode_batch([self._before + text for text in texts])
        ids = [np.array(one.ids, dtype=np.int64) for one in found]
        return [np.concatenate([own[: self._lead], self._marker, own[self._lead :]]) for own in ids]

    def numbers(self, tokens: Sequence[str]) -> list[int]:
        """Numbers of those tokens that the vocabulary has."""
        found = (self._tokenizer.token_to_id(token) for token in tokens)
        return [number for number in found if number is not None]

    def _known(self, marker: str) -> tuple[int | None, str]:
        """Number of the marker's token, and what of it remains text."""
        for token in (marker, *marker.split()[:1]):
            number = self._tokenizer.token_to_id(token) if token.strip() else None
            if number is not None:
                return number, marker[len(token) :]
        return None, marker
