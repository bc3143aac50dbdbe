"""What is looked at after each epoch of a fit with data held out: a score, the loss, and the best parameters."""

import math
import warnings
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring

from fastmlp._backends._engine import Examples
from fastmlp._mlp import MLP
from fastmlp.sklearn._objective import Objective


class Validation:
    """Held-out examples, and the estimator they judge.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    net : MLP
    objective : Objective
    held_out : Examples
        X may be sparse, in CSR form.
    """

    def __init__(self, estimator: Any, net: MLP, objective: Objective, held_out: Examples) -> None:
        self._estimator = estimator
        self._net = net
        self._objective = objective
        self._X, self._y, self._weight = held_out
        self._mean_constant = 0.0
        constants = objective.constants(self._y)
        if constants is not None:
            self._mean_constant = float(np.average(constants, weights=self._weight))
        self._scorer = None
        if estimator.scoring not in (None, "loss"):
            self._scorer = check_scoring(estimator, estimator.scoring)
            self._labels = estimator._labels_of(self._y)

    def after_epoch(self) -> float:
        """Note score and loss in the estimator, whose parameters are kept where they are the best; returns the loss."""
        estimator = self._estimator
        loss = self._loss()
        estimator.validation_loss_curve_.append(loss)
        if estimator.early_stopping:
            estimator.validation_scores_.append(self._score(loss))
            if estimator.verbose:
                print(f"Validation score: {estimator.validation_scores_[-1]:f}")
        return loss

    def improved(self) -> bool:
        """Whether the last score is better than the best before by tol; NaN is no worse, as in scikit-learn."""
        estimator = self._estimator
        score, best = estimator.validation_scores_[-1], estimator.best_validation_score_
        if score > best:
            estimator.best_validation_score_ = score
            estimator._best_parameters = self._net._parameters.copy()
        return not score < best + estimator.tol

    def _loss(self) -> float:
        """The objective's data term, as it is reported."""
        weight = self._weight
        total = float(len(self._y)) if weight is None else float(weight.sum())
        if total == 0.0:
            return math.nan
        scaled = None if weight is None else weight * (len(weight) / total)
        mean = self._net.loss(self._X, self._y, scaled) - self._net.penalty()
        return mean / self._objective.factor * self._objective.reported_share + self._mean_constant

    def _score(self, loss: float) -> float:
        estimator = self._estimator
        if estimator.scoring == "loss":
            return -loss
        if self._scorer is None:
            return float(estimator._score_of(self._net.forward(self._X), self._y, self._weight))
        settings = {} if self._weight is None else {"sample_weight": self._weight}
        with warnings.catch_warnings():
            # The checked X has no names of features any more.
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            return float(self._scorer(estimator, self._X, self._labels, **settings))
