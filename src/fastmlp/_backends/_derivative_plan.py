"""What derivatives beyond the gradient need: the record fastmlp_derivatives of csrc/fastmlp.h, and its workspace."""

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._addresses import address
from fastmlp._backends._plan import Plan
from fastmlp._layout import Layout

LAYER_DERIVATIVES = np.dtype([("weights", "i8"), ("direction", "i8"), ("tangent", "i8"), ("bend", "i8")])
DERIVATIVES = [
    ("is_reverse", "i8"),
    ("directions", "i8"),
    ("jacobian_rows", "i8"),
    ("part_rows", "i8"),
    ("first_rows", "i8"),
    ("second_rows", "i8"),
    ("rows_stride", "i8"),
    ("gradient", "i8"),
    ("gradient_tangent", "i8"),
    ("widest", "i8"),
]

# Rows of Jacobians that go through the layers together, whatever their number for each example: they stay in the cache.
JACOBIAN_ROWS = 192
# Examples that go forward together before that.
JACOBIAN_EXAMPLES = 96


class DerivativePlan(Plan):
    """A plan of training in which every hidden layer has a factor, with places for tangents and for Jacobians."""

    def __init__(
        self, architecture: Architecture, layout: Layout, parameters: np.ndarray, seed: int, n_threads: int
    ) -> None:
        super().__init__(architecture, layout, parameters, seed, n_threads, training=True, own_blocks=False)
        plan = self.record[0]
        rows, n_layers = int(plan["block_rows"]), architecture.n_layers
        below = [int(plan["input_leading"]), *layout.leading]  # leading dimension of each layer's inputs
        widest = max(below)
        for layer in plan["layers"][:-1]:
            if layer["factor"] < 0:
                layer["factor"] = self._take(rows * int(layer["leading"]))
        self.derivatives = np.zeros(1, np.dtype([*DERIVATIVES, ("layers", LAYER_DERIVATIVES, (n_layers,))]))
        self.derivatives_address = address(self.derivatives)
        record = self.derivatives[0]
        record["is_reverse"] = goes_back(architecture.layer_sizes)
        record["directions"] = architecture.layer_sizes[-1 if record["is_reverse"] else 0]
        record["part_rows"] = max(1, JACOBIAN_ROWS // int(record["directions"]))
        record["jacobian_rows"] = JACOBIAN_EXAMPLES
        for _ in range(n_threads):
            part = int(record["part_rows"] * record["directions"]) * widest
            first, second = self._take(part), self._take(part)
            if not record["second_rows"]:
                record["first_rows"], record["second_rows"] = first, second
            elif not record["rows_stride"]:
                record["rows_stride"] = first - record["first_rows"]
        record["gradient"], record["gradient_tangent"] = self._take(rows * widest), self._take(rows * widest)
        record["widest"] = widest
        for index, layer in enumerate(record["layers"]):
            size = -(-architecture.layer_sizes[index + 1] // self._line) * self._line * below[index]
            layer["weights"], layer["direction"] = self._take(size), self._take(size)
            leading = rows * layout.leading[index]
            layer["tangent"], layer["bend"] = self._take(leading), self._take(leading)


def goes_back(layer_sizes: tuple[int, ...]) -> bool:
    """Whether a Jacobian takes fewer multiplications from the outputs back than from the inputs on."""
    products = [n_in * n_out for n_in, n_out in zip(layer_sizes, layer_sizes[1:])]
    return layer_sizes[-1] * sum(products[:-1]) <= layer_sizes[0] * sum(products[1:])
