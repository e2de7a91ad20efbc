"""What `MultiTargetSVR` is given, checked: one array library, shapes that fit, and finite values or their place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

from rapids_pipeline.backend.arrays import Array, namespace, to_host
from rapids_pipeline.backend.errors import InputError


@dataclass(frozen=True)
class TrainingInput:
    """Features X (n, p) float64, targets Y (n, n_targets), and what the user's Y looked like."""

    X: Array
    Y: Array
    one_target: bool
    target_names: list[str] | None


def checked_training(estimator: Any, X: Any, Y: Any) -> TrainingInput:
    """Return training input; sets `n_features_in_` and, for data frames, `feature_names_in_`.

    Arrays of libraries other than numpy stay what they are. Everything else that scikit-learn takes (lists, data
    frames) becomes numpy.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite (with the row and column), no Y.
    TypeError
        Sparse matrices; X and Y of different array libraries.
    """
    if Y is None:
        raise InputError(f"{type(estimator).__name__} requires y to be passed, but the target y is None.")
    names, features = target_names_of(Y), _feature_names(X)
    if is_foreign(X) or is_foreign(Y):
        xp = namespace(X, Y)
        if X.ndim != 2 or Y.ndim not in (1, 2) or Y.shape[0] != X.shape[0] or not X.shape[0]:
            raise InputError(f"X must be (n, p) and Y (n, t) or (n,), not {tuple(X.shape)}, {tuple(Y.shape)}")
        X = xp.astype(X, xp.float64)
        Y = Y if xp.isdtype(Y.dtype, "real floating") else xp.astype(Y, xp.float64)
        estimator.n_features_in_ = X.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    else:
        X = validate_data(estimator, X, dtype=np.float64, ensure_all_finite=False)
        kinds = (np.float64, np.float32)
        Y = check_array(Y, dtype=kinds, ensure_2d=False, ensure_all_finite=False, input_name="Y")
        if Y.ndim > 2:
            raise InputError(f"Y must be (n, t) or (n,), not {Y.shape}")
        check_consistent_length(X, Y)
    require_finite("X", X, features)
    require_finite("Y", Y, names)
    return TrainingInput(X, Y[:, None] if Y.ndim == 1 else Y, Y.ndim == 1, names)


def checked_features(estimator: Any, X: Any, like: Array) -> Array:
    """Return features to predict from, float64, in the library of the fit (`like` is an array of it)."""
    if is_foreign(X) or is_foreign(like):
        try:
            xp = namespace(X, like)
        except TypeError as error:
            raise TypeError(
                f"the fit was on {type(like).__module__} arrays and X is a {type(X).__module__}.{type(X).__name__}: "
                "convert one of them"
            ) from error
        if X.ndim != 2 or X.shape[1] != estimator.n_features_in_:
            raise InputError(f"X must be (n, {estimator.n_features_in_}), not {tuple(X.shape)}")
        X = xp.astype(X, xp.float64)
    else:
        plain = check_array(X, dtype=np.float64, ensure_all_finite=False, estimator=estimator)
        require_finite("X", plain, _feature_names(X))  # before the width: a NaN is the likelier mistake
        return validate_data(estimator, X, reset=False, dtype=np.float64)
    require_finite("X", X)
    return X


def is_foreign(x: Any) -> bool:
    """Say whether `x` is an array of a library that is not numpy."""
    from array_api_compat import is_array_api_obj

    return is_array_api_obj(x) and not isinstance(x, np.ndarray)


def target_names_of(Y: Any) -> list[str] | None:
    """Return the names of a data frame's columns or of a series, None where Y has none."""
    if hasattr(Y, "columns"):
        return [str(name) for name in Y.columns]
    name = getattr(Y, "name", None)
    return None if name is None or is_foreign(Y) else [str(name)]


def _feature_names(X: Any) -> list[str] | None:
    return [str(name) for name in X.columns] if hasattr(X, "columns") else None


def require_finite(what: str, values: Array, names: Sequence[str] | None = None) -> None:
    """Raise InputError that names the first place where `values` (1-D or 2-D) is NaN or inf."""
    xp = namespace(values)
    if bool(xp.all(xp.isfinite(values))):
        return
    host = to_host(values)
    place = np.argwhere(~np.isfinite(host))[0]
    value = "NaN" if np.isnan(host[tuple(place)]) else "inf"
    column = int(place[1]) if len(place) > 1 else 0
    column_name = repr(names[column]) if names else str(column)
    where = f"row {place[0]}, column {column_name}" if len(place) > 1 or names else f"row {place[0]}"
    raise InputError(f"{what} contains {value} at {where}")
