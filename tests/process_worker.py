"""Run by test_threads.py in a process of its own: children of every kind train after their parent's threads have."""

import multiprocessing

from support import make_examples, make_net

import fastmlp


def train(backend):
    """The bits of a fit whose steps are large enough for two threads."""
    fastmlp.set_num_threads(2)
    net, _ = make_net((200, 300, 250, 10), backend=backend)
    X, y = make_examples(net, 700)
    net.fit(X, y, epochs=1, batch_size=350)
    return net.parameters.tobytes() + net.forward(X).tobytes()


def in_children(method, backend):
    """The results of two children that work at the same time."""
    if method == "loky":
        from joblib import Parallel, delayed

        return Parallel(n_jobs=2, backend="loky")(delayed(train)(backend) for _ in range(2))
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(train, [backend] * 2)


def main(method, backend):
    expected = train(backend)
    assert in_children(method, backend) == [expected] * 2
    assert train(backend) == expected
    print("done")
