"""A workload's net in the ONNX format, up to its logits: what both inference engines read."""

import numpy as np
from onnx import helper, numpy_helper

from fastmlp._bench._workload import Workload

OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
# Old enough for any engine to read; newest of the onnx package may be ahead of the engines.
OPSET, IR_VERSION = 17, 9


def onnx_model(workload: Workload, n: int) -> bytes:
    """The model for batches of ``n`` examples: input "X" (n, n_0), output "logits" (n, n_L)."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(workload.dtype))
    nodes, constants = [], []
    tensor = "X"
    for layer, (W, b) in enumerate(workload.parameters(), start=1):
        constants += [numpy_helper.from_array(W, f"W{layer}"), numpy_helper.from_array(b, f"b{layer}")]
        last = layer == len(workload.layer_sizes) - 1
        z = "logits" if last else f"z{layer}"
        nodes.append(helper.make_node("Gemm", [tensor, f"W{layer}", f"b{layer}"], [z], transB=1))
        if not last:
            tensor = f"a{layer}"
            nodes.append(helper.make_node(OPERATORS[workload.activation], [z], [tensor]))
    X = helper.make_tensor_value_info("X", element, [n, workload.layer_sizes[0]])
    logits = helper.make_tensor_value_info("logits", element, [n, workload.layer_sizes[-1]])
    graph = helper.make_graph(nodes, "mlp", [X], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()
