"""Workloads from the smallest to the largest that are worth a name."""

from fastmlp._bench._workload import Workload

WORKLOADS = {
    "xor": Workload((2, 2, 1), "sigmoid", "sigmoid", 4),
    "matexp": Workload((4, 32, 16, 4), "tanh", "softmax", 128),
    "matexp-full": Workload((4, 32, 16, 4), "tanh", "softmax", 10_000),
    "policy": Workload((17, 64, 64, 6), "tanh", "softmax", 64),
    "digits": Workload((64, 100, 10), "relu", "softmax", 64),
    "odd": Workload((131, 67, 53, 3), "relu", "softmax", 97),
    "tabular": Workload((54, 256, 256, 256, 7), "relu", "softmax", 256),
    "mnist": Workload((784, 128, 10), "relu", "softmax", 64),
    "mnist-deep": Workload((784, 256, 128, 64, 10), "relu", "softmax", 128),
    "mnist-wide": Workload((784, 800, 800, 10), "relu", "softmax", 128),
    "wide": Workload((1024, 1024, 1024, 1024), "relu", "softmax", 256),
}
