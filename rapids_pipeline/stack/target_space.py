"""The space of the targets that boosting is trained in: reduced, or as it is; chosen by name.

svd         scores Y V, the leading right singular vectors of Y (not centred)
none        scores Y
pca_asinh   scores (z − mean z) V with z = asinh(Y / 2): large responses count less
"""

from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from features.reduction import TruncatedSVD
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

Matrix = NDArray[np.float32]
TargetSpaceName = Literal["svd", "none", "pca_asinh"]

ASINH_SCALE = 2.0
"""Unit of the targets in pca_asinh."""


class AnyTargetSpace(Protocol):
    """A space of targets, fitted on training targets (n, t)."""

    explained_share_: float

    def components_for(self, Y: Matrix) -> Matrix:
        """Fit on the training targets `Y` (n, t) and return their scores (n, k)."""

    def transform(self, Y: Matrix) -> Any:
        """Return the scores of other targets."""

    def inverse_transform(self, scores: Matrix) -> Any:
        """Return the targets (m, t) that scores (m, k) stand for."""

    def state(self) -> State:
        """Return what it has learnt."""


class TargetSpace(TruncatedSVD):
    """TruncatedSVD of the targets: transform gives (n, n_components) scores, inverse_transform all genes.

    `explained_share_` is the share of the sum of squared training targets that the components keep.
    """

    def components_for(self, Y: Matrix) -> Matrix:
        """Fit on the training targets `Y` (n, n_targets) and return their scores (n, n_kept)."""
        return np.asarray(self.fit(Y).transform(Y))


class WholeTargets:
    """The targets as they are: scores Y. For few of them."""

    explained_share_ = 1.0

    def components_for(self, Y: Matrix) -> Matrix:
        """Return the targets, float32."""
        return self.transform(Y)

    def transform(self, Y: Matrix) -> Matrix:
        """Return the targets, float32."""
        return np.asarray(Y, dtype=np.float32)

    def inverse_transform(self, scores: Matrix) -> Matrix:
        """Return the scores, float32."""
        return np.asarray(scores, dtype=np.float32)

    def state(self) -> State:
        """Return nothing: there is nothing to learn."""
        return {}

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make it; InputError where the state holds anything."""
        if reader.names():
            raise reader.fault(f"a space of targets as they are has no {reader.names()[0]}")
        return cls()


class AsinhTargets(BaseEstimator):
    """Principal components of z = asinh(Y / scale): scores (z − mean z) V; back: scale · sinh(scores Vᵀ + mean z).

    The way back is biased: a model's scores stand for an expected z, and E[sinh z] ≠ sinh E[z]. With z spread by σ
    about its expectation, sinh E[z] is smaller in size by about exp(−σ²/2), so predictions are nearer to 0 than the
    mean response: the price of an error in which large responses count less.

    Parameters
    ----------
    n_components : int
        At most min(n, t) are kept.
    scale : float
        Unit of the targets; far below it z is linear in y, far above it logarithmic.

    Attributes
    ----------
    mean_ : ndarray of float32, (t,)
        Of z over the training rows.
    svd_ : TruncatedSVD
        Of the centred z.
    explained_share_ : float
        Share of the variance of z, not of Y, that the components keep.
    """

    mean_: Matrix
    svd_: TruncatedSVD
    explained_share_: float

    def __init__(self, n_components: int = 45, scale: float = ASINH_SCALE) -> None:
        self.n_components = n_components
        self.scale = scale

    def fit(self, Y: Matrix) -> Self:
        """Learn the means and the components of the training targets `Y` (n, t).

        Raises
        ------
        InputError
            `scale` is not above 0.
        """
        if not 0 < self.scale < np.inf:
            raise InputError(f"the scale of pca_asinh must be above 0, not {self.scale!r}")
        z = self._stretched(Y)
        self.mean_ = z.mean(axis=0).astype(np.float32)
        self.svd_ = TruncatedSVD(self.n_components).fit(z - self.mean_)
        self.explained_share_ = self.svd_.explained_share_
        return self

    def components_for(self, Y: Matrix) -> Matrix:
        """Fit on the training targets `Y` (n, t) and return their scores (n, n_kept)."""
        return self.fit(Y).transform(Y)

    def transform(self, Y: Matrix) -> Matrix:
        """Return the scores of targets (n, t)."""
        check_is_fitted(self)
        return np.asarray(self.svd_.transform(self._stretched(Y) - self.mean_))

    def inverse_transform(self, scores: Matrix) -> Matrix:
        """Return the targets that scores stand for, float32."""
        check_is_fitted(self)
        z = np.asarray(self.svd_.inverse_transform(np.asarray(scores)), dtype=np.float64) + self.mean_
        return np.asarray(self.scale * np.sinh(z), dtype=np.float32)

    def state(self) -> State:
        """Return the scale, the means and the components."""
        check_is_fitted(self)
        return {"scale": float(self.scale), "mean": self.mean_, "svd": self.svd_.state()}

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make it of its state; InputError where that is damaged."""
        svd, scale = TruncatedSVD.from_state(reader.part("svd")), reader.number("scale")
        if not scale > 0:
            raise reader.fault(f"scale {scale} is not above 0")
        made = cls(svd.n_components, scale)
        made.mean_ = reader.array("mean", np.float32, (svd.components_.shape[1],))
        made.svd_, made.explained_share_ = svd, svd.explained_share_
        return made

    def _stretched(self, Y: Matrix) -> NDArray[np.float64]:
        return np.asarray(np.arcsinh(np.asarray(Y, dtype=np.float64) / self.scale))


TARGET_SPACES: dict[str, Any] = {"svd": TargetSpace, "none": WholeTargets, "pca_asinh": AsinhTargets}


def target_space(name: str, n_components: int) -> Any:
    """Return the target space of a name, not fitted.

    Raises
    ------
    InputError
        There is no such space; the message lists them.
    """
    if name not in TARGET_SPACES:
        raise InputError(f"no target space {name!r}; choose among {', '.join(TARGET_SPACES)}")
    return WholeTargets() if name == "none" else TARGET_SPACES[name](n_components)
