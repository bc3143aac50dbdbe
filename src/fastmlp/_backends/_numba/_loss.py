"""Output activations and losses, row by row over the logits. As csrc/loss.h.

Sums along a row: one sum per lane of a 64-byte line, then a fixed tree over the line, on every instruction set.
Sums over examples: in float64, in the order of the examples.
"""

from typing import Any

from fastmlp._backends._numba._activation import activate_rows, activate_with_derivative
from fastmlp._backends._numba._columns import (
    MOST_COLUMNS,
    clear_line,
    columns_buffer,
    columns_to_rows,
    cross_entropy_of_classes,
    fit_columns,
    lane_exponentials,
    lane_line_sum,
    load_elements,
    part_of_line,
    rows_to_columns,
)
from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._elementary import (
    INFINITY,
    exponential,
    log_one_plus_exp_negative,
    logarithm,
    logistic,
)
from fastmlp._backends._numba._gather import convert_number, convert_row, example_row, is_own_type
from fastmlp._backends._numba._memory import as_double, as_real, copy_reals, int64_at, is_set, reals_at
from fastmlp._backends._numba._structs import (
    BCE,
    CROSS_ENTROPY,
    EXP,
    HUBER,
    MAE,
    MSE,
    POISSON,
    SIGMOID,
    SOFTMAX,
    Examples,
    Layer,
    Plan,
    Reals,
    Vector,
)
from fastmlp._backends._numba._vector import (
    absolute,
    at_least,
    choose,
    lane_numbers,
    lanes,
    largest_lane,
    line_buffer,
    line_lanes,
    line_of,
    line_sum,
    load,
    load_line,
    load_loose,
    load_part,
    multiply_add,
    smaller,
    splat,
    splat_integer,
    store,
    whole_vectors,
    with_sign_of,
)


@inline
def add_to_line(line: Reals, at: int, x: Vector) -> None:
    """Adds the vector of elements ``at`` and following of a row to its part of a line in memory."""
    part = line + (at & (line_lanes(x) - 1))
    store(part, load(part) + x)


@inline
def real_lanes(left: int, like: Reals) -> Vector:
    """All ones in the lanes of real outputs, zero in padding; ``left`` outputs begin at the vector's first lane."""
    return lane_numbers(like) < splat_integer(smaller(left, lanes(like)), like)


@inline
def padded_row(n: int, like: Reals) -> int:
    """n in whole lines."""
    return (n + line_lanes(like) - 1) & ~(line_lanes(like) - 1)


@inline
def logits_of_row(z: Reals, n: int, j: int) -> Vector:
    """A vector of n logits from the one in place j on; minus infinity in padding."""
    return choose(real_lanes(n - j, z), load(z + j), splat(-INFINITY, z))


@kernel
def exponentials_of_row(z: Reals, n: int) -> tuple[float, float]:
    """z becomes exp(z - max z), padding zero; returns the sum and the maximum."""
    padded = padded_row(n, z)
    most = logits_of_row(z, n, 0)
    for j in range(lanes(z), padded, lanes(z)):
        x = logits_of_row(z, n, j)
        most = choose(x > most, x, most)
    top = largest_lane(most)
    total = line_buffer(z)
    for j in range(0, padded, lanes(z)):
        e = exponential(logits_of_row(z, n, j) - splat(top, z))
        store(z + j, e)
        add_to_line(total, j, e)
    return line_sum(load_line(total)), top


@kernel
def softmax_row(z: Reals, n: int) -> None:
    """The logits of one row become probabilities."""
    total, _ = exponentials_of_row(z, n)
    for j in range(0, n, lanes(z)):
        store(z + j, load(z + j) / splat(total, z))


@kernel
def softmax_rows(z: Reals, leading: int, n: int) -> None:
    """The same of as many rows as there are lanes."""
    columns = columns_buffer(z)
    rows_to_columns(z, leading, n, columns)
    total, _ = lane_exponentials(columns, n, columns_buffer(z))
    for j in range(n):
        column = columns + j * lanes(z)
        store(column, load(column) / total)
    columns_to_rows(columns, n, z, leading)


@kernel
def output_rows(activation: int, rows: int, n: int, z: Reals, leading: int) -> None:
    """The logits of some rows become outputs."""
    if activation != SOFTMAX:
        activate_rows(activation, rows, whole_vectors(n, z), z, leading)
        return
    i = 0
    while fit_columns(rows - i, n, z):
        softmax_rows(z + i * leading, leading, n)
        i += lanes(z)
    while i < rows:
        softmax_row(z + i * leading, n)
        i += 1


@inline
def element_loss(loss: int, activation: int, z: Vector, y: Vector) -> tuple[Vector, Vector]:
    """One vector of an element-wise loss: its value, and its derivative by z up to the factor of the batch."""
    zero = splat(0, z)
    one = splat(1, z)
    half = splat(0.5, z)
    if loss == BCE:
        value = multiply_add(-z, y, at_least(z, zero)) + log_one_plus_exp_negative(absolute(z))
        return value, logistic(z) - y
    if loss == POISSON:
        mean = exponential(z)
        return multiply_add(-y, z, mean), mean - y
    a, chain = activate_with_derivative(activation, z)
    d = a - y
    size = absolute(d)
    if loss == MSE:
        return d * d, d * chain
    if loss == MAE:
        return size, choose(d > zero, one, choose(d < zero, -one, d)) * chain
    return choose(size > one, size - half, half * d * d), choose(size > one, with_sign_of(one, d), d) * chain


@inline
def element_row(loss: int, activation: int, z: Reals, y: Reals, n: int, with_gradient: bool, scale: float) -> float:
    total = line_buffer(z)
    zero = splat(0, z)
    for j in range(0, n, lanes(z)):
        inside = real_lanes(n - j, z)
        value, slope = element_loss(loss, activation, load(z + j), load(y + j))
        add_to_line(total, j, choose(inside, value, zero))
        if with_gradient:
            store(z + j, choose(inside, slope * splat(scale, z), zero))
    return line_sum(load_line(total))


@inline
def element_lanes(
    loss: int, activation: int, z: Reals, y: Reals, n: int, with_gradient: bool, scale: Vector, line: Reals
) -> Vector:
    """The same of as many rows as there are lanes, side by side: their values."""
    clear_line(line)
    for j in range(n):
        at = j * lanes(z)
        value, slope = element_loss(loss, activation, load(z + at), load(y + at))
        part = part_of_line(line, j)
        store(part, load(part) + value)
        if with_gradient:
            store(z + at, slope * scale)
    return lane_line_sum(line, n)


@kernel
def element_lanes_of(
    loss: int, activation: int, z: Reals, y: Reals, n: int, with_gradient: bool, scale: Vector, line: Reals
) -> Vector:
    """element_lanes with the loss chosen once."""
    if loss == BCE:
        return element_lanes(BCE, SIGMOID, z, y, n, with_gradient, scale, line)
    if loss == POISSON:
        return element_lanes(POISSON, EXP, z, y, n, with_gradient, scale, line)
    if loss == MSE:
        return element_lanes(MSE, activation, z, y, n, with_gradient, scale, line)
    if loss == MAE:
        return element_lanes(MAE, activation, z, y, n, with_gradient, scale, line)
    return element_lanes(HUBER, activation, z, y, n, with_gradient, scale, line)


@inline
def weight_of(e: Examples, row: int) -> float:
    """Of one example."""
    if is_set(e.sample_weight):
        return e.sample_weight[row]
    return 1.0


@inline
def element_column(
    loss: int,
    activation: int,
    e: Examples,
    first: int,
    begin: int,
    end: int,
    z: Reals,
    leading: int,
    with_gradient: bool,
    factor: float,
    losses: Any,
) -> None:
    """Rows of one output, a vector of them at a time: the bits of element_row."""
    zero = splat(0, z)
    inside = real_lanes(1, z)
    target = line_buffer(z)
    values = line_buffer(z)
    derivative = line_buffer(z)
    for i in range(begin, end, lanes(z)):
        rows = smaller(lanes(z), end - i)
        for j in range(rows):
            target[j] = convert_number(e.y + example_row(e, first + i + j) * e.y_row, e.y_type, target)
        value, slope = element_loss(
            loss, activation, load_elements(z + i * leading, leading, rows), load_elements(target, 1, rows)
        )
        store(values, value + zero)
        store(derivative, slope)
        for j in range(rows):
            weight = weight_of(e, example_row(e, first + i + j))
            losses[i + j] = weight * as_double(values[j])
            if with_gradient:
                scaled = derivative[j] * as_real(weight * factor, z)
                store(z + (i + j) * leading, choose(inside, splat(scaled, z), zero))


@kernel
def element_column_of(
    loss: int,
    activation: int,
    e: Examples,
    first: int,
    begin: int,
    end: int,
    z: Reals,
    leading: int,
    with_gradient: bool,
    factor: float,
    losses: Any,
) -> None:
    """element_column with the loss chosen once."""
    if loss == BCE:
        element_column(BCE, SIGMOID, e, first, begin, end, z, leading, with_gradient, factor, losses)
    elif loss == POISSON:
        element_column(POISSON, EXP, e, first, begin, end, z, leading, with_gradient, factor, losses)
    elif loss == MSE:
        element_column(MSE, activation, e, first, begin, end, z, leading, with_gradient, factor, losses)
    elif loss == MAE:
        element_column(MAE, activation, e, first, begin, end, z, leading, with_gradient, factor, losses)
    else:
        element_column(HUBER, activation, e, first, begin, end, z, leading, with_gradient, factor, losses)


# Cross-entropy of one row is log(sum) * weight - gap: the logarithms are taken together afterwards.


@kernel
def cross_entropy_of_class(
    z: Reals, label: int, n: int, with_gradient: bool, scale: float
) -> tuple[float, float, float]:
    """sum, weight and gap, the target being a class."""
    logit = z[label]
    one = as_real(1, z)
    total, largest = exponentials_of_row(z, n)
    if with_gradient:
        chosen = (z[label] / total - one) * scale
        for j in range(0, n, lanes(z)):
            store(z + j, load(z + j) / splat(total, z) * splat(scale, z))
        z[label] = chosen
    return total, one, logit - largest


@kernel
def cross_entropy_of_probabilities(
    z: Reals, y: Reals, n: int, with_gradient: bool, scale: float, shifted: Reals
) -> tuple[float, float, float]:
    """sum, weight and gap, the target being a probability for each class."""
    padded = padded_row(n, z)
    copy_reals(shifted, z, padded)
    total, largest = exponentials_of_row(z, n)
    zero = line_of(0, z)
    weight = zero
    gap = zero
    for j in range(0, padded, line_lanes(z)):
        target = load_line(y + j)
        d = load_line(shifted + j) - splat(largest, zero)
        weight = weight + target
        gap = choose(target == zero, gap, multiply_add(target, d, gap))
    whole = line_sum(weight)
    if with_gradient:
        for j in range(0, n, lanes(z)):
            p = load(z + j) / splat(total, z)
            store(z + j, (p * splat(whole, z) - load(y + j)) * splat(scale, z))
    return total, whole, line_sum(gap)


@kernel
def target_row(e: Examples, row: int, n: int, target: Reals) -> None:
    """One row of targets as reals, padding zero."""
    convert_row(target, e.y + row * e.y_row, e.y_column, e.y_type, n)
    for j in range(n, padded_row(n, target)):
        target[j] = as_real(0, target)


@kernel
def element_row_of(loss: int, activation: int, z: Reals, y: Reals, n: int, with_gradient: bool, scale: float) -> float:
    """element_row with the loss chosen once."""
    if loss == BCE:
        return element_row(BCE, SIGMOID, z, y, n, with_gradient, scale)
    if loss == POISSON:
        return element_row(POISSON, EXP, z, y, n, with_gradient, scale)
    if loss == MSE:
        return element_row(MSE, activation, z, y, n, with_gradient, scale)
    if loss == MAE:
        return element_row(MAE, activation, z, y, n, with_gradient, scale)
    return element_row(HUBER, activation, z, y, n, with_gradient, scale)


@inline
def class_of(e: Examples, row: int) -> int:
    return int64_at(e.y + row * e.y_row)


@inline
def reported(e: Examples, cross_entropy: float) -> float:
    if e.largest_loss > 0 and cross_entropy > e.largest_loss:
        return e.largest_loss
    return cross_entropy


@inline
def weights_of(e: Examples, first: int, factor: float, weights: Any, like: Reals) -> Vector:
    """The weights of as many examples as there are lanes, and the scale of their gradients."""
    for i in range(lanes(like)):
        weights[i] = 1.0
    if not is_set(e.sample_weight):
        return splat(as_real(factor, like), like)
    scales = line_buffer(like)
    for i in range(lanes(like)):
        weights[i] = e.sample_weight[example_row(e, first + i)]
        scales[i] = as_real(weights[i] * factor, like)
    return load(scales)


@kernel
def targets_to_columns(e: Examples, first: int, n: int, columns: Reals) -> None:
    """The targets of as many examples as there are lanes. Reals are copied by vectors: numbers copied one by one and
    read at once by vectors take long."""
    rows = columns_buffer(columns)
    is_direct = is_own_type(e.y_type, e.y_column, columns)
    for i in range(lanes(columns)):
        target = rows + i * MOST_COLUMNS
        source = e.y + example_row(e, first + i) * e.y_row
        if is_direct:
            for j in range(0, n, lanes(columns)):
                store(target + j, load_part(reals_at(source, target) + j, smaller(n - j, lanes(columns))))
        else:
            convert_row(target, source, e.y_column, e.y_type, n)
    rows_to_columns(rows, MOST_COLUMNS, n, columns)


@kernel
def element_losses(
    loss: int,
    activation: int,
    e: Examples,
    first: int,
    z: Reals,
    leading: int,
    n: int,
    with_gradient: bool,
    factor: float,
    losses: Any,
) -> None:
    """The element-wise losses of as many rows as there are lanes, from example ``first`` on."""
    columns = columns_buffer(z)
    targets = columns_buffer(z)
    scale = weights_of(e, first, factor, losses, z)
    rows_to_columns(z, leading, n, columns)
    targets_to_columns(e, first, n, targets)
    value = line_buffer(z)
    store(value, element_lanes_of(loss, activation, columns, targets, n, with_gradient, scale, columns_buffer(z)))
    for i in range(lanes(z)):
        losses[i] = losses[i] * (as_double(value[i]) / as_double(n))
    if with_gradient:
        columns_to_rows(columns, n, z, leading)


@kernel
def class_losses(
    e: Examples, first: int, z: Reals, leading: int, n: int, with_gradient: bool, factor: float, losses: Any
) -> None:
    """Cross-entropy of as many rows as there are lanes, from example ``first`` on, their targets being classes."""
    columns = columns_buffer(z)
    label = line_buffer(z)
    scale = weights_of(e, first, factor, losses, z)
    for i in range(lanes(z)):
        label[i] = as_real(class_of(e, example_row(e, first + i)), z)
    rows_to_columns(z, leading, n, columns)
    value = line_buffer(z)
    store(value, cross_entropy_of_classes(columns, load(label), n, with_gradient, scale, columns_buffer(z)))
    for i in range(lanes(z)):
        losses[i] = losses[i] * reported(e, as_double(value[i]))
    if with_gradient:
        columns_to_rows(columns, n, z, leading)


@kernel
def loss_rows(
    plan: Plan,
    e: Examples,
    first: int,
    begin: int,
    end: int,
    z: Reals,
    with_gradient: bool,
    divisor: float,
    target: Reals,
    parts: Reals,
    losses: Any,
) -> None:
    """losses[i] = weight * loss for rows begin .. end - 1 of the block that begins with example ``first``, from its
    logits z.

    With a gradient, z becomes dL/dz of the batch's mean, data terms divided by ``divisor``. target: two rows; parts:
    3 * block_rows.
    """
    layer = plan.layers[plan.n_layers - 1]
    n = layer.n_out
    loss = plan.loss
    outputs = as_double(n)
    factor = (1.0 if loss == CROSS_ENTROPY else (2.0 / outputs if loss == MSE else 1.0 / outputs)) / divisor
    if n == 1 and loss != CROSS_ENTROPY:
        element_column_of(loss, layer.activation, e, first, begin, end, z, layer.leading, with_gradient, factor, losses)
        return
    sums = parts
    weights = sums + plan.block_rows
    gaps = weights + plan.block_rows
    while fit_columns(end - begin, n, z) and (loss != CROSS_ENTROPY or e.y_column == 0):
        logits = z + begin * layer.leading
        if loss == CROSS_ENTROPY:
            class_losses(e, first + begin, logits, layer.leading, n, with_gradient, factor, losses + begin)
        else:
            element_losses(
                loss,
                layer.activation,
                e,
                first + begin,
                logits,
                layer.leading,
                n,
                with_gradient,
                factor,
                losses + begin,
            )
        begin += lanes(z)
    for i in range(begin, end):
        row = example_row(e, first + i)
        example_weight = weight_of(e, row)
        scale = as_real(example_weight * factor, z)
        logits = z + i * layer.leading
        if loss == CROSS_ENTROPY:
            if e.y_column == 0:
                one_sum, one_weight, one_gap = cross_entropy_of_class(logits, class_of(e, row), n, with_gradient, scale)
            else:
                target_row(e, row, n, target)
                one_sum, one_weight, one_gap = cross_entropy_of_probabilities(
                    logits, target, n, with_gradient, scale, target + layer.leading
                )
            sums[i] = one_sum
            weights[i] = one_weight
            gaps[i] = one_gap
            losses[i] = example_weight
        else:
            target_row(e, row, n, target)
            value = element_row_of(loss, layer.activation, logits, target, n, with_gradient, scale)
            losses[i] = example_weight * (as_double(value) / outputs)
    if loss == CROSS_ENTROPY:
        values = line_buffer(z)
        for i in range(begin, end, lanes(z)):
            logarithms = logarithm(load_loose(sums + i))
            store(values, multiply_add(logarithms, load_loose(weights + i), -load_loose(gaps + i)))
            for j in range(smaller(lanes(z), end - i)):
                losses[i + j] = losses[i + j] * reported(e, as_double(values[j]))


@inline
def output_slope(activation: int, x: Vector, d: Vector, mean: Vector) -> Vector:
    if activation == SOFTMAX:
        return x * (d - mean)
    _, chain = activate_with_derivative(activation, x)
    return d * chain


@kernel
def chain_output_rows(layer: Layer, rows: int, dy: Reals, z: Reals, target: Reals) -> None:
    """dL/dz from the logits z and dL/dy_hat, in place: what ``backward`` starts from."""
    n = layer.n_out
    for i in range(rows):
        logits = z + i * layer.leading
        copy_reals(target, dy + i * n, n)
        for j in range(n, padded_row(n, z)):
            target[j] = as_real(0, z)
        mean = as_real(0, z)
        if layer.activation == SOFTMAX:
            softmax_row(logits, n)
            total = line_of(0, z)
            for j in range(0, n, line_lanes(z)):
                total = multiply_add(load_line(logits + j), load_line(target + j), total)
            mean = line_sum(total)
        for j in range(0, n, lanes(z)):
            slope = output_slope(layer.activation, load(logits + j), load(target + j), splat(mean, z))
            store(logits + j, choose(real_lanes(n - j, z), slope, splat(0, z)))
