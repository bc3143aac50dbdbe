"""What `fastmlp bench` and the benches rest on: the net by hand, the check before timing, the rounds, the selection."""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import oracle
import pytest
from support import assert_close

from fastmlp._bench import _command
from fastmlp._bench._check import WrongResult, check
from fastmlp._bench._contenders import FastMLP, HandwrittenNumPy
from fastmlp._bench._environment import with_threads
from fastmlp._bench._handwritten import HandwrittenNet
from fastmlp._bench._rounds import stopwatch, time_in_rounds
from fastmlp._bench._tasks import TASKS, flop_of, steps_per_call, way_of
from fastmlp._bench._workload import Workload
from fastmlp._bench._workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
SMALL = (
    Workload((2, 3, 1), "sigmoid", "sigmoid", 4),
    Workload((5, 7, 6, 4), "tanh", "softmax", 9),
    Workload((6, 8, 3), "relu", "softmax", 5),
    Workload((4, 6, 2), "relu", "sigmoid", 7),
)


@pytest.fixture(params=SMALL, ids=lambda workload: workload.name)
def workload(request):
    return request.param


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


# The net by hand


def oracle_of(workload):
    weights, biases = zip(*workload.parameters())
    return oracle.Net(
        layer_sizes=workload.layer_sizes,
        activations=(workload.activation,) * (len(workload.layer_sizes) - 2),
        output_activation=workload.output_activation,
        loss="cross_entropy" if workload.output_activation == "softmax" else "bce",
        weights=weights,
        biases=biases,
    )


def test_net_by_hand_computes_what_the_oracle_does(workload):
    workload = workload._replace(dtype="float64")
    (X, y), learning_rate = workload.examples(), 0.5
    by_hand, reference = HandwrittenNet(workload, learning_rate), oracle_of(workload)
    assert_close(by_hand.logits(X), oracle.logits(reference, X), "float64")
    loss, dW, db, _ = oracle.loss_and_gradients(reference, X, y)
    assert_close(by_hand.step(X, y), loss, "float64")
    for layer, (W, b) in enumerate(by_hand.parameters):
        assert_close(W, reference.weights[layer] - learning_rate * dW[layer], "float64", f"W{layer + 1}")
        assert_close(b, reference.biases[layer] - learning_rate * db[layer], "float64", f"b{layer + 1}")


def test_epoch_by_hand_takes_every_batch_in_the_order_given(workload):
    X, y = workload.examples(2 * workload.n + 1)
    by_epoch, by_steps = HandwrittenNet(workload, 0.5), HandwrittenNet(workload, 0.5)
    by_epoch.epoch(X, y, workload.n, np.random.default_rng(3))
    order = np.random.default_rng(3).permutation(len(X))
    for batch in np.split(order, [workload.n, 2 * workload.n]):
        by_steps.step(X[batch], y[batch])
    for layer, expected in zip(by_epoch.parameters, by_steps.parameters):
        np.testing.assert_array_equal(layer[0], expected[0])
        np.testing.assert_array_equal(layer[1], expected[1])


# The check before anything is timed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_right_results_pass_the_check(workload, task, dtype, backend):
    workload = workload._replace(dtype=dtype)
    check(partial(FastMLP, workload, n_threads=1, backend=backend), task, workload)
    check(partial(HandwrittenNumPy, workload), task, workload)


class SlightlyWrong(HandwrittenNumPy):
    """Its last bias is too large by a thousandth, or moves too far by a twentieth."""

    def logits(self, X):
        self.net.parameters[-1][1][-1] += 1e-3
        return super().logits(X)

    def parameters(self):
        *layers, (W, b) = self.net.parameters
        b_start = self.workload.parameters()[-1][1]
        return [*layers, (W, b_start + 1.05 * (b - b_start))]


def test_a_wrong_result_fails_the_check(workload, task):
    def make(learning_rate):
        contender = SlightlyWrong(workload, learning_rate)
        contender.workload = workload
        return contender

    with pytest.raises(WrongResult, match="off by"):
        check(make, task, workload)


class NotANumber(HandwrittenNumPy):
    def logits(self, X):
        return lambda: np.full((len(np.atleast_2d(X)), len(self.net.parameters[-1][1])), np.nan)

    def parameters(self):
        return [(W * np.nan, b) for W, b in self.net.parameters]


def test_nan_fails_the_check(workload, task):
    with pytest.raises(WrongResult, match="nan"):
        check(partial(NotANumber, workload), task, workload)


# Operations and tasks


def test_operations_of_a_step():
    workload = Workload((3, 4, 2), "relu", "softmax", 5)
    # 5 examples: 12 + 8 products forward, as many for the weights' gradients, and 8 for the hidden layer's.
    assert workload.forward_flop == 2 * 5 * 20
    assert workload.step_flop == 2 * 5 * (20 + 20 + 8)
    assert [flop_of(task, workload) for task in TASKS] == [480, 480, 200, 40]


class Recorder:
    """Tells what it was asked to do: the method, and the shape of X."""

    def logits(self, X):
        return "logits", X.shape

    def step(self, X, y):
        return "step", X.shape

    def epoch(self, X, y, rng):
        return "epoch", X.shape


def test_tasks_are_given_their_examples():
    workload = WORKLOADS["policy"]
    n_steps = steps_per_call("fit", workload)
    asked = {task: way_of(lambda learning_rate: Recorder(), task, workload) for task in TASKS}
    assert asked == {
        "step": ("step", (64, 17)),
        "fit": ("epoch", (64 * n_steps, 17)),
        "forward": ("logits", (64, 17)),
        "one": ("logits", (17,)),
    }


def test_steps_of_an_epoch():
    assert steps_per_call("fit", WORKLOADS["xor"]) == 1024
    assert steps_per_call("fit", WORKLOADS["digits"]) == 5e8 // WORKLOADS["digits"].step_flop
    assert steps_per_call("fit", WORKLOADS["wide"]) == 2
    assert steps_per_call("step", WORKLOADS["xor"]) == 1


# The rounds


def test_rounds_take_the_median_in_rotating_order():
    calls = []

    def timer_of(name, durations):
        def timer(n):
            calls.append((name, n))
            return n * durations[sum(called == name for called, _ in calls) % len(durations)]

        return timer

    timers = {"steady": timer_of("steady", [0.5]), "disturbed": timer_of("disturbed", [0.25, 4.0, 0.25, 0.25])}
    medians = time_in_rounds(timers, 3.0, n_rounds=3)
    assert medians == {"steady": 0.5, "disturbed": 0.25}
    rounds = [name for name, _ in calls[-6:]]
    assert rounds == ["steady", "disturbed", "disturbed", "steady", "steady", "disturbed"]


def test_runs_fill_the_time_given():
    asked = []

    def timer(n):
        asked.append(n)
        return 0.001 * n

    assert time_in_rounds({"way": timer}, 0.9, n_rounds=9) == pytest.approx({"way": 0.001})
    assert asked[-9:] == [100] * 9


def test_stopwatch_runs_once_more_than_it_times_but_only_where_it_times_several():
    runs = []
    timer = stopwatch(lambda: runs.append(None))
    assert timer(1) > 0.0
    assert len(runs) == 1
    timer(3)
    assert len(runs) == 1 + 4


def test_environment_gives_every_library_its_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    environment = with_threads(3)
    assert environment["OMP_NUM_THREADS"] == environment["FASTMLP_NUM_THREADS"] == "3"
    assert environment["OPENBLAS_NUM_THREADS"] == "3"
    assert "OPENBLAS_CORETYPE" not in environment


# What the command prints


def test_rows_of_a_case(monkeypatch):
    workload = WORKLOADS["digits"]
    monkeypatch.setattr(_command, "step_seconds", lambda *_: {_command.BY_HAND: 2e-4, "numpy": 1e-4})
    by_hand, numpy = _command.rows_of("digits", ["numpy"], 0.1)
    assert by_hand == ("digits", "64-100-10", "NumPy by hand", "64", "200.00", f"{workload.step_flop / 2e5:.2f}", "")
    assert numpy == ("", "", "numpy", "64", "100.00", f"{workload.step_flop / 1e5:.2f}", "2.00x")


def test_a_wrong_backend_is_named_and_not_timed(monkeypatch, capsys):
    def wrong(*_):
        raise WrongResult("W_1 is off")

    monkeypatch.setattr(_command, "check", wrong)
    monkeypatch.setattr(_command, "time_in_rounds", lambda *_: pytest.fail("it was timed"))
    assert _command.run("numpy", quick=True) == 1
    printed = capsys.readouterr()
    assert "NumPy by hand: W_1 is off" in printed.err
    assert not printed.out


# The pictures


def test_pictures_are_drawn_from_kept_figures(monkeypatch, tmp_path):
    for package in ("matplotlib", "threadpoolctl"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(ROOT / "benches")
    pictures = importlib.import_module("pictures")
    shares = [
        {"task": task, "case": case, "flop": 10**power, "shares": {"c": 0.5, "best peer": 0.25}}
        for task in pictures.TASKS
        for power, case in enumerate(("least", "small", "large"), start=5)
    ]
    sweep = [
        {"task": task, "backend": "c", "n": n, "seconds": 1e-6 / n} for task in pictures.TASKS for n in (1, 2, 4096)
    ]
    (tmp_path / "performance.json").write_text(json.dumps({"shares": shares, "sweep": sweep}))
    pictures.main(["--again", "--output", str(tmp_path)])
    for name in ("roofline.png", "batch-sweep.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


# Which benches the --benchmark flag runs


def collected(*arguments):
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_long_benches_are_timed_only_when_named():
    timed = collected("--benchmark", "benches", "benches/bench_threads.py", "tests/test_bench.py")
    assert "bench_train_step.py" in timed
    assert "bench_threads.py::test_threads[alone-c-step-wide]" in timed
    assert "bench_peers.py" not in timed
    assert "test_bench.py" not in timed


def test_large_cases_are_left_out_of_tests():
    untimed = collected("benches/bench_threads.py")
    assert "[alone-c-step-digits]" in untimed
    assert "wide" not in untimed
