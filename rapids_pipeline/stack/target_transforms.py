"""Transforms of the targets, by name: what a model is fitted to, and the way back.

none         z = y
asinh        z = asinh(y / u),       y = u sinh(z);     u = scale · root mean square of all training targets
gene_scale   z = y / u_g,            y = z u_g;   u_g² = mean_i y_ig² over the training rows, drawn half way (in
                                     logarithms) to the mean over genes

The way back from asinh is biased: a prediction stands for an expected z, and E[sinh z] ≠ sinh E[z]. With z spread by σ
about its expectation the result is smaller in size by about exp(−σ²/2) than the mean response: nearer to 0, the price
of an error in which large responses count less. `benchmarks/accuracy.py` measures it as the amplitude that held-out
responses would ask for.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

TransformName = Literal["none", "asinh", "gene_scale"]
TRANSFORMS: tuple[TransformName, ...] = ("none", "asinh", "gene_scale")

LEAST_SQUARE = 1e-4
"""Least mean square of a gene, relative to the mean over genes, that gene_scale divides by."""

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

DRAWN = 0.5
"""Power of a gene's relative size in gene_scale: 0 would leave all genes as they are, 1 make them equal."""


class TargetTransform:
    """A transform of t targets.

    Parameters
    ----------
    name : {"none", "asinh", "gene_scale"}
    scale : float
        Of asinh, in root mean squares of the training targets: far below it z is linear in y, far above logarithmic.

    Attributes
    ----------
    unit_ : ndarray of float64, (t,)
        What targets are divided by.

    Raises
    ------
    InputError
        There is no such transform (the message lists them), or `scale` is not above 0.
    """

    unit_: Floats

    def __init__(self, name: TransformName = "none", scale: float = 1.0) -> None:
        if name not in TRANSFORMS:
            raise InputError(f"no target transform {name!r}; choose among {', '.join(TRANSFORMS)}")
        if not 0 < scale < np.inf:
            raise InputError(f"the scale of a target transform must be above 0, not {scale!r}")
        self.name, self.scale = name, scale

    def fit(self, Y: Array) -> "TargetTransform":
        """Learn from the training targets `Y` (n, t), an array of any library."""
        xp = namespace(Y)
        self.unit_ = np.ones(Y.shape[1])
        squares = to_host(xp.sum(Y * Y, axis=0, dtype=xp.float64)) / Y.shape[0]
        mean = float(squares.mean())
        if self.name == "asinh" and mean > 0:
            self.unit_ *= self.scale * np.sqrt(mean)
        elif self.name == "gene_scale" and mean > 0:
            self.unit_ = np.maximum(squares / mean, LEAST_SQUARE) ** (DRAWN / 2)
        return self

    def forward(self, Y: Array) -> Array:
        """Return z of targets (n, t), in their library and dtype."""
        xp = namespace(Y)
        z = Y / xp.asarray(self.unit_, dtype=Y.dtype, device=Y.device)
        return xp.asinh(z) if self.name == "asinh" else z

    def back(self, z: Floats | Matrix) -> Matrix:
        """Return the targets that z (m, t) stand for, float32; on the host."""
        y = np.sinh(z) if self.name == "asinh" else z
        return np.asarray(y * self.unit_.astype(z.dtype), dtype=np.float32)

    def state(self) -> State:
        """Return what was learnt; name and scale are saved apart."""
        return {"unit": self.unit_}

    def restore(self, reader: StateReader, n_targets: int) -> "TargetTransform":
        """Take over what `state` described; InputError where it is damaged."""
        self.unit_ = reader.array("unit", np.float64, (n_targets,))
        if not (self.unit_ > 0).all():
            raise reader.fault("a unit of the targets is not above 0")
        return self
