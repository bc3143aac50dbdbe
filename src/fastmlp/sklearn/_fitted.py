"""What a fitted estimator is: the network behind coefs_ and intercepts_, what it computes, and pickling."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from fastmlp._checks import is_sparse
from fastmlp._mlp import MLP
from fastmlp._row_blocks import row_blocks
from fastmlp.sklearn._inputs import checked_inputs
from fastmlp.sklearn._objective import Objective


class Fitted(BaseEstimator, ABC):
    """An estimator around a network, ``net_``, whose parameters users see and set as scikit-learn shows them."""

    @abstractmethod
    def _new_net(
        self, layer_sizes: tuple[int, ...], objective: Objective, dtype: np.dtype, weight: float, seed: int
    ) -> MLP:
        """A network of zeros with the estimator's settings; ``weight`` is the sum of the weights of all examples."""

    def _adopt(self, coefs: Sequence[Any], intercepts: Sequence[Any], objective: Objective) -> None:
        """Become an estimator with these parameters, as if fitted."""
        coefs = [np.asarray(W) for W in coefs]
        sizes = (*(len(W) for W in coefs), len(np.asarray(intercepts[-1])))
        dtype = np.result_type(np.float32, *coefs)
        self.n_features_in_, self.n_outputs_ = sizes[0], sizes[-1]
        net = self._new_net(sizes, objective, dtype, 1.0, 0)
        net.set_weights([W.T for W in coefs], intercepts)
        self._show(net)

    def _show(self, net: MLP) -> None:
        """Make ``net`` this estimator's, its parameters seen through coefs_ and intercepts_."""
        matrices = net._layout.matrices(net._parameters)
        self.net_ = net
        self.coefs_ = [matrix[:-1] for matrix in matrices]
        self.intercepts_ = [matrix[-1] for matrix in matrices]
        self._shown = (*self.coefs_, *self.intercepts_)

    def _network(self) -> MLP:
        """net_, with what stands in coefs_ and intercepts_ now: users may put arrays of their own there."""
        try:
            arrays = (*self.coefs_, *self.intercepts_)
        except AttributeError:
            check_is_fitted(self)
            raise
        if len(arrays) != len(self._shown) or not all(map(is_, arrays, self._shown)):
            sizes = (self.coefs_[0].shape[0], *(len(bias) for bias in self.intercepts_))
            if sizes != self.net_.layer_sizes:
                objective = Objective(self.net_.loss_name, self.net_.output_activation, sizes[-1])
                self.net_ = self._new_net(sizes, objective, self.net_.dtype, 1.0, 0)
            self.net_.set_weights([np.asarray(W).T for W in self.coefs_], self.intercepts_)
        return self.net_

    def _outputs(self, X: Any) -> np.ndarray:
        """The network's outputs (n, n_outputs_) for X, which is checked here."""
        net = self._network()
        X = checked_inputs(self, X)
        outputs = net.forward(X)
        dtype = np.result_type(X.dtype, net.dtype)
        return outputs if outputs.dtype is dtype else outputs.astype(dtype, copy=False)

    def activations_of(self, X: Any) -> tuple[np.ndarray, ...]:
        """Every layer's output for X: the hidden ones, (n, units) each, and last the network's own, (n, n_outputs_).

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_features)
        """
        net = self._network()
        X = checked_inputs(self, X)
        if not is_sparse(X):
            return net.activations_of(X)
        parts = [net.activations_of(block) for _, block in row_blocks(X, self.n_features_in_, net.dtype)]
        return tuple(map(np.concatenate, zip(*parts)))

    def input_gradient(self, X: Any, output: int | None = None) -> np.ndarray:
        """The derivative of the network's outputs with respect to each feature, at each example.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_features)
        output : int, optional
            Which output, from 0: a column of ``predict_proba`` (of two classes, 0 is the second, the only one), or a
            predicted number. By default all.

        Returns
        -------
        array of shape (n, n_features), or (n, n_outputs_, n_features) where ``output`` is None and there are several
        """
        net = self._network()
        X = checked_inputs(self, X)
        n_outputs = net.layer_sizes[-1]
        if output is not None and output not in range(n_outputs):
            raise ValueError(f"output is {output!r}; expected an int from 0 to {n_outputs - 1}")
        gradients = []
        for k in range(n_outputs) if output is None else [output]:
            dY = np.zeros((X.shape[0], n_outputs))
            dY[:, k] = 1.0
            gradient = net.backward(X, dY, input_gradient=True).input
            assert gradient is not None
            gradients.append(gradient)
        return gradients[0] if len(gradients) == 1 else np.stack(gradients, axis=1)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        shown = state.pop("_shown", None)
        if shown is not None:
            self._network()
            # They are the network's own parameters, which it keeps.
            del state["coefs_"], state["intercepts_"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "net_"):
            self._show(self.net_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
