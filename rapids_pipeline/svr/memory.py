"""The Gram matrix fits in memory, or the fit stops before anything is built.

Every engine here works on a dense Gram matrix, which grows with the square of the rows (20,000 rows: 3.2 GB in
float64, 1.6 GB in float32), and an iteration of any of them reads all of it for every target. Beyond what fits,
working in blocks would read the matrix from disk or compute it anew in each of hundreds of iterations, so the
decision is to stop at once and to say what would be needed and what fits.
"""

from math import isqrt

from rapids_pipeline.backend import memory
from rapids_pipeline.backend.arrays import Array
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.memory import gigabytes

TABLE_BYTES = 33
"""For each pair of rows of a `GramTable` while it is built: inner products, distances, a mask and the result (measured
at 3,000 rows: 32.3; a whole fit by douglas-rachford 50)."""

LEAST_WORK_BYTES = 20
"""What the most frugal engine (smo) takes for each entry of the training Gram matrix."""


def gram_bytes(n_rows: int, n_training: int, work_bytes: int) -> int:
    """Return the bytes of a table over `n_rows` rows and of an engine's work on `n_training` of them.

    `work_bytes` is the engine's, for each entry of the training Gram matrix
    (`rapids_pipeline.svr.engines.Engine.work_bytes`); the table keeps 8 bytes while the engine works.
    """
    return max(TABLE_BYTES * n_rows**2, 8 * n_rows**2 + work_bytes * n_training**2)


def require_room(like: Array, n_rows: int, n_training: int, work_bytes: int) -> None:
    """Stop where the Gram matrix and the work on it do not fit in what is free where `like` lives.

    Raises
    ------
    InputError
        With the size needed, the size available, and what to do.
    """
    needed, free = gram_bytes(n_rows, n_training, work_bytes), memory.available_bytes(like)
    if needed <= free:
        return
    fits = isqrt(int(free / max(TABLE_BYTES, 8 + work_bytes)))
    raise InputError(
        f"an SVR on {n_training:,} training rows ({n_rows:,} rows in all) needs {gigabytes(needed)} of memory for "
        f"its Gram matrix, and {gigabytes(free)} are available, enough for about {fits:,} rows: train on fewer "
        "rows, use engine='smo' (which needs the least), or approximate the kernel "
        "(sklearn.kernel_approximation.Nystroem with sklearn.svm.LinearSVR)"
    )
