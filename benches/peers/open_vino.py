"""OpenVINO on the CPU, inference in float32 alone: input and output are shared with NumPy, not copied."""

import os

import openvino

from fastmlp._bench._contenders import Way
from fastmlp._bench._workload import Array, Workload
from fastmlp._export.onnx_file import onnx_model


class OpenVINO:
    def __init__(self, workload: Workload, learning_rate: float) -> None:
        self.workload = workload

    def logits(self, X: Array) -> Way:
        inputs = X.reshape(-1, X.shape[-1])
        core = openvino.Core()
        hidden = [self.workload.activation] * (len(self.workload.layer_sizes) - 2)
        model = core.read_model(onnx_model(self.workload.parameters(), [*hidden, "identity"], len(inputs)))
        settings = {
            "INFERENCE_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda: request.infer([inputs], share_inputs=True, share_outputs=True)[0]
