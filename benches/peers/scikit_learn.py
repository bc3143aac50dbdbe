"""scikit-learn's MLPClassifier: partial_fit goes once over what it is given, in batches."""

import numpy as np
from sklearn.neural_network import MLPClassifier

from fastmlp._bench._contenders import Way
from fastmlp._bench._workload import Array, Workload


class GivenOrder(np.random.RandomState):
    """Shuffles as the generator says that gives the other libraries their order."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(0)
        self.rng = rng

    def shuffle(self, x: Array) -> None:
        x[...] = x[self.rng.permutation(len(x))]


class ScikitLearn:
    def __init__(self, workload: Workload, learning_rate: float) -> None:
        n_classes = max(2, workload.layer_sizes[-1])
        self.net = MLPClassifier(
            workload.layer_sizes[1:-1],
            activation={"sigmoid": "logistic"}.get(workload.activation, workload.activation),
            solver="sgd",
            learning_rate_init=learning_rate,
            momentum=0.0,
            nesterovs_momentum=False,
            alpha=0.0,
            batch_size=workload.n,
            shuffle=False,
        )
        X, y = workload.examples()
        self.net.partial_fit(X, y.ravel().astype(int), classes=np.arange(n_classes))
        for W, b, (W_start, b_start) in zip(self.net.coefs_, self.net.intercepts_, workload.parameters()):
            W[...], b[...] = W_start.T, b_start

    def logits(self, X: Array) -> Way:
        self.net.out_activation_ = "identity"
        inputs = X.reshape(-1, X.shape[-1])
        # Below its public methods, whose checks of the input take longer than a small net.
        return lambda: self.net._forward_pass_fast(inputs, check_input=False)

    def step(self, X: Array, y: Array) -> Way:
        classes = y.ravel().astype(int)
        return lambda: self.net.partial_fit(X, classes)

    def epoch(self, X: Array, y: Array, rng: np.random.Generator) -> Way:
        self.net.set_params(shuffle=True, random_state=GivenOrder(rng))
        return self.step(X, y)

    def parameters(self) -> list[tuple[Array, Array]]:
        return [(W.T, b) for W, b in zip(self.net.coefs_, self.net.intercepts_)]
