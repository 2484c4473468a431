"""The box's layers as an ONNX graph in 8 bits, without their weights: those are in the file of weights already.

The graph takes texts of one length, so nothing is padded or masked, and every scale is fixed: a row never depends on
what stands beside it. Activations are uint8 with a scale and a zero measured on some texts (`ranges`), matrices uint8
around 128 or int8, sums int32: processors without VNNI overflow on int8, and those with it multiply int8 in half the
time. Attention, norms and GELU stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inlay.encoders.box_weights import Weights, graph_weights

__all__ = ["graph", "ranges"]

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the range, of which the best is taken
MICROSOFT = "com.microsoft"


def ranges(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale and zero of what enters each matrix, `NAME.range` float32 [2], by the least squared error."""
    found = {}
    for name, rows in inputs.items():
        low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 1e-6)
        tried = []
        for share in SHARES:
            scale = np.float32(share * (high - low) / 255)
            zero = np.float32(np.clip(round(-share * low / scale), 0, 255))
            codes = np.clip(np.rint(rows / scale) + zero, 0, 255)
            tried.append((float(np.square((codes - zero) * scale - rows).mean()), scale, zero))
        _, scale, zero = min(tried)
        found[f"{name}.range"] = np.array([scale, zero], dtype=np.float32)
    return found


def graph(weights: Weights, *, signed: bool) -> bytes:
    """The graph for weights of these shapes, as an ONNX file's content.

    Args:
        weights: give names and shapes.
        signed: matrices are int8.

    Inputs: `codes` uint8 [n, length, rank] (8 stands for 0) and `scales` float32 [n, length, 1] of the vocabulary.
    Output: `rows` float32 [n, dim], the mean of the last layer.
    """
    from onnx import TensorProto, helper

    values = graph_weights(weights, signed=signed)
    kinds = {
        np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8,
        np.dtype(np.int8): TensorProto.INT8,
    }  # fmt: skip
    held: list[Any] = []
    for name, value in values.items():
        tensor = TensorProto()
        tensor.name, tensor.data_type, tensor.data_location = name, kinds[value.dtype], TensorProto.EXTERNAL
        tensor.dims.extend(value.shape)
        tensor.external_data.add(key="location", value="box.safetensors")
        held.append(tensor)
    nodes: list[Any] = []

    def put(kind: str, inputs: Sequence[str], output: str, count: int = 1, domain: str = "", **options: Any) -> str:
        outputs = [output] if count == 1 else [f"{output}.{i}" for i in range(count)]
        nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **options))
        return outputs[0]

    def linear(name: str, rows: str, offset: bool = True) -> str:
        codes = put("QuantizeLinear", [rows, f"{name}.in.scale", f"{name}.in.zero"], f"{name}.codes")
        inputs = [codes, name, f"{name}.in.scale", f"{name}.scale", f"{name}.in.zero", "middle", f"{name}.offset"]
        return put("MatMulIntegerToFloat", inputs, f"{name}.out", domain=MICROSOFT)

    def normed(name: str, rows: str, added: str) -> str:
        # onnxruntime's SkipLayerNormalization takes seven times as long as these two.
        inputs = [put("Add", [rows, added], f"{name}.sum"), f"{name}.gain", f"{name}.offset"]
        return put("LayerNormalization", inputs, f"{name}.rows", epsilon=1e-12, axis=-1)

    inputs = ["codes", "table.map", "one", "table.map.scale", "eight", "middle"]
    mapped = put("MatMulIntegerToFloat", inputs, "mapped", domain=MICROSOFT)
    mapped = put("Mul", [mapped, "scales"], "looked up")
    put("Shape", ["codes"], "length", start=1, end=2)
    places = put("Slice", ["positions", "zero", "length", "zero"], "places")
    rows = put("Add", [mapped, places], "placed")
    rows = put("LayerNormalization", [rows, "norm.gain", "norm.offset"], "norm.rows", epsilon=1e-12, axis=-1)
    depth = sum(f"layers.{i}.qkv" in values for i in range(100))
    for at in (f"layers.{i}" for i in range(depth)):
        heads = values[f"{at}.qkv"].shape[1] // 96
        put("Split", [linear(f"{at}.qkv", rows)], f"{at}.part", 3, axis=-1, num_outputs=3)
        parts = [f"{at}.part.{i}" for i in range(3)]
        seen = put("MultiHeadAttention", parts, f"{at}.seen", domain=MICROSOFT, num_heads=heads)
        rows = normed(f"{at}.after_attention", linear(f"{at}.out", seen), rows)
        units = put("FastGelu", [linear(f"{at}.up", rows)], f"{at}.units", domain=MICROSOFT)
        rows = normed(f"{at}.after_hidden", linear(f"{at}.down", units), rows)
    put("ReduceMean", [rows, "one axis"], "rows", keepdims=0)
    rank, dim = values["table.map"].shape
    made = helper.make_graph(
        nodes, "box",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, ["n", "length", rank]),
         helper.make_tensor_value_info("scales", TensorProto.FLOAT, ["n", "length", 1])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", dim])],
        [*held,
         helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
         helper.make_tensor("one axis", TensorProto.INT64, [1], [1]),
         helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
         helper.make_tensor("eight", TensorProto.UINT8, [], [8]),
         helper.make_tensor("middle", *((TensorProto.INT8, [], [0]) if signed else (TensorProto.UINT8, [], [128])))],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9)
    data: bytes = model.SerializeToString()
    return data
