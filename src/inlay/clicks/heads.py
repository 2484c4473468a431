"""Models over the rows of a table that say how likely a click is: DLRM, Wide & Deep, DCN and DeepFM.

All take global ids [B, fields] and numbers [B, m] and give logits [B]; their table gives [B, fields, dim], whether it
is one table for all fields or `PerField`. Widths here suit a CPU; the larger ones of the papers are keyword arguments.

Wide & Deep and DeepFM also have a weight of every id. It is a table of width 1, `linear`; what a method saves on rows
it does not save there, so pass a smaller one where every byte is to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.tables.full import Full
from inlay.tables.table import Rows

__all__ = ["DCN", "DLRM", "HEADS", "ClickModel", "DeepFM", "WideDeep"]


class ClickModel(nn.Module):
    """What the heads share.

    Args:
        table: rows of ids; may be put in place of another at any time.
        fields: columns of ids.
        dim: width of the table's rows.
        numbers: columns of numbers.
        linear: a weight of each id, width 1; None where the model has none.
    """

    def __init__(self, table: Rows, fields: int, dim: int, numbers: int, *, linear: Rows | None = None) -> None:
        super().__init__()
        if table.dim != dim:
            raise BadInput(f"the table's rows are {table.dim} wide, not {dim}")
        if fields < 1 or numbers < 0:
            raise BadInput(f"fields must be at least 1 and numbers at least 0, got {fields} and {numbers}")
        self.table, self.fields, self.dim, self.numbers = table, fields, dim, numbers
        self.linear = linear

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Logits [B] of ids [B, fields] and numbers [B, m]."""
        raise NotImplementedError

    def head_parameters(self) -> list[nn.Parameter]:
        """Everything that learns outside of the table."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("table.")]

    def begin_anew(self) -> None:
        """Draw everything outside of the table again."""
        for name, child in self.named_children():
            if name == "table":
                continue
            for module in child.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
                elif isinstance(module, Full):
                    bound = module.rows**-0.5
                    nn.init.uniform_(module.weight, -bound, bound)

    def _id_weights(self, ids: Tensor) -> Tensor:
        """Sum [B] of the weights of ids [B, fields]."""
        assert self.linear is not None
        found: Tensor = self.linear(ids)
        return found.flatten(1).sum(1)


def perceptron(sizes: Sequence[int], *, last: bool = True) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between; also behind the last if `last`."""
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*(layers if last else layers[:-1]))


class DLRM(ClickModel):
    """Dot products of all pairs of rows (and of what the numbers become), then a perceptron.

    Naumov et al.: "Deep Learning Recommendation Model for Personalization and Recommendation Systems" (arXiv
    1906.00091).

    Args:
        bottom: hidden widths for the numbers (the paper's: 512, 256, 64); there is no bottom without numbers.
        top: hidden widths for the dot products (512, 256).
    """

    def __init__(
        self, table: Rows, fields: int, dim: int, numbers: int, *, bottom: Sequence[int] = (64,),
        top: Sequence[int] = (64, 32),
    ) -> None:  # fmt: skip
        super().__init__(table, fields, dim, numbers)
        self.bottom = perceptron([numbers, *bottom, dim]) if numbers else None
        vectors = fields + (numbers > 0)
        self.register_buffer("pairs", torch.triu_indices(vectors, vectors, 1), persistent=False)
        self.pairs: Tensor
        self.top = perceptron([self.pairs.shape[1] + (dim if numbers else 0), *top, 1], last=False)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Logits [B]."""
        rows: Tensor = self.table(ids)
        parts = []
        if self.bottom is not None:
            dense = self.bottom(numbers)
            rows = torch.cat([rows, dense[:, None]], 1)
            parts = [dense]
        dots = rows @ rows.mT
        parts.append(dots[:, self.pairs[0], self.pairs[1]])
        return self.top(torch.cat(parts, 1)).squeeze(1)


class WideDeep(ClickModel):
    """A linear model of ids and numbers beside a perceptron of rows and numbers.

    Cheng et al.: "Wide & Deep Learning for Recommender Systems" (arXiv 1606.07792, DLRS 2016).

    Args:
        deep: hidden widths (the paper's: 1024, 512, 256).
        linear: weight of each id.
    """

    def __init__(
        self, table: Rows, fields: int, dim: int, numbers: int, *, deep: Sequence[int] = (64, 32),
        linear: Rows | None = None,
    ) -> None:  # fmt: skip
        super().__init__(table, fields, dim, numbers, linear=Full(table.rows, 1) if linear is None else linear)
        self.wide = nn.Linear(numbers, 1) if numbers else None
        self.deep = perceptron([fields * dim + numbers, *deep, 1], last=False)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Logits [B]."""
        return self._wide_and_deep(self.table(ids), ids, numbers)

    def _wide_and_deep(self, rows: Tensor, ids: Tensor, numbers: Tensor) -> Tensor:
        logits = self.deep(torch.cat([rows.flatten(1), numbers], 1)).squeeze(1) + self._id_weights(ids)
        return logits if self.wide is None else logits + self.wide(numbers).squeeze(1)


class _Cross(nn.Module):
    """x₀ · (x · w) + b + x: one layer of a cross network, without the sum over layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.numel() ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        return first * (x @ self.weight)[:, None] + self.bias + x


class DCN(ClickModel):
    """A cross network beside a perceptron, both over rows and numbers.

    Wang, Fu, Fu, Wang: "Deep & Cross Network for Ad Click Predictions" (arXiv 1708.05123, ADKDD 2017).

    Args:
        cross: cross layers.
        deep: hidden widths (the paper's: 1024, 1024).
    """

    def __init__(
        self, table: Rows, fields: int, dim: int, numbers: int, *, cross: int = 2, deep: Sequence[int] = (64, 32)
    ) -> None:
        super().__init__(table, fields, dim, numbers)
        width = fields * dim + numbers
        self.cross = nn.ModuleList(_Cross(width) for _ in range(cross))
        self.deep = perceptron([width, *deep])
        self.out = nn.Linear(width + (deep[-1] if deep else width), 1)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Logits [B]."""
        first = torch.cat([self.table(ids).flatten(1), numbers], 1)
        x = first
        for layer in self.cross:
            x = layer(first, x)
        return self.out(torch.cat([x, self.deep(first)], 1)).squeeze(1)


class DeepFM(WideDeep):
    """A factorisation machine beside a perceptron, over the same rows.

    Guo, Tang, Ye, Li, He: "DeepFM" (arXiv 1703.04247, IJCAI 2017). Numbers go into the perceptron and a linear term.

    Args:
        deep: hidden widths (the paper's: 400, 400, 400).
        linear: weight of each id.
    """

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Logits [B]."""
        rows: Tensor = self.table(ids)
        pairs = (rows.sum(1).square() - rows.square().sum(1)).sum(1) / 2  # all pairs' dots, in one pass
        return self._wide_and_deep(rows, ids, numbers) + pairs


HEADS: dict[str, type[ClickModel]] = {"dcn": DCN, "deepfm": DeepFM, "dlrm": DLRM, "wide-deep": WideDeep}
