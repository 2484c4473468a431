"""Grafted models from disk: what `save_pretrained` wrote of one, read back with its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from torch import nn

from inlay.errors import BadInput, Corrupt
from inlay.lm.graft import GraftedStem, fits, grafted_layers
from inlay.lm.graft_ids import carry_ids, decoder_of
from inlay.lm.grafted_engram import attach, engrams_of
from inlay.lm.pretrained import AGAIN, ENTRY, config_of, folder_of, tensors_below, transformers
from inlay.lm.stem import Mode, placed
from inlay.tables.table import _make

__all__ = ["load_grafted"]


def load_grafted(folder: str | Path, **options: Any) -> Any:
    """The model that `save_pretrained` of a grafted one wrote, in evaluation mode.

    `transformers` by itself would open the folder too, warn, and draw the projections that are not there at random.

    Args:
        folder: what was given to `save_pretrained`.
        options: of `from_pretrained`: dtype, device_map, attn_implementation. Without dtype, all is as it was saved.

    Raises:
        BadInput: there is no such folder, or what it holds was never grafted.
        Corrupt: files are damaged or cut short, or contradict each other.
    """
    package, folder = transformers(), folder_of(folder)
    config = config_of(folder)
    entry = getattr(config, ENTRY, None)
    if entry is None:
        raise BadInput(f"{folder} holds a model that was not grafted; open it with graft_stem or graft_engram")
    try:
        base = getattr(package, config.architectures[0])
        stem = {int(layer): facts for layer, facts in entry.get("stem", {}).items()}
        tables = {layer: _make(facts["table"], folder) for layer, facts in stem.items()}
        modes = {layer: facts["mode"] for layer, facts in stem.items()}
        wrong = [mode for mode in modes.values() if mode not in get_args(Mode)]
        if wrong or not isinstance(base, type):
            raise ValueError(wrong or base)
        engrams = engrams_of(entry.get("engram", {}), folder)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Corrupt(f"{folder}/config.json describes no graft that can be made ({error!r}); {AGAIN}") from None

    def begin(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)  # type: ignore[misc]
        layers = decoder_of(self).layers
        placed([*tables, *engrams], len(layers))
        for layer, mode in modes.items():
            layers[layer].mlp = GraftedStem(layers[layer].mlp, None, mode)

    # A class of the same name for as long as reading takes: its layers are grafted before their weights are sought.
    # What reads rows is left to ourselves, since transformers makes modules without memory first, and would lose
    # whatever a table computes when it is made.
    name = "_keys_to_ignore_on_load_unexpected"
    ours = [*(getattr(base, name, None) or ()), r"\.mlp\.table\.", r"\.engram\."]
    facts = {"__init__": begin, "__module__": base.__module__, name: ours}
    reading = {"config": config, "local_files_only": True, "ignore_mismatched_sizes": True, **options}
    try:
        grafted: Any = type(base.__name__, (base,), facts)
        model, found = grafted.from_pretrained(folder, output_loading_info=True, **reading)
    except BadInput as error:
        raise Corrupt(f"{folder}/config.json does not fit its model ({error}); {AGAIN}") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError" and not isinstance(error, OSError):
            raise
        raise Corrupt(f"weights in {folder} cannot be read ({error}); {AGAIN}") from None
    model.__class__ = base
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found[what]:
            name = sorted(map(str, found[what]))[0]
            raise Corrupt(f"{folder}: config and weights do not fit each other ({what}: {name}); {AGAIN}")
    for layer, part in grafted_layers(model).items():
        part.table = _filled(model, tables[layer], folder, layer, "mlp.table", options)
        try:
            fits(
                part.table, decoder_of(model).embed_tokens.num_embeddings, part.down_proj.in_features, f"layer {layer}"
            )
        except BadInput as error:
            raise Corrupt(f"{folder}: {error}; {AGAIN}") from None
    carry_ids(model)
    made = {layer: _filled(model, part, folder, layer, "engram", options) for layer, part in engrams.items()}
    attach(model, made)
    return model


def _filled(model: Any, part: nn.Module, folder: Path, layer: int, name: str, options: dict[str, Any]) -> Any:
    """A part of a layer with its saved tensors, in the precision they were saved in or are wanted in."""
    inner = decoder_of(model)
    prefix = "" if inner is model else f"{model.base_model_prefix}."
    tensors = tensors_below(folder, f"{prefix}layers.{layer}.{name}.")
    try:
        part.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise Corrupt(f"{folder}: {name} of layer {layer} does not fit its config ({error}); {AGAIN}") from None
    like = inner.layers[layer].mlp.down_proj.weight
    wanted = options.get("dtype", options.get("torch_dtype"))
    return part.to(like.device, None if wanted in (None, "auto") else like.dtype).train(model.training)
