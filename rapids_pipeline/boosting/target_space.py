"""The reduced space of the targets that boosting is trained in."""

import numpy as np
from numpy.typing import NDArray

from features.reduction import TruncatedSVD


class TargetSpace(TruncatedSVD):
    """TruncatedSVD of the targets: transform gives (n, n_components) scores, inverse_transform all genes.

    `explained_share_` is the share of the sum of squared training targets that the components keep.
    """

    def components_for(self, Y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fit on the training targets `Y` (n, n_targets) and return their scores (n, n_kept)."""
        return np.asarray(self.fit(Y).transform(Y))
