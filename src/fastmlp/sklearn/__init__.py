"""Estimators with scikit-learn's interface and scikit-learn's results: `MLPClassifier` and `MLPRegressor`.

They stand on `fastmlp.MLP`, which is their ``net_``; docs/sklearn.md tells what is the same and what is new.
"""

try:
    import sklearn as _sklearn
except ImportError as error:
    raise ImportError('fastmlp.sklearn needs scikit-learn: pip install "fastmlp[sklearn]"') from error
if tuple(map(int, _sklearn.__version__.split(".")[:2])) < (1, 7):
    raise ImportError(
        f"fastmlp.sklearn needs scikit-learn 1.7 or later, and this is {_sklearn.__version__}: "
        'pip install "fastmlp[sklearn]"'
    )

from fastmlp.sklearn._classifier import MLPClassifier
from fastmlp.sklearn._conversion import from_sklearn, to_sklearn
from fastmlp.sklearn._regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn", "to_sklearn"]
