"""Run by sanitize.sh under valgrind: every kernel of the C backend once, on nets whose shapes no vector divides.

It imports no more than the package, which takes valgrind long enough.
"""

import numpy as np

import fastmlp

SIZES = ((1, 1), (3, 17, 2), (33, 50, 7, 5))
OUTPUTS = {"identity": "huber", "sigmoid": "bce", "exp": "poisson", "softmax": "cross_entropy", "silu": "mae"}
ACTIVATIONS = ("relu", "leaky_relu", "elu", "softplus", "sigmoid", "tanh", "gelu", "silu", "identity")


def main():
    random = np.random.default_rng(0)
    turn = 0
    for dtype in ("float32", "float64"):
        optimizers = [fastmlp.SGD(), fastmlp.SGD(momentum=0.9, clip_norm=1.0), fastmlp.Adam(), fastmlp.RMSprop()]
        for sizes in SIZES:
            for output, loss in OUTPUTS.items():
                turn += 1
                net = fastmlp.MLP(
                    sizes,
                    activation=[ACTIVATIONS[(turn + i) % 9] for i in range(len(sizes) - 2)],
                    output_activation=output,
                    loss=loss,
                    l2=0.01,
                    dropout=0.2 * (turn % 2),
                    dtype=dtype,
                    rng=0,
                    backend="c",
                )
                n = (1, 7, 30, 521)[turn % 4]
                X = random.normal(size=(n, sizes[0])).astype(dtype)[:, ::-1]
                y = random.random((n, sizes[-1]))
                optimizer = optimizers[turn % 4]
                optimizer.reset()
                optimizer.step(net, X, y)
                net.fit(X, y, optimizer=optimizer, epochs=2, batch_size=19, on_nonfinite="ignore")
                gradients = net.backward(X, np.ones((n, sizes[-1]), dtype), input_gradient=True)
                everything = [*net.activations_of(X), net.forward(X[0]), net.logits(X), gradients.flat, gradients.input]
                assert all(np.isfinite(array).all() for array in everything), net
    print(f"{turn} nets, every call")


if __name__ == "__main__":
    main()
