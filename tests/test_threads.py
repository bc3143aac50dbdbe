"""The number of threads, calls from several Python threads, and forked processes."""

import ctypes
import os
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net, require, run_python

import fastmlp
from fastmlp import _threads
from fastmlp._backends import _plan
from fastmlp._backends._numba import _kernels, _pool
from fastmlp._backends._numba._places import Places


@pytest.fixture(autouse=True)
def default_threads(monkeypatch):
    """No setting from outside, and none left behind."""
    for name in ("FASTMLP_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    yield
    monkeypatch.undo()  # nets of other tests may be alive, and read the environment again
    fastmlp.set_num_threads(None)


def test_environment(monkeypatch):
    default = _threads.threads_for(None)
    assert 1 <= default <= os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert _threads.threads_for(None) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1,4")
    assert _threads.threads_for(None) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert _threads.threads_for(None) == default
    monkeypatch.setenv("FASTMLP_NUM_THREADS", "3")
    assert _threads.threads_for(None) == 3
    assert _threads.threads_for(2) == 2
    assert _threads.threads_for(5) == 3
    monkeypatch.setenv("FASTMLP_NUM_THREADS", " ")
    assert _threads.threads_for(None) == default


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "two"])
def test_bad_environment(monkeypatch, value):
    monkeypatch.setenv("FASTMLP_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"FASTMLP_NUM_THREADS is '{value}'"):
        fastmlp.MLP([2, 2])


def test_set_num_threads(monkeypatch):
    monkeypatch.setenv("FASTMLP_NUM_THREADS", "3")
    fastmlp.set_num_threads(2)
    assert _threads.threads_for(None) == 2
    assert _threads.threads_for(1) == 1
    fastmlp.set_num_threads(None)
    assert _threads.threads_for(None) == 3
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("two", TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"\bn is"):
            fastmlp.set_num_threads(bad)


def test_n_threads_is_an_upper_bound():
    assert _threads.threads_for(1) == 1
    assert _threads.threads_for(10**6) >= 1
    with pytest.raises(ValueError, match="n_threads"):
        fastmlp.MLP([2, 2], n_threads=0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_affinity_bounds_the_default():
    code = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from fastmlp import _threads
print(_threads.default_threads())
"""
    assert run_python(code, OMP_NUM_THREADS="").strip() == "1"


def test_quota_of_control_groups(tmp_path):
    groups = tmp_path / "cgroup"
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    groups.write_text("0::/a/b\n")
    assert _threads._cgroup_quota(str(groups), str(tmp_path)) == 2
    (tmp_path / "a" / "b" / "cpu.max").write_text("50000 100000\n")
    _threads._cgroup_quota.cache_clear()
    assert _threads._cgroup_quota(str(groups), str(tmp_path)) == 1
    _threads._cgroup_quota.cache_clear()
    assert _threads._cgroup_quota(str(tmp_path / "nothing"), str(tmp_path)) is None


@pytest.mark.parametrize("batch_size", [64, 700])
def test_same_bits_for_any_number_of_threads(compiled_backend, dtype, batch_size):
    """Wide enough that a step is worth sharing."""

    def results(n_threads):
        fastmlp.set_num_threads(n_threads)
        net, _ = make_net(
            (200, 300, 250, 10), output_activation="softmax", dropout=0.1, dtype=dtype, backend=compiled_backend
        )
        X, y = make_examples(net, 1400)
        history = net.fit(X, y, optimizer=fastmlp.Adam(), epochs=1, batch_size=batch_size)
        gradients = net.backward(X, np.ones((1400, 10), dtype=dtype), input_gradient=True)
        return net.parameters, np.array(history.loss), net.forward(X), gradients.flat, gradients.input

    expected = results(1)
    for n_threads in (2, 3):
        for actual, wanted in zip(results(n_threads), expected):
            assert_same_bits(actual, wanted)


@pytest.mark.parametrize("n", [1024, 1025, 1500, 2600])
def test_same_bits_where_threads_take_whole_blocks(compiled_backend, dtype, n):
    """Small nets, of which each thread takes whole blocks where there are enough; 7 threads share each."""

    def results(n_threads):
        fastmlp.set_num_threads(n_threads)
        net, _ = make_net(
            (100, 200, 10), activation="gelu", loss="huber", l2=1e-3, dropout=0.1, dtype=dtype, backend=compiled_backend
        )
        X, y = make_examples(net, n)
        weights = np.linspace(0.5, 1.5, n)
        assert net._engine._training.record[0]["own_blocks"] == (n_threads > 1)
        history = net.fit(X, y, optimizer=fastmlp.Adam(clip_norm=0.1), epochs=2, batch_size=None, sample_weight=weights)
        loss, gradients = net.loss_and_gradients(X, y, sample_weight=weights, training=True)
        chained = net.backward(X, y, input_gradient=True)
        losses = np.array([*history.loss, loss, net.loss(X, y)])
        arrays = (net.parameters, losses, gradients.flat, chained.flat, chained.input)
        return (*arrays, net.forward(X), *net.activations_of(X))

    expected = results(1)
    for n_threads in (2, 3, 7):
        for actual, wanted in zip(results(n_threads), expected, strict=True):
            assert_same_bits(actual, wanted)


@pytest.mark.parametrize("n", [1, 2, 3, 12, 13, 40])
@pytest.mark.parametrize("arrays", ["own", "converted"])
def test_same_bits_where_threads_share_outputs(compiled_backend, dtype, n, arrays, monkeypatch):
    """Few rows go through some of a layer's outputs in each thread, narrow layers through one; 7 threads share each."""
    monkeypatch.setattr(_plan, "THREAD_PRODUCTS", 1)

    def results(n_threads):
        fastmlp.set_num_threads(n_threads)
        net, _ = make_net(
            (5, 7, 300, 61, 3), activation="silu", output_activation="softmax", dropout=[0.2, 0, 0.5], dtype=dtype,
            backend=compiled_backend,
        )  # fmt: skip
        X, y = make_examples(net, n)
        if arrays == "converted":
            X = X.astype({"float32": "float64", "float64": "float32"}[np.dtype(dtype).name])[:, ::-1]
        chained = net.backward(X, np.ones((n, 3), dtype=dtype), input_gradient=True)
        history = net.fit(X, y, optimizer=fastmlp.Adam(), epochs=2, batch_size=n, shuffle=True, rng=0)
        vectors = np.ones_like(X, dtype=dtype)
        flat = net.hvp(X, y, np.ones(net.n_parameters)).flat, net.gradients_per_example(X, y).flat
        tangents = net.jvp(X, vectors)
        outputs = (net.forward(X), net.forward(X[0]), net.logits(X), net.jacobian(X), *tangents, *net.activations_of(X))
        losses = np.array([*history.loss, net.loss(X, y)])
        return (net.parameters, losses, chained.flat, chained.input, *flat, *outputs)

    expected = results(1)
    for n_threads in (2, 3, 7):
        for actual, wanted in zip(results(n_threads), expected, strict=True):
            assert_same_bits(actual, wanted)


def test_set_num_threads_reaches_nets_that_exist(backend):
    net, _ = make_net((20, 30, 5), backend=backend)
    X, y = make_examples(net, 50)
    expected = net.forward(X)
    for n in (2, 1, None):
        fastmlp.set_num_threads(n)
        assert_same_bits(net.forward(X), expected)
        old = net.weights[0][0, 0]
        net.weights[0][0, 0] = 5.0
        assert np.any(net.forward(X) != expected)
        net.weights[0][0, 0] = old
        fastmlp.SGD(lr=0.0).step(net, X, y)


def run_in_threads(*functions):
    """Run them at once; the first error is raised here."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:  # it is raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_calls_from_several_threads(backend, dtype):
    net, _ = make_net((30, 64, 5), output_activation="softmax", dtype=dtype, backend=backend)
    parts = [make_examples(net, n, seed=n) for n in (1, 40, 700)]
    expected = [(net.forward(X), net.loss(X, y), net.loss_and_gradients(X, y)[1].flat) for X, y in parts]

    def work():
        for _ in range(4):
            for (X, y), (y_hat, loss, gradient) in zip(parts, expected):
                assert_same_bits(net.forward(X), y_hat)
                assert net.loss(X, y) == loss
                assert_same_bits(net.loss_and_gradients(X, y)[1].flat, gradient)

    run_in_threads(work, work, work)


def test_eight_threads_call_forward(backend):
    net, _ = make_net((30, 64, 5), output_activation="softmax", backend=backend, n_threads=2)
    X, _ = make_examples(net, 700)
    parts = [X[:n] for n in (1, 2, 17, 256, 300, 700)]
    expected = [net.forward(part) for part in parts]
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        for _ in range(10):
            for part, y_hat in zip(parts, expected):
                assert_same_bits(net.forward(part), y_hat)

    run_in_threads(*[work] * 8)


def test_two_nets_train_at_once(backend, dtype):
    def train(net, data):
        net.fit(*data, optimizer=fastmlp.Adam(), epochs=3, batch_size=20, rng=np.random.default_rng(5))

    nets = [make_net((30, 64, 5), dtype=dtype, backend=backend)[0] for _ in range(3)]
    data = make_examples(nets[0], 300)
    train(nets[2], data)
    run_in_threads(*(lambda net=net: train(net, data) for net in nets[:2]))
    for net in nets[:2]:
        assert_same_bits(net.parameters, nets[2].parameters)


def test_a_second_trainer_is_refused(backend):
    net, _ = make_net((3, 4, 2), backend=backend)
    X, y = make_examples(net, 10)
    _, gradients = net.loss_and_gradients(X, y)
    attempts = [
        lambda: net.fit(X, y),
        lambda: fastmlp.SGD().step(net, X, y),
        lambda: fastmlp.SGD().apply(net, gradients),
    ]
    refused = []

    def callback(net, history):
        for attempt in attempts:
            with pytest.raises(RuntimeError, match="already being trained"):
                run_in_threads(attempt)
            refused.append(attempt)
        assert_same_bits(net.forward(X), net.forward(X))

    net.fit(X, y, callbacks=[callback])
    assert len(refused) == 3
    for attempt in attempts:
        attempt()


def test_forward_during_training(backend):
    """What it returns is made of parameters in the midst of an update, but it returns."""
    net, _ = make_net((30, 64, 5), backend=backend)
    X, y = make_examples(net, 300)
    done = threading.Event()

    def train():
        try:
            net.fit(X, y, epochs=20, batch_size=8)
        finally:
            done.set()

    def read():
        while not done.is_set():
            assert np.isfinite(net.forward(X)).all()

    run_in_threads(train, read)


def test_other_threads_run_while_a_net_trains(compiled_backend, monkeypatch):
    """No thread is made to hand over the interpreter: another one runs if the kernel has let go of it."""
    net, _ = make_net((200, 300, 250, 10), backend=compiled_backend)
    X, y = make_examples(net, 2000)
    net.fit(X[:10], y[:10])
    train, began, events = net._engine.train, threading.Event(), []

    def noted(*arguments):
        began.set()
        events.append("in")
        taken = train(*arguments)
        events.append("out")
        return taken

    def run():
        assert began.wait(60)
        events.append("other")

    interval = sys.getswitchinterval()
    monkeypatch.setattr(net._engine, "train", noted)
    sys.setswitchinterval(1000.0)
    try:
        run_in_threads(run, lambda: net.fit(X, y, batch_size=None))
    finally:
        sys.setswitchinterval(interval)
    assert events == ["in", "other", "out"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_short_calls_use_threads_where_they_are_close(compiled_backend):
    """Between calls with pauses the threads sleep, and to wake them would take longer than they save."""
    code = f"""
import time
import numpy as np
import fastmlp

net = fastmlp.MLP([784, 500, 500, 10], backend={compiled_backend!r}, n_threads=2, rng=0)
x = np.ones(784, dtype=np.float32)

def others(n_calls, pause):
    process, own = time.process_time(), time.thread_time()
    for _ in range(n_calls):
        net.forward(x)
        if pause:
            time.sleep(pause)
    process, own = time.process_time() - process, time.thread_time() - own
    return (process - own) / own

others(20, 0.002)
paused = others(200, 0.002)
assert paused < 0.2, paused
deadline = time.monotonic() + 60
while others(100, 0) < 0.2:
    assert time.monotonic() < deadline
print("done")
"""
    assert run_python(code).strip() == "done"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="threads have no priorities")
def test_teams_whose_other_threads_are_kept_waiting_are_given_up(compiled_backend):
    """On one processor, which they get only while their caller waits for them."""
    code = f"""
import os, time
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
os.environ["FASTMLP_NUM_THREADS"] = "2"
import numpy as np
import fastmlp

def times(net, n_calls):
    process, own = time.process_time(), time.thread_time()
    for _ in range(n_calls):
        net.forward(X)
    process, own = time.process_time() - process, time.thread_time() - own
    return (process - own) / n_calls, own / n_calls

net, alone = (fastmlp.MLP([784, 500, 500, 10], backend={compiled_backend!r}, n_threads=n, rng=0) for n in (2, 1))
X = np.ones((200, 784), dtype=np.float32)
net.forward(X)
for thread in map(int, os.listdir("/proc/self/task")):
    if thread != os.getpid():
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
others, whole = times(net, 300)[0], times(alone, 30)[1]
assert 0 < others < 0.1 * whole, (others, whole)
print("done")
"""
    assert run_python(code).strip() == "done"


@pytest.mark.parametrize("method", ["fork", "spawn", "loky"])
def test_children_train_after_their_parent(compiled_backend, method):
    """And the parent goes on."""
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    if method == "loky":
        pytest.importorskip("joblib", reason="joblib starts the children")
    code = (
        f"import process_worker\nif __name__ == '__main__':\n    process_worker.main({method!r}, {compiled_backend!r})"
    )
    assert run_python(code).strip() == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_after_use(backend):
    """A child trains on with kernels, and threads, that its parent has used."""
    code = f"""
import os, warnings
warnings.simplefilter("ignore")
import numpy as np
import fastmlp
from support import make_examples, make_net

fastmlp.set_num_threads(2)
net, _ = make_net((200, 300, 250, 10), backend={backend!r})
X, y = make_examples(net, 700)
net.fit(X, y, epochs=1, batch_size=350)
read, write = os.pipe()
child = os.fork()
net.fit(X, y, epochs=1, batch_size=350)
if child == 0:
    os.write(write, net.parameters.tobytes()[:1000])
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert os.read(read, 1000) == net.parameters.tobytes()[:1000]
print("done")
"""
    assert run_python(code).strip() == "done"


class Parts:
    """A C function for Numba's pool that calls a Python function with a member's index and the arguments."""

    def __init__(self, function):
        def call(job, arguments, member):
            function(ctypes.c_int64.from_address(member).value, arguments)

        self._call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(call)
        self.address = ctypes.cast(self._call, ctypes.c_void_p).value


@pytest.fixture
def pool_kernels():
    require("numba")
    return _kernels.functions(np.dtype("float32"))


def test_teams_whose_caller_has_waited_are_given_up_for_a_while(pool_kernels):
    """Numba's pool: a sleeping thread stands for one whose core is busy with something else. Each trial in vain is
    followed by a longer while, and trials that go well by a shorter one."""
    pool, parts = _pool.Pool(), Parts(lambda index, milliseconds: time.sleep(milliseconds / 1000 * index))
    run, alone = partial(pool.run, pool_kernels, 2, parts.address, 0), pool._watch["alone"]
    assert run(100)
    assert not run(0)
    first = alone.item()
    time.sleep(first / 1e9)
    assert run(100)
    assert not run(0)
    assert 0.09e9 < first < alone.item() / 2
    time.sleep(alone.item() / 1e9)
    parts = Parts(lambda index, milliseconds: time.sleep(milliseconds / 1000))  # who both sleep keep nobody waiting
    run = partial(pool.run, pool_kernels, 2, parts.address, 0)
    while alone.item() > first:
        assert run(100)


def test_calls_while_teams_are_given_up(pool_kernels):
    """Numba's: they have the same bits, and leave its threads alone."""
    net, single = (fastmlp.MLP([784, 500, 500, 10], backend="numba", n_threads=n, rng=0) for n in (2, 1))
    X, pool = np.ones((200, 784), dtype=np.float32), _kernels._pool
    expected, parts = single.forward(X), pool._desks._words[1, :1]
    net.forward(X)  # makes threads
    pool._watch["alone_until"], posted = 2**62, parts.item()
    assert_same_bits(net.forward(X), expected)
    assert parts.item() == posted
    pool._watch["alone_until"] = 0
    assert_same_bits(net.forward(X), expected)
    assert parts.item() > posted


def test_the_tests_keep_numbas_teams(pool_kernels):
    """Whatever was waited: support.py sees to it, as for C. Else calls would leave the threads alone for a second."""
    net, pool = fastmlp.MLP([784, 500, 500, 10], backend="numba", n_threads=2, rng=0), _kernels._pool
    X, parts = np.ones((200, 784), dtype=np.float32), pool._desks._words[1, :1]

    def take_part_after_a_wait():
        pool._watch["waited"] = 10**12  # nanoseconds
        net.forward(X)
        posted = parts.item()
        net.forward(X)
        return parts.item() > posted

    assert take_part_after_a_wait()
    try:
        pool.keep_teams(False)
        assert not take_part_after_a_wait()
    finally:
        pool.keep_teams(True)
        for name in ("waited", "alone", "alone_until"):
            pool._watch[name] = 0
    assert take_part_after_a_wait()


def test_threads_that_another_call_has_roused(pool_kernels):
    """Of two calls that end at the same time one rouses the threads, and the other finds nothing to do."""
    pool = _pool.Pool()
    pool.rouse(pool_kernels, time.perf_counter())
    for wanted in (0, 2, 0):
        pool.wanted[0] = wanted
        pool.rouse(pool_kernels, pool._ended)
        assert pool.wanted[0] == 0
    assert pool.run(pool_kernels, 2, Parts(lambda *_: None).address, 0, 0)


def test_every_part_of_a_team_is_done_once(pool_kernels):
    """Whether threads look for it, sleep or are about to; and by the time the call returns."""
    pool, done = _pool.Pool(), []
    pool.keep_teams(True)  # else they would be given up for their waits for the interpreter
    parts = Parts(lambda index, call: done.append((call, index)))
    for call in range(400):
        count = 2 + call % 3
        assert pool.run(pool_kernels, count, parts.address, 0, call)
        assert sorted(done) == [(call, index) for index in range(count)]
        done.clear()
        time.sleep(call % 5 * 4e-5)


def test_an_interrupt_leaves_no_part_undone(monkeypatch, pool_kernels):
    """It comes before threads are woken, or while the caller's part is done."""
    pool, done = _pool.Pool(), []
    pool.keep_teams(True)  # as above
    parts = Parts(lambda index, _: done.append(index))

    def interrupted(function):
        def run(*arguments):
            function(*arguments)
            raise KeyboardInterrupt

        return run

    for name in ("post", "lead"):
        kernels = pool_kernels | {name: interrupted(pool_kernels[name])}
        with pytest.raises(KeyboardInterrupt):
            pool.run(kernels, 3, parts.address, 0, 0)
        assert sorted(done) == [0, 1, 2]
        assert pool.run(pool_kernels, 3, parts.address, 0, 0)
        assert sorted(done) == [0, 0, 1, 1, 2, 2]
        done.clear()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not let threads choose processors")
def test_a_member_leaves_a_processor_that_another_has():
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one processor")
    first, found = min(allowed), []

    def member():
        os.sched_setaffinity(0, {first})  # of this thread alone
        places = Places(2)
        places._caller = main
        places._processors[0] = first
        places.take(1)
        found.extend([os.sched_getaffinity(0), places._processors])

    main = threading.get_native_id()
    thread = threading.Thread(target=member)
    thread.start()
    thread.join()
    assert found[0] == allowed - {first}
    assert found[1][0] == first and found[1][1] in found[0]
    assert os.sched_getaffinity(0) == allowed


PINNED_WORKER = """
import ctypes, os
import numpy as np
import fastmlp
from fastmlp import _fastmlp_c

_fastmlp_c.lib.fastmlp_keep_teams(1)
net = fastmlp.MLP([200, 300, 10], rng=0, backend="c", n_threads=2)
X = np.ones((512, 200), dtype=np.float32)
before = set(os.listdir("/proc/self/task"))
net.forward(X)
(worker,) = map(int, set(os.listdir("/proc/self/task")) - before)
everywhere = os.sched_getaffinity(0)
for _ in range(100):  # the system may have moved the caller before the call
    here = ctypes.CDLL(None).sched_getcpu()
    os.sched_setaffinity(worker, {here})
    net.forward(X)
    if os.sched_getaffinity(worker) == everywhere - {here}:
        break
else:
    raise AssertionError("the worker stayed")
assert os.sched_getaffinity(0) == everywhere
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are found in /proc")
def test_a_worker_of_the_c_backend_leaves_its_callers_processor():
    require("c")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor")
    run_python(PINNED_WORKER)
