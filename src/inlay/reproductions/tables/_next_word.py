"""What the reproductions of tables share: English text as numbered words, and a small model of the next one.

Word numbers rise as frequencies fall; 0 is every word that is not among the vocabulary. Documents go whole into
training (eight of ten), validation or test.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from inlay.tables.table import Table

__all__ = ["NextWord", "Words", "losses", "train", "words"]


class Words(NamedTuple):
    """Numbered words of each split, int64, one document after another."""

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: int


def words(data: Path, vocabulary: int) -> Words:
    """`text/english_text` with its `vocabulary` − 1 commonest words of training numbered from 1."""
    parts: list[list[str]] = [[], [], []]
    with gzip.open(data / "text" / "english_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            tokens = re.findall(r"\w+|[^\w\s]", json.loads(line)["text"].lower())
            parts[{8: 1, 9: 2}.get(number % 10, 0)].extend(tokens)
    number_of = {word: i for i, (word, _) in enumerate(Counter(parts[0]).most_common(vocabulary - 1), 1)}
    train, valid, test = (torch.tensor([number_of.get(word, 0) for word in part]) for part in parts)
    return Words(train, valid, test, vocabulary)


class NextWord(nn.Module):
    """Rows of the last `context` words, side by side, through one hidden layer to the next word.

    The output layer is dense and its own (untied), so that tables are compared as inputs alone. It is an adaptive
    softmax (Grave et al. 2017) at full width: exact log-likelihoods, at a third of the time.
    """

    def __init__(self, table: Table, vocabulary: int, *, context: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.table, self.context = table, context
        self.mix = nn.Linear(context * table.dim, hidden)
        cuts = [vocabulary // 16, vocabulary // 4]
        self.out = nn.AdaptiveLogSoftmaxWithLoss(hidden, vocabulary, cuts, div_value=1.0)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Log-likelihood [n] of words `after` [n] behind words `before` [n, context]."""
        return self.out(torch.relu(self.mix(self.table(before).flatten(1))), after).output


def train(
    model: NextWord, text: Tensor, *, steps: int, lr: float, table_lr: float, batch: int = 1024, seed: int = 0
) -> None:
    """Adam, its rate falling linearly to zero; the table's rate is its own."""
    own = list(model.table.parameters())
    rest = [*model.mix.parameters(), *model.out.parameters()]
    optimizer = torch.optim.Adam([{"params": own, "lr": table_lr}, {"params": rest, "lr": lr}], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    random = torch.Generator().manual_seed(seed)
    span = torch.arange(model.context + 1)
    for _ in range(steps):
        at = torch.randint(len(text) - model.context, (batch, 1), generator=random) + span
        window = text[at]
        optimizer.zero_grad(set_to_none=True)
        loss = -model(window[:, :-1], window[:, -1]).mean()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def losses(model: NextWord, text: Tensor, *, stride: int = 1, batch: int = 4096) -> np.ndarray:
    """Minus log-likelihood in nats of every `stride`-th word of a text that has enough words before it."""
    windows = text.unfold(0, model.context + 1, stride)
    model.eval()
    found = [-model(part[:, :-1], part[:, -1]) for part in windows.split(batch)]
    model.train()
    return torch.cat(found).numpy()
