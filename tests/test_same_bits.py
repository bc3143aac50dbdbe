"""The same bytes from a fit for 1, 2, 3 and 8 threads and from both compiled backends, whatever the settings."""

import itertools
import os
import threading
from pathlib import Path

import fit_cases
import pytest
from support import make_examples, make_net

import fastmlp
from fastmlp import _backends
from fastmlp._backends import _plan

RUNS = [(backend, n) for backend in ("c", "numba") for n in fit_cases.THREADS]


@pytest.fixture(autouse=True)
def small_calls_are_shared(monkeypatch):
    monkeypatch.setattr(_plan, "THREAD_PRODUCTS", 1)
    monkeypatch.setenv("FASTMLP_NUM_THREADS", "8")


@pytest.fixture
def same_bits_promised(both_compiled_backends):
    if "baseline" in {_backends.instruction_set(name) for name in ("c", "numba")}:
        pytest.skip("no bits are promised without fused multiply-add")


def test_each_two_settings_meet_in_the_sample():
    cases = list(fit_cases.sample())
    pair = lambda case: ((case.output, case.loss), *case[2:])  # noqa: E731
    fields = list(zip(*map(pair, fit_cases.all_cases())))
    for i, j in itertools.combinations(range(5), 2):
        wanted = set(itertools.product(set(fields[i]), set(fields[j])))
        assert {(pair(case)[i], pair(case)[j]) for case in cases} == wanted, (i, j)


@pytest.mark.parametrize("part", range(3))
def test_bytes_of_fits(same_bits_promised, part):
    for number, case in enumerate(fit_cases.sample()):
        if number % 3 == part:
            # By turns three of the seven others, among them both backends.
            runs = [RUNS[0], RUNS[1 + number % 3], RUNS[4], RUNS[5 + number // 3 % 3]]
            batch = fit_cases.BATCHES[number // 9 % 3]
            assert not fit_cases.differences(case, runs, batch), (case, batch)


def test_bytes_of_fits_with_every_number_of_threads(same_bits_promised, dtype):
    case = fit_cases.Case("softmax", "cross_entropy", "gelu", "clipped adam", "all", dtype)
    for batch in fit_cases.BATCHES:
        assert not fit_cases.differences(case, RUNS, batch), batch


def test_a_difference_would_be_seen(compiled_backend):
    case = fit_cases.Case("softmax", "cross_entropy", "gelu", "adam", "none", "float32")
    other = fit_cases.fit(case._replace(regularizer="l1"), compiled_backend, 1, (120, 50))
    assert fit_cases.fit(case, compiled_backend, 1, (120, 50)) != other


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists a process's threads there")
def test_several_threads_take_part(compiled_backend):
    """Else all the above would compare one thread with itself."""
    net, _ = make_net(fit_cases.SIZES, backend=compiled_backend, n_threads=8)
    X, y = make_examples(net, 120)
    net.fit(X, y, optimizer=fastmlp.SGD(), batch_size=100)
    assert len(os.listdir("/proc/self/task")) >= threading.active_count() + (7 if compiled_backend == "c" else 0)
    assert compiled_backend == "c" or threading.active_count() >= 8
