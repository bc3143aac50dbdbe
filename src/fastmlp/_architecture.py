"""What a net computes, apart from its parameters: an immutable description that every backend reads."""

from dataclasses import dataclass

import numpy as np

from fastmlp._activations import DERIVATIVE_FROM_INPUT


@dataclass(frozen=True)
class Architecture:
    """Sizes, activations, loss and regularizers of a net, checked already.

    Layers are counted from 1; layer ``l`` maps ``layer_sizes[l - 1]`` features to ``layer_sizes[l]``.
    """

    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]  # one per hidden layer
    output_activation: str
    loss: str
    l1: float
    l2: float
    dropout: tuple[float, ...]  # one per hidden layer
    dtype: np.dtype  # float32 or float64, native byte order

    @property
    def n_layers(self) -> int:
        return len(self.layer_sizes) - 1

    @property
    def n_parameters(self) -> int:
        return sum(n_out * (n_in + 1) for n_in, n_out in zip(self.layer_sizes, self.layer_sizes[1:]))

    @property
    def takes_classes(self) -> bool:
        """Whether integer targets of shape (n,) are class indices."""
        return self.output_activation == "softmax"

    @property
    def has_penalty(self) -> bool:
        return self.l1 != 0.0 or self.l2 != 0.0

    def keeps_factor(self, layer: int) -> bool:
        """Whether a training pass keeps d output / d input of hidden ``layer`` beside its output.

        It does where the output alone does not tell the derivative: for the activations in DERIVATIVE_FROM_INPUT,
        and after dropout, but for relu: where its output is 0, dropped or not, the derivative is 0.
        """
        name = self.activations[layer - 1]
        return name in DERIVATIVE_FROM_INPUT or (name != "relu" and self.dropout[layer - 1] > 0.0)
