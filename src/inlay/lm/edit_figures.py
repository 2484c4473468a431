"""What an edit did: whether the answer changed, how near the model came to reading the target, and what else moved.

    edit_figures(
        model, edit(model, [3], [germany], prompt=spain_prompt), spain_prompt, germany_prompt,
        answers=([berlin], [madrid]), unrelated=[other_text],
    )

Divergences are Kullback–Leibler in nats, of distributions of the next token.

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639), knowledge editing; the measures are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.lm.decoder import Decoder
from inlay.lm.editing import _ids

__all__ = ["EditFigures", "answer_log_probability", "divergence", "edit_figures", "edit_success"]


class EditFigures(NamedTuple):
    """Of one edit.

    Attributes:
        success: whether the edited model finds the target's answer likelier than the source's; None without answers.
        edited: divergence of the edited model from the plain one that reads the target's prompt.
        unedited: that of the plain model that reads the source's prompt: what there was to close.
        locality: largest divergence of the edited model from the plain one at any place of an unrelated text; 0 where
            nothing moved, None without such texts.
    """

    success: bool | None
    edited: float
    unedited: float
    locality: float | None


@torch.no_grad()
def edit_figures(
    model: Decoder, change: AbstractContextManager[Any], prompt: Any, target_prompt: Any, *,
    answers: tuple[Any, Any] | None = None, unrelated: Iterable[Any] = (),
) -> EditFigures:  # fmt: skip
    """Measure an edit.

    Args:
        model: in which the edit is made.
        change: `edit(…)`, `edit_text(…)` or `injected(…)`, not yet entered.
        prompt: ids [n] of the text that is edited.
        target_prompt: ids [m] of the text that names the target itself.
        answers: ids of the target's answer and of the source's, each int [k].
        unrelated: further texts, ids [length] each.
    """
    others = [_ids(text, model.vocab, "unrelated") for text in unrelated]
    was = model.training
    model.eval()
    try:
        target, before = (_next(model, text)[-1] for text in (target_prompt, prompt))
        plain = [_next(model, text) for text in others]
        with change:
            after = _next(model, prompt)[-1]
            moved = [_next(model, text) for text in others]
            success = None if answers is None else edit_success(model, prompt, *answers)
    finally:
        model.train(was)
    locality = max((float(divergence(new, old).max()) for new, old in zip(moved, plain)), default=None)
    return EditFigures(success, float(divergence(after, target)), float(divergence(before, target)), locality)


def edit_success(model: Decoder, prompt: Any, target_answer: Any, source_answer: Any) -> bool:
    """Whether the model, as it is now, finds the target's answer likelier than the source's after a prompt [n]."""
    found = [answer_log_probability(model, prompt, answer) for answer in (target_answer, source_answer)]
    return found[0] > found[1]


@torch.no_grad()
def answer_log_probability(model: Decoder, prompt: Any, answer: Any) -> float:
    """The log-probability, in nats, that a prompt [n] is continued by an answer [k], the sum over its tokens."""
    start, end = _ids(prompt, model.vocab, "prompt"), _ids(answer, model.vocab, "answer")
    logs = _next(model, [*start, *end[:-1]])[len(start) - 1 :]
    return float(logs[torch.arange(len(end)), torch.tensor(end)].sum())


def divergence(of: Tensor, reference: Tensor) -> Tensor:
    """KL(of ‖ reference) [...] in nats of log-probabilities [..., vocabulary]."""
    if of.shape != reference.shape:
        raise BadInput(f"distributions {list(of.shape)} and {list(reference.shape)} cannot be compared")
    return (of.exp() * (of - reference)).sum(-1).clamp(min=0)  # rounding may take it a little below


def _next(model: Decoder, ids: Any) -> Tensor:
    """Log-probabilities float64 [length, vocabulary] of the token after each of ids [length]."""
    text = torch.tensor([_ids(ids, model.vocab, "prompt")], device=model.head.weight.device)
    logs: Tensor = model(text).logits[0].double().log_softmax(-1).cpu()
    return logs
