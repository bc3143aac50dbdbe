"""A net inside compiled loops: the Lorenz system integrated through a net that learned it, and a policy's rollouts.

The loops are plain Python functions. Numba compiles them, net and all; called as they are, they give the same numbers.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._extras import require
from fastmlp._demos._table import format_duration, format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

# E. N. Lorenz, Deterministic nonperiodic flow, 1963. A deviation grows as exp(0.906 t).
PRANDTL, RAYLEIGH, BETA = 10.0, 28.0, 8.0 / 3.0
GROWTH = 0.906
TIME_STEP = 0.01
N_STATES = 20_000

# A cart of 1 kg with a pole of 0.1 kg and 1 m: Barto, Sutton and Anderson, 1983. Force in units of 10 N.
CART, POLE, HALF_LENGTH, GRAVITY, LARGEST_FORCE = 1.0, 0.1, 0.5, 9.8, 10.0
POLE_STEP = 0.02
# Force by position, velocity, angle and angular velocity: the linear regulator that the policy learns from.
GAINS = np.array([1.0, 1.66, 18.68, 3.59])
N_STARTS = 64
N_POLE_STEPS = 500


# ---- loops around the net, for Python and for Numba


def lorenz(y: Array, out: Array) -> None:
    """The derivative by time of a state (3,)."""
    out[0] = PRANDTL * (y[1] - y[0])
    out[1] = y[0] * (RAYLEIGH - y[2]) - y[1]
    out[2] = y[0] * y[1] - BETA * y[2]


def integrate(slope: Callable[[Array, Array], None], dt: float, path: Array) -> None:
    """Runge-Kutta steps of fourth order from path[0] on, through its other rows; ``slope(y, out)`` is y'."""
    n = path.shape[1]
    place, k = np.empty(n), np.empty((4, n))
    for step in range(len(path) - 1):
        y = path[step]
        slope(y, k[0])
        for stage in range(1, 4):
            for i in range(n):
                place[i] = y[i] + (dt if stage == 3 else 0.5 * dt) * k[stage - 1, i]
            slope(place, k[stage])
        for i in range(n):
            path[step + 1, i] = y[i] + dt / 6.0 * (k[0, i] + 2.0 * k[1, i] + 2.0 * k[2, i] + k[3, i])


def growth_rate(net: Any, dt: float, path: Array) -> float:
    """The largest Lyapunov exponent along a path: how a small deviation v grows by v' = J v, J the net's Jacobian."""
    n = path.shape[1]
    v, half, k = np.full(n, 1.0 / np.sqrt(n)), np.empty(n), np.empty(n)
    out, jacobian = np.empty(n), np.empty((n, n))
    total = 0.0
    for step in range(len(path) - 1):
        for i in range(n):
            half[i] = 0.5 * (path[step, i] + path[step + 1, i])
        net.value_and_jacobian(half, out, jacobian)
        for i in range(n):
            k[i] = 0.0
            for j in range(n):
                k[i] += jacobian[i, j] * v[j]
        square = 0.0
        for i in range(n):
            half[i] = v[i] + dt * k[i]
            for j in range(n):
                half[i] += 0.5 * dt * dt * jacobian[i, j] * k[j]
            square += half[i] * half[i]
        size = np.sqrt(square)
        total += np.log(size)
        for i in range(n):
            v[i] = half[i] / size
    return total / (dt * (len(path) - 1))


def rollout(policy: Any, starts: Array, angles: Array) -> None:
    """Cart-pole from each start (n, 4) under a policy; the pole's angle after each step into angles (n, steps)."""
    action = np.empty(1, dtype=np.float32)
    state = np.empty(4, dtype=np.float32)
    mass = CART + POLE
    for start in range(len(starts)):
        state[:] = starts[start]
        for step in range(angles.shape[1]):
            policy(state, action)
            force = LARGEST_FORCE * min(max(action[0], -1.0), 1.0)
            sine, cosine = np.sin(state[2]), np.cos(state[2])
            pull = (force + POLE * HALF_LENGTH * state[3] ** 2 * sine) / mass
            turn = (GRAVITY * sine - cosine * pull) / (HALF_LENGTH * (4.0 / 3.0 - POLE * cosine**2 / mass))
            push = pull - POLE * HALF_LENGTH * turn * cosine / mass
            state[0] += POLE_STEP * state[1]
            state[1] += POLE_STEP * push
            state[2] += POLE_STEP * state[3]
            state[3] += POLE_STEP * turn
            angles[start, step] = state[2]


# ---- nets


def learn_lorenz(path: Array, epochs: int, backend: str | None = None) -> fastmlp.MLP:
    """A net that gives the derivative of a state, trained on the states of a path and their surroundings."""
    rng = np.random.default_rng(0)
    X = path[rng.integers(0, len(path), N_STATES)] + rng.normal(0.0, 0.5, (N_STATES, 3))
    slopes = np.empty_like(X)
    lorenz(X.T, slopes.T)
    size = slopes.std(axis=0)
    net = fastmlp.MLP([3, 64, 64, 3], activation="tanh", dtype="float64", rng=0, backend=backend)
    optimizer = fastmlp.Adam(lr=fastmlp.schedules.cosine(5e-3, epochs))
    net.fit((X - X.mean(axis=0)) / X.std(axis=0), slopes / size, optimizer=optimizer, epochs=epochs, batch_size=128)
    net.fold_input_scaling(X.mean(axis=0), X.std(axis=0))
    net.weights[-1][...] *= size[:, None]
    net.biases[-1][...] *= size
    return net


def learn_policy(epochs: int, backend: str | None = None) -> fastmlp.MLP:
    """A policy that imitates the linear regulator."""
    rng = np.random.default_rng(1)
    X = rng.uniform(-1.0, 1.0, (N_STATES, 4)) * [2.0, 2.0, 0.3, 2.0]
    y = np.clip(X @ GAINS / LARGEST_FORCE, -1.0, 1.0)
    net = fastmlp.MLP([4, 64, 64, 1], activation="tanh", rng=0, backend=backend)
    net.fit(X, y, optimizer=fastmlp.Adam(lr=fastmlp.schedules.cosine(3e-3, epochs)), epochs=epochs, batch_size=128)
    return net


def seconds_of(function: Callable[..., Any], *arguments: Any) -> float:
    """The shortest of three runs."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - started)
    return min(times)


def by_forward(net: fastmlp.MLP) -> Callable[[Array, Array], None]:
    """What one would write without a compiled net."""

    def function(x: Array, out: Array) -> None:
        net.forward(x, out=out)

    return function


def compare(fast: float, slow: float) -> list[str]:
    """Two times, and how many times faster the first is."""
    return [format_duration(fast), format_duration(slow), f"{slow / fast:.0f}x"]


# ---- the demo


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print how the nets do and what a step takes, compiled and in Python, and draw the paths."""
    numba = require("numba", "Numba")
    loops: tuple[Any, ...] = (lorenz, integrate, growth_rate, rollout)
    compiled = {function: numba.njit(function) for function in loops}
    n_steps = 2000 if quick else 20_000
    true_path = np.empty((n_steps + 1, 3))
    true_path[0] = (-8.0, -8.0, 27.0)  # close to the attractor
    compiled[integrate](compiled[lorenz], TIME_STEP, true_path)

    net = learn_lorenz(true_path, 20 if quick else 150, backend)
    started = time.perf_counter()
    slope = net.jit()
    taken = format_duration(time.perf_counter() - started)
    print(f"A net learned the Lorenz system; net.jit() took {taken}: {slope!r}")
    path = true_path.copy()
    compiled[integrate](slope, TIME_STEP, path)
    short = path[: 1 + n_steps // 20].copy()
    integrate(slope, TIME_STEP, short)
    if not np.array_equal(short, path[: len(short)]):
        raise AssertionError("the path that Python computes is another")

    policy_net = learn_policy(5 if quick else 30, backend)
    policy = policy_net.jit()
    starts = np.random.default_rng(2).uniform(-0.2, 0.2, (N_STARTS, 4)).astype(np.float32)
    angles = np.empty((N_STARTS, N_POLE_STEPS), dtype=np.float32)
    compiled[rollout](policy, starts, angles)

    python_path, python_angles = short[:200], angles[:1, :200].copy()
    plain_slope, plain_policy = by_forward(net), by_forward(policy_net)
    rows = [
        [
            "Lorenz, 3-64-64-3 float64",
            *compare(
                seconds_of(compiled[integrate], slope, TIME_STEP, path) / (4 * n_steps),
                seconds_of(integrate, plain_slope, TIME_STEP, python_path) / (4 * len(python_path) - 4),
            ),
        ],
        [
            "cart-pole, 4-64-64-1 float32",
            *compare(
                seconds_of(compiled[rollout], policy, starts, angles) / angles.size,
                seconds_of(rollout, plain_policy, starts[:1], python_angles) / python_angles.size,
            ),
        ],
    ]
    print("\nOne call of the net, the loop around it included:\n")
    print(format_table(["loop", "@njit around net.jit()", "Python around net.forward", "faster"], rows))

    apart = np.linalg.norm(path - true_path, axis=1) > 1.0
    parted = TIME_STEP * int(apart.argmax()) if apart.any() else TIME_STEP * n_steps
    rate = compiled[growth_rate](slope, TIME_STEP, path)
    print(f"\nLorenz: the net's path stays within 1 of the true one for {parted:.1f} units of time.")
    print(f"A deviation grows as exp({rate:.3f} t) by the net's Jacobian; exp({GROWTH} t) is known of the system.")
    upright = float(np.mean(np.abs(angles).max(axis=1) < 0.5))
    print(f"Cart-pole: {upright:.0%} of {N_STARTS} poles are held for {N_POLE_STEPS * POLE_STEP:.0f} s.\n")
    _figure.write(output / "njit.png", lambda figure: draw(figure, true_path, path, angles), (12.5, 5.2))


def draw(figure: "Figure", true_path: Array, path: Array, angles: Array) -> None:
    """Both paths over time, the net's from the side, and the angles of the poles."""
    _figure.title(figure, "A net inside compiled loops")
    panels = figure.subplot_mosaic([["time", "side"], ["poles", "side"]], width_ratios=[1.5, 1.0])
    shown = slice(0, min(2000, len(path)))
    times = TIME_STEP * np.arange(len(path))[shown]
    panels["time"].plot(times, true_path[shown, 0], color=_figure.INK, linewidth=2.4, label="Lorenz system")
    panels["time"].plot(times, path[shown, 0], color=_figure.ORANGE, linewidth=1.2, label="net")
    panels["time"].set(xlabel="time", ylabel="$x$", title="Integrated through the net")
    _figure.legend_below(figure, panels["time"], columns=2)
    panels["side"].plot(path[:, 0], path[:, 2], color=_figure.BLUE, linewidth=0.4)
    panels["side"].set(xlabel="$x$", ylabel="$z$", title="The net's attractor")
    panels["poles"].plot(POLE_STEP * np.arange(angles.shape[1]), angles.T, color=_figure.GREEN, linewidth=0.5)
    panels["poles"].set(xlabel="time in s", ylabel="angle in rad", title="Poles under the policy")
