"""Learned-sparse vectors without a model, from the texts under INLAY_DATA: see `ExpandedText` of the reproductions."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.data import DataMissing, folder
from inlay.errors import BadInput
from inlay.reproductions.indexes._expanded_text import TEXTS, ExpandedText

__all__ = ["TEXTS", "Corpus"]


class Corpus(ExpandedText):
    """The text, and rows made of it.

    Args:
        texts: files under the data folder to take it from; those that are absent are left out.
    """

    def __init__(self, texts: Sequence[str] = TEXTS) -> None:
        try:
            super().__init__(folder(), texts)
        except BadInput as error:
            raise DataMissing(str(error)) from error
