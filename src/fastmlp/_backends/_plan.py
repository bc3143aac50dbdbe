"""What the compiled kernels know of a net: records of 8-byte fields, which csrc/fastmlp.h defines."""

from typing import Any

import numpy as np

from fastmlp._activations import ACTIVATION_CODES
from fastmlp._architecture import Architecture
from fastmlp._backends._addresses import address
from fastmlp._backends._engine import Schedule
from fastmlp._backends._philox import dropped_below
from fastmlp._layout import LINE_BYTES, Layout, aligned_zeros, guard_inside, leading_dimension
from fastmlp._losses import LOSS_CODES
from fastmlp._update import Update

_LAYER = np.dtype(
    [
        ("n_in", "i8"),
        ("n_out", "i8"),
        ("leading", "i8"),
        ("parameters", "i8"),
        ("activation", "i8"),
        ("output", "i8"),
        ("factor", "i8"),
        ("dropout_from", "i8"),
        ("dropout_scale", "f8"),
    ]
)
_PLAN = [
    ("n_layers", "i8"),
    ("loss", "i8"),
    ("l1", "f8"),
    ("l2", "f8"),
    ("seed", "u8"),
    ("parameters", "u8"),
    ("n_threads", "i8"),
    ("thread_products", "i8"),
    ("block_rows", "i8"),
    ("input", "i8"),
    ("input_leading", "i8"),
    ("constants", "i8"),
    ("parts", "i8"),
    ("losses", "i8"),
    ("partial", "i8"),
    ("target", "i8"),
    ("panel", "i8"),
    ("transposed", "i8"),
    ("tile", "i8"),
    ("packed", "i8"),
    ("member_stride", "i8"),
    ("own_blocks", "i8"),
    ("arena_size", "i8"),
]
_EXAMPLES = np.dtype(
    [
        ("x", "u8"),
        ("x_row", "i8"),
        ("x_column", "i8"),
        ("x_type", "i8"),
        ("y", "u8"),
        ("y_row", "i8"),
        ("y_column", "i8"),
        ("y_type", "i8"),
        ("sample_weight", "u8"),
        ("order", "u8"),
        ("largest_loss", "f8"),
    ]
)
_SCHEDULE = np.dtype(
    [
        ("n_examples", "i8"),
        ("batch_size", "i8"),
        ("first_step", "i8"),
        ("n_steps", "i8"),
        ("table", "u8"),
        ("table_row", "i8"),
        ("dropout_step", "i8"),
    ]
)
_UPDATE = np.dtype([("code", "i8"), ("scalars", "u8"), ("first", "u8"), ("second", "u8")])
_CALL = np.dtype(
    [
        ("kernels", "u8"),
        ("plan", "u8"),
        ("workspace", "u8"),
        ("examples", "u8"),
        ("n", "i8"),
        ("out", "u8"),
        ("schedule", "u8"),
        ("update", "u8"),
        ("gradients", "u8"),
        ("losses", "u8"),
    ]
)
TRAINEE = np.dtype(
    [("plan", "u8"), ("examples", "u8"), ("schedule", "u8"), ("update", "u8"), ("losses", "u8"), ("taken", "i8")]
)
TYPE_CODES = {np.dtype("float32"): 0, np.dtype("float64"): 1, np.dtype("int64"): 2}

# Large batches go through the net in blocks whose activations stay in the cache: 4,096 rows at once ran at half
# the speed. Training's block is part of the definition of a gradient, which is summed block by block.
TRAINING_ROWS = 512
INFERENCE_ROWS = 256

# From 5 MFLOP a step a second thread is worth its meetings even where its core is not always free.
THREAD_PRODUCTS = 1_250_000

# Threads take whole blocks of nets up to so many parameters, half a MB in float32. Larger layers are shared well, and a
# workspace for each thread would cost more.
LARGEST_OF_OWN_BLOCKS = 2**17

_PANEL = 48  # csrc/dense.h
_BLOCK_ROWS_BYTES = 768
_BLOCK_DEPTH = 320
_PACKED_OUTPUTS = 1024
_MAX_TILE_LINES = 8  # csrc/tile.h: the widest tile
_ENSEMBLE_LINES = 97  # _numba/_lanes.py: begin_lanes


class Plan:
    """How training or inference goes through a net: the record for the kernels, and the workspace it needs."""

    def __init__(
        self,
        architecture: Architecture,
        layout: Layout,
        parameters: np.ndarray,
        seed: int,
        n_threads: int,
        training: bool,
        own_blocks: bool = True,
        of_members: bool = False,
    ) -> None:
        itemsize = architecture.dtype.itemsize
        line = LINE_BYTES // itemsize
        rows = TRAINING_ROWS if training else INFERENCE_ROWS
        self._dtype = architecture.dtype
        self._parameters = parameters  # the record holds its address
        self._line = line
        self.workspace_size = 0
        self._gaps: list[tuple[int, int]] = []
        n_layers = architecture.n_layers
        # One element, so that the record is an array with an address.
        self.record = np.zeros(1, dtype=np.dtype([*_PLAN, ("layers", _LAYER, (n_layers,))]))
        self.address = address(self.record)
        plan = self.record[0]
        plan["n_layers"] = n_layers
        plan["loss"] = LOSS_CODES[architecture.loss]
        plan["l1"], plan["l2"] = architecture.l1, architecture.l2
        plan["seed"] = seed
        plan["parameters"] = parameters.ctypes.data
        plan["n_threads"] = n_threads
        plan["thread_products"] = THREAD_PRODUCTS
        plan["block_rows"] = rows
        plan["input_leading"] = leading_dimension(architecture.layer_sizes[0], itemsize)
        plan["constants"] = self._take(line + _MAX_TILE_LINES * line)
        plan["target"] = self._take(2 * layout.leading[-1])
        plan["panel"] = self._take(rows * _PANEL)
        plan["transposed"] = self._take(_BLOCK_DEPTH * _PANEL)
        plan["tile"] = self._take(max(rows, _MAX_TILE_LINES * line) * _PANEL)
        if max(architecture.layer_sizes[1:]) >= _PACKED_OUTPUTS:
            plan["packed"] = self._take(_BLOCK_ROWS_BYTES // itemsize * (_BLOCK_DEPTH + line))
        plan["own_blocks"] = own_blocks = own_blocks and n_threads > 1 and layout.size <= LARGEST_OF_OWN_BLOCKS
        if not own_blocks:
            plan["member_stride"] = self._repeat(int(plan["target"]), n_threads)
        plan["parts"] = self._take(3 * rows + line)
        plan["losses"] = self._take(rows * 8 // itemsize)
        plan["input"] = self._take(rows * int(plan["input_leading"]))
        activations = (*architecture.activations, architecture.output_activation)
        for index, activation in enumerate(activations):
            layer = plan["layers"][index]
            layer["n_in"], layer["n_out"] = architecture.layer_sizes[index : index + 2]
            layer["leading"] = layout.leading[index]
            layer["parameters"] = layout.offsets[index]
            layer["activation"] = ACTIVATION_CODES[activation]
            layer["output"] = self._take(rows * layout.leading[index])
            layer["factor"] = -1
            if training and index < n_layers - 1:
                rate = architecture.dropout[index]
                layer["dropout_from"] = dropped_below(rate)
                layer["dropout_scale"] = 1 / (1 - rate)
                # Members of an ensemble drop units at rates of their own.
                if architecture.keeps_factor(index + 1) or (of_members and rate > 0):
                    layer["factor"] = self._take(rows * layout.leading[index])
        plan["arena_size"] = layout.size
        if own_blocks:
            plan["partial"] = self._take(layout.size if training else 0)
            plan["member_stride"] = self._repeat(0, n_threads)

    def _take(self, n: int) -> int:
        """The offset of ``n`` elements of the workspace, on a cache line.

        Five lines between buffers keep those of a small net, all of 512 rows, off the same sets of the cache.
        """
        offset = self.workspace_size
        end = offset + -(-n // self._line) * self._line
        self.workspace_size = end + 5 * self._line
        self._gaps.append((end, self.workspace_size))
        return offset

    def _repeat(self, start: int, times: int) -> int:
        """Lay out all that was taken from ``start`` on ``times`` times in all; returns from one to the next."""
        stride = self.workspace_size - start
        gaps = [gap for gap in self._gaps if gap[0] >= start]
        self._gaps += [(a + i * stride, b + i * stride) for i in range(1, times) for a, b in gaps]
        self.workspace_size += (times - 1) * stride
        return stride

    def new_workspace(self) -> np.ndarray:
        """A workspace for one call at a time; pages are touched only as far as they are used."""
        workspace = aligned_zeros(self.workspace_size, self._dtype)
        start = int(self.record[0]["constants"])
        workspace[start : start + self._line] = 1
        guard_inside(workspace, self._gaps)
        return workspace


def _record_of(fields: tuple[Any, ...], kind: np.dtype) -> np.ndarray:
    """An array with one record, in half the time that np.array takes to make it of a list."""
    record = np.empty(1, kind)
    record[0] = fields
    return record


def examples_record(
    X: np.ndarray,
    y: np.ndarray | None,
    weights: np.ndarray | None,
    order: np.ndarray | None,
    largest_loss: float = 0.0,
) -> np.ndarray:
    """Examples as kernels see them; the arrays must outlive the record's use."""
    y_fields: tuple[int, ...] = (0, 0, 0, 0)
    if y is not None:
        # A column stride of 0 marks classes.
        y_fields = (address(y), y.strides[0], y.strides[1] if y.ndim == 2 else 0, TYPE_CODES[y.dtype])
    fields = (address(X), *X.strides, TYPE_CODES[X.dtype], *y_fields, address(weights), address(order), largest_loss)
    return _record_of(fields, _EXAMPLES)


def set_inputs(record: np.ndarray, X: np.ndarray) -> None:
    """Other inputs for a record of examples."""
    fields = record[0]
    fields["x"] = address(X)
    fields["x_row"], fields["x_column"] = X.strides
    fields["x_type"] = TYPE_CODES[X.dtype]


def schedule_record(schedule: Schedule, n_examples: int, dropout_step: int) -> np.ndarray:
    """A run of steps as kernels see it."""
    table_row = schedule.table.shape[1] if len(schedule.table) > 1 else 0
    run = (schedule.batch_size, schedule.first_step, schedule.n_steps)
    return _record_of((n_examples, *run, address(schedule.table), table_row, dropout_step), _SCHEDULE)


def update_record(update: Update) -> np.ndarray:
    """An optimizer's state as kernels see it."""
    fields = (update.code, address(update.scalars), address(update.first), address(update.second))
    return _record_of(fields, _UPDATE)


def call_record(
    kernels: int,
    plan: Plan,
    workspace: int,
    examples: np.ndarray,
    *,
    n: int = 0,
    out: np.ndarray | None = None,
    schedule: np.ndarray | None = None,
    update: np.ndarray | None = None,
    gradients: np.ndarray | None = None,
    losses: np.ndarray | None = None,
) -> np.ndarray:
    """All the arguments of a call that is made again and again."""
    arrays = map(address, (out, schedule, update, gradients, losses))
    return _record_of((kernels, plan.address, workspace, address(examples), n, *arrays), _CALL)


def readable(array: np.ndarray) -> np.ndarray:
    """The array, or a copy that kernels can read: of whole elements in each stride, and no column repeated."""
    if array.ndim == 2 and array.strides[1] == 0:
        is_column = array.shape[1] == 1 and array.strides[0] != 0  # such as y[:, None]
        array = array.reshape(-1, 1) if is_column else array.copy()
    return array if array.flags.aligned else array.copy()  # ascontiguousarray would leave odd addresses as they are


def ensemble_workspace(architecture: Architecture, rows: int) -> int:
    """Elements that the kernels of ensembles work in, with batches of so many rows: lanes_of in csrc/lanes.h."""
    sizes = architecture.layer_sizes
    layers = [(n_in + 1) * n_out for n_in, n_out in zip(sizes, sizes[1:])]
    vectors = 3 * sum(layers) + max(layers) + rows * (sizes[0] + 2 * sum(sizes[1:]) + max(sizes)) + sizes[-1]
    return (vectors + _ENSEMBLE_LINES) * (LINE_BYTES // architecture.dtype.itemsize)
