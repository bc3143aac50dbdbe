"""onnxruntime on the CPU, inference alone."""

import os
from functools import partial

import onnxruntime

from fastmlp._bench._contenders import Way
from fastmlp._bench._workload import Array, Workload
from fastmlp._export.onnx_file import onnx_model

ERRORS_ALONE = 3


class ONNXRuntime:
    def __init__(self, workload: Workload, learning_rate: float) -> None:
        self.workload = workload

    def logits(self, X: Array) -> Way:
        inputs = X.reshape(-1, X.shape[-1])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ALONE
        hidden = [self.workload.activation] * (len(self.workload.layer_sizes) - 2)
        model = onnx_model(self.workload.parameters(), [*hidden, "identity"], len(inputs))
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return partial(session.run, None, {"X": inputs})
