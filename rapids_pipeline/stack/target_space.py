"""The space of the targets that a model is fitted in: transformed, centred or not, leading components, and back.

    Y  →  z = T(Y) − μ  →  scores z V                back:  scores Vᵀ + μ = T(y)  →  y

    none         T(y) = y
    asinh        T(y) = asinh(y / u),   u = scale · root mean square of all training targets
    gene_scale   T(y) = y / u_g,        u_g² = mean_i y_ig², drawn half way (in logarithms) to the mean over genes

μ is the mean of T(Y) over the training rows (0 where it is not centred), V its leading right singular vectors (the
identity where there are no components). All of it is learnt from the training rows of a fit.

The way back from asinh is biased: a prediction stands for an expected z, and E[sinh z] ≠ sinh E[z]. With z spread by σ
about its expectation the result is smaller in size by about exp(−σ²/2) than the mean response: nearer to 0, the price
of an error in which large responses count less. `make bench-accuracy` measures it as the amplitude that held-out
responses would ask for.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rapids_pipeline.backend.arrays import Array, Float32, Float64, Floats, namespace, row_blocks, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

if TYPE_CHECKING:
    from features.reduction import Products, TruncatedSVD

TransformName = Literal["none", "asinh", "gene_scale"]
SCALES = (1e-3, 1e3)
"""From the smallest to the largest scale of asinh that settings take: below all is linear, above logarithmic."""
TRANSFORMS: tuple[TransformName, ...] = ("none", "asinh", "gene_scale")

LEAST_SQUARE = 1e-4
"""Least mean square of a gene, relative to the mean over genes, that gene_scale divides by."""
DRAWN = 0.5
"""Power of a gene's relative size in gene_scale: 0 would leave all genes as they are, 1 make them equal."""


class TargetSpace:
    """A space of t targets.

    Parameters
    ----------
    n_components : int or None
        Leading components that are kept, at most min(n, t); None leaves the targets as they are.
    transform : {"none", "asinh", "gene_scale"}
    scale : float
        Of asinh, in root mean squares of the training targets: far below it z is linear in y, far above logarithmic.
    centre : bool
        Whether the mean over the training rows is taken off.
    products : {"float64", "float32"}
        In which the products with the targets are computed (`features.reduction.TruncatedSVD`).

    Attributes
    ----------
    unit_ : ndarray of float64, (t,)
        What targets are divided by.
    mean_ : ndarray of float32, (t,), or None
        μ, where it is centred.
    svd_ : TruncatedSVD or None
        Of z, on the host.
    explained_share_ : float
        Share of the sum of squares of z that the components keep.

    Raises
    ------
    InputError
        There is no such transform (the message lists them), or `scale` is not above 0.
    """

    unit_: Float64
    mean_: Float32 | None
    svd_: "TruncatedSVD | None"

    def __init__(
        self,
        n_components: int | None = 45,
        transform: TransformName = "none",
        scale: float = 1.0,
        *,
        centre: bool = False,
        products: "Products" = "float64",
    ) -> None:
        if transform not in TRANSFORMS:
            raise InputError(f"no target transform {transform!r}; choose among {', '.join(TRANSFORMS)}")
        if not 0 < scale < np.inf:
            raise InputError(f"the scale of a target transform must be above 0, not {scale!r}")
        self.n_components, self.name, self.scale = n_components, transform, scale
        self.centre, self.products = centre, products

    @property
    def explained_share_(self) -> float:
        """Share of the sum of squares of z that the components keep."""
        return 1.0 if self.svd_ is None else self.svd_.explained_share_

    @property
    def singular_values(self) -> Float64:
        """Those of the components, float64, in descending order; none where there are no components."""
        values = [] if self.svd_ is None else self.svd_.singular_values_
        return np.asarray(values, dtype=np.float64)

    def learn(self, Y: Array) -> tuple[Array, Array]:
        """Learn from training targets (n, t), float32, an array of any library.

        Returns
        -------
        z : array, (n, t)
            In the library and dtype of Y.
        scores : array of float32, (n, k)
            Likewise; z itself where there are no components.
        """
        from features.reduction import TruncatedSVD

        xp = namespace(Y)
        self.unit_ = self._units(Y)
        z = self._transformed(Y)
        self.mean_ = None
        if self.centre:
            mean = xp.astype(xp.sum(z, axis=0, dtype=xp.float64) / Y.shape[0], z.dtype)
            z = _less(z, mean, xp.empty_like(Y) if z is Y else z)
            self.mean_ = to_host(mean).astype(np.float32)
        if self.n_components is None:
            self.svd_ = None
            return z, xp.astype(z, xp.float32)
        svd = TruncatedSVD(self.n_components, products=self.products).fit(z)
        scores = svd.transform(z)
        svd.components_, svd.singular_values_ = to_host(svd.components_), to_host(svd.singular_values_)
        self.svd_ = svd
        return z, scores

    def components_for(self, Y: Float32) -> Float32:
        """Learn from the training targets `Y` (n, t) and return their scores, (n, k) float32."""
        return np.asarray(self.learn(Y)[1])

    def centred(self, Y: Array) -> Array:
        """Return z of targets (n, t), in their library and dtype."""
        z = self._transformed(Y)
        if self.mean_ is None:
            return z
        xp = namespace(Y)
        mean = xp.asarray(self.mean_, dtype=z.dtype, device=Y.device)
        return _less(z, mean, xp.empty_like(Y) if z is Y else z)

    def transform(self, Y: Float32) -> Float32:
        """Return the scores of targets, (n, k) float32."""
        z = self.centred(Y)
        return np.asarray(z if self.svd_ is None else self.svd_.transform(z), dtype=np.float32)

    def inverse_transform(self, scores: Float32) -> Float32:
        """Return the targets (m, t) that scores (m, k) stand for, float32."""
        z = np.asarray(scores if self.svd_ is None else self.svd_.inverse_transform(np.asarray(scores)))
        return self.back(z)

    def back(self, z: Floats) -> Float32:
        """Return the targets that z (m, t) stand for, float32; on the host, in the dtype of z."""
        z = z if self.mean_ is None else z + self.mean_
        y = np.sinh(z) if self.name == "asinh" else z
        return np.asarray(y if self.name == "none" else y * self.unit_.astype(y.dtype), dtype=np.float32)

    def direction(self, gene: int, by_genes: bool = False) -> tuple[Float64, float]:
        """Return what scores (with `by_genes` z) are multiplied by to give a gene's z less μ, and the gene's μ."""
        mean = 0.0 if self.mean_ is None else float(self.mean_[gene])
        if self.svd_ is None or by_genes:
            return np.eye(1, len(self.unit_), gene)[0], mean
        return np.asarray(self.svd_.components_[:, gene], dtype=np.float64), mean

    def state(self) -> State:
        """Return what was learnt; the settings are saved apart."""
        mean = {} if self.mean_ is None else {"mean": self.mean_}
        svd = {} if self.svd_ is None else {"svd": self.svd_.state()}
        return {"unit": self.unit_, **mean, **svd}

    def settings(self) -> dict[str, Any]:
        """Return the settings, as the constructor takes them."""
        return {
            "n_components": self.n_components,
            "transform": self.name,
            "scale": self.scale,
            "centre": self.centre,
            "products": self.products,
        }

    @classmethod
    def from_state(cls, state: State) -> "TargetSpace":
        """Make a space of its `state` with `settings` beside it."""
        learnt = {name: value for name, value in state.items() if name != "settings"}
        return cls(**state["settings"]).restore(StateReader(learnt, "target space"))

    def restore(self, reader: StateReader) -> "TargetSpace":
        """Take over what `state` described; InputError where it is damaged or of other settings."""
        from features.reduction import TruncatedSVD

        wanted = {"unit", *(["mean"] if self.centre else []), *(["svd"] if self.n_components else [])}
        if set(reader.names()) - wanted:
            raise reader.fault(f"this space of targets has no {sorted(set(reader.names()) - wanted)[0]}")
        self.unit_ = reader.array("unit", np.float64, (None,))
        if not (self.unit_ > 0).all():
            raise reader.fault("a unit of the targets is not above 0")
        shape = (len(self.unit_),)
        self.mean_ = reader.array("mean", np.float32, shape) if self.centre else None
        self.svd_ = TruncatedSVD.from_state(reader.part("svd")) if self.n_components else None
        if self.svd_ is not None:
            if self.svd_.components_.shape[1] != len(self.unit_):
                raise reader.fault(f"the components are of {self.svd_.components_.shape[1]} targets")
            self.svd_.products = self.products
        return self

    def _units(self, Y: Array) -> Float64:
        unit = np.ones(Y.shape[1])
        if self.name == "none":
            return unit
        xp = namespace(Y)
        of_blocks = [xp.sum(Y[rows, :] ** 2, axis=0, dtype=xp.float64) for rows in row_blocks(Y.shape[0])]
        squares = to_host(sum(of_blocks[1:], of_blocks[0])) / Y.shape[0]
        mean = float(squares.mean())
        if mean == 0:
            return unit
        relative = np.maximum(squares / mean, LEAST_SQUARE) ** (DRAWN / 2)
        return np.asarray(unit * (self.scale * np.sqrt(mean)) if self.name == "asinh" else relative)

    def _transformed(self, Y: Array) -> Array:
        """Return T(Y), `Y` itself without a transform; nothing else is made that is as large."""
        if self.name == "none":
            return Y
        xp = namespace(Y)
        unit, z = xp.asarray(self.unit_, dtype=Y.dtype, device=Y.device), xp.empty_like(Y)
        for rows in row_blocks(Y.shape[0]):
            block = Y[rows, :] / unit
            z[rows, :] = xp.asinh(block) if self.name == "asinh" else block
        return z


def _less(z: Array, mean: Array, place: Array) -> Array:
    """Write z (n, t) less a mean (t,) to its `place`, which may be z, and return that."""
    for rows in row_blocks(z.shape[0]):
        place[rows, :] = z[rows, :] - mean[None, :]
    return place
