"""A weighted sum of loss terms, which remembers what each of them was."""

from __future__ import annotations

from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.training.models import MAIN
from inlay.training.scores import Pool

__all__ = ["Sum"]


class Sum(nn.Module):
    """Σ weight · term.

    Args:
        terms: name → (weight, term) or (weight, term, head), where head is which of the model's outputs the term sees.

    Example: `Sum(cos=(10, EmbedMatch("cos", "sum"), "teacher"), sim=(200, GramMatch()), resim=(20, OrderMatch()))`
    """

    def __init__(self, **terms: tuple[float, nn.Module] | tuple[float, nn.Module, str]) -> None:
        super().__init__()
        if not terms:
            raise BadInput("a sum of losses needs at least one term")
        self.weights = {name: float(term[0]) for name, term in terms.items()}
        self.on = {name: term[2] if len(term) > 2 else MAIN for name, term in terms.items()}
        self.terms = nn.ModuleDict({name: term[1] for name, term in terms.items()})
        self.parts: dict[str, float] = {}  # unweighted value of each term at the last call

    def forward(self, pool: Pool) -> Tensor:
        """The sum."""
        total = pool.rows.new_zeros(())
        for name, term in self.terms.items():
            head = self.on[name]
            value = term(pool if head == pool.head else pool.on(head))
            self.parts[name] = float(value.detach())
            total = total + self.weights[name] * value
        return total
