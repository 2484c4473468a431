"""Rows kept: documents, their passages and their vectors, durable in one directory.

`open` creates or opens a `Collection`. The catalog (SQLite) is the one source of truth; rows live in immutable
segments beside it. `folder.sync` keeps a collection in step with a folder of files.
"""

from __future__ import annotations

from inlay.collection.collection import Collection, open
from inlay.collection.writer import Failure, Report

__all__ = ["Collection", "Failure", "Report", "open"]
