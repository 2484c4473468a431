"""A transformer's states, projected to few dimensions and brought to length 1: the network of late interaction.

Needs torch, transformers and safetensors. Weights are read from safetensors only: a pickle can run code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from inlay.encoders.colbert_folder import ColBERTFolder
from inlay.encoders.model_folder import _read
from inlay.errors import BadInput, Corrupt

__all__ = ["ProjectedStates"]

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ACTIVATIONS: dict[str, type[nn.Module]] = {
    one.__name__: one for one in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU)
}


class ProjectedStates(nn.Module):
    """Unit vectors of tokens.

    Args:
        folder: where weights lie.
    """

    def __init__(self, folder: ColBERTFolder) -> None:
        super().__init__()
        _only_safetensors(folder.transformer)
        try:
            with _quiet():
                lm, about = AutoModel.from_pretrained(
                    folder.transformer,
                    local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32,
                )  # fmt: skip
        except (OSError, ValueError, SafetensorError) as error:
            raise BadInput(f"cannot load {folder.transformer} as a transformer: {error}") from error
        # Whole-text states are not asked for, and a checkpoint may lack their layer.
        missing = sorted(name for name in about["missing_keys"] if "pooler" not in name)
        if missing:
            raise BadInput(f"{folder.transformer} lacks {len(missing)} weights of its transformer: {missing[0]}, …")
        if getattr(lm, "pooler", None) is not None:
            lm.pooler = None
        self.lm: Any = lm
        width = int(lm.config.hidden_size)
        self.layers = nn.Sequential()
        for place in folder.layers or (folder.transformer,):
            layer = _dense(place) if folder.layers else _within(place)
            if layer.linear.in_features != width:
                raise BadInput(f"{place} projects {layer.linear.in_features} numbers, it gets {width} from before")
            self.layers.append(layer)
            width = layer.linear.out_features
        self.dim = width
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Float32 [n, length, dim] of token numbers and attention mask, int64 [n, length]."""
        states = self.lm(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors: Tensor = nn.functional.normalize(self.layers(states), dim=-1)
        return vectors

    @property
    def positions(self) -> int | None:
        """Tokens that the transformer can tell apart; None where there is no bound."""
        config = self.lm.config
        most = getattr(config, "max_position_embeddings", None)
        if not most or most < 0:
            return None
        # RoBERTa counts positions from behind the padding token's number.
        return int(most) - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)

    def weights(self) -> Iterator[str | np.ndarray]:
        """Names and bytes of all weights, in order of name."""
        for name, tensor in sorted(self.state_dict().items()):
            yield f"{name} {list(tensor.shape)}"
            yield tensor.detach().cpu().contiguous().numpy()


class _Dense(nn.Module):
    """A linear map, a function of its result, and perhaps the input beside it."""

    def __init__(self, linear: nn.Linear, activation: nn.Module, residual: nn.Module | None) -> None:
        super().__init__()
        self.linear, self.activation, self.residual = linear, activation, residual

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.activation(self.linear(rows))
        return found if self.residual is None else found + self.residual(rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the report of weights that the transformer does not know: the projection is one of them."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _dense(place: Path) -> _Dense:
    """A Dense module of sentence-transformers or PyLate."""
    said = _read(place / "config.json", {})
    named = str(said.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if named not in ACTIVATIONS:
        raise BadInput(f"{place} applies {named}; those known here are {', '.join(ACTIVATIONS)}")
    _only_safetensors(place)
    try:
        held = {name: tensor.float() for name, tensor in load_file(place / "model.safetensors").items()}
    except (OSError, SafetensorError) as error:
        raise Corrupt(f"cannot read the weights of {place} ({error}); fetch the model again") from None
    if "linear.weight" not in held:
        raise BadInput(f"{place} holds {', '.join(sorted(held))} and no linear.weight")
    residual: nn.Module | None = None
    if said.get("use_residual"):
        residual = _linear(held["residual.weight"], None) if "residual.weight" in held else nn.Identity()
    return _Dense(_linear(held["linear.weight"], held.get("linear.bias")), ACTIVATIONS[named](), residual)


def _within(place: Path) -> _Dense:
    """The projection that lies in the checkpoint of the transformer."""
    for path in sorted(place.glob("*.safetensors")):
        with safe_open(path, framework="pt") as held:
            if "linear.weight" in held.keys():  # noqa: SIM118 (no mapping)
                return _Dense(_linear(held.get_tensor("linear.weight").float(), None), nn.Identity(), None)
    raise BadInput(
        f"no file of {place} holds linear.weight, the projection of a ColBERT model; for a sentence encoder use "
        "st:PATH or onnx:PATH"
    )


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight)
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made


def _only_safetensors(place: Path) -> None:
    if any(place.glob("*.safetensors")):
        return
    pickles = [name for name in PICKLES if (place / name).is_file()]
    if pickles:
        raise BadInput(
            f"{place} has its weights in {pickles[0]}, a pickle, which may run code when it is opened. Write them "
            "again as model.safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
        )
    raise BadInput(f"{place} has no weights: model.safetensors is not there")
