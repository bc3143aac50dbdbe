"""PyTorch, eager: its modules, its losses, and SGD in its fused form."""

import os

import numpy as np
import torch

from fastmlp._bench._contenders import Way
from fastmlp._bench._workload import Array, Workload

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}
LOSSES = {"softmax": torch.nn.CrossEntropyLoss, "sigmoid": torch.nn.BCEWithLogitsLoss}


class PyTorch:
    def __init__(self, workload: Workload, learning_rate: float) -> None:
        self.layers = [torch.nn.Linear(W.shape[1], W.shape[0]) for W, _ in workload.parameters()]
        for layer, (W, b) in zip(self.layers, workload.parameters()):
            layer.weight.data, layer.bias.data = torch.from_numpy(W), torch.from_numpy(b)
        activation = ACTIVATIONS[workload.activation]
        modules = [module for layer in self.layers for module in (layer, activation())]
        self.net = torch.nn.Sequential(*modules[:-1])
        self.loss = LOSSES[workload.output_activation]()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=learning_rate, fused=True)
        self.batch_size = workload.n

    def logits(self, X: Array) -> Way:
        inputs = torch.from_numpy(X)

        def way() -> torch.Tensor:
            with torch.inference_mode():
                return self.net(inputs)

        return way

    def take_step(self, X: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.net(X), y).backward()
        self.optimizer.step()

    def step(self, X: Array, y: Array) -> Way:
        inputs, targets = torch.from_numpy(X), torch.from_numpy(y)
        return lambda: self.take_step(inputs, targets)

    def epoch(self, X: Array, y: Array, rng: np.random.Generator) -> Way:
        inputs, targets = torch.from_numpy(X), torch.from_numpy(y)

        def way() -> None:
            order = torch.from_numpy(rng.permutation(len(X)))
            for batch in order.split(self.batch_size):
                self.take_step(inputs[batch], targets[batch])

        return way

    def parameters(self) -> list[tuple[Array, Array]]:
        return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in self.layers]
