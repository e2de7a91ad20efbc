"""Problems of many SVRs that share one Gram matrix, and their optimality by naive loops."""

import numpy as np
from sklearn.svm import SVR


def problem(targets=3, n=40, tests=12, gamma=0.1, seed=0):
    """Return K between random rows, some of them equal, K of test rows, and heavy-tailed targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + tests, 6))
    X[: n // 8] = X[n // 8 : 2 * (n // 8)]
    K = np.exp(-gamma * ((X[:, None] - X[None, :n]) ** 2).sum(-1))
    return K[:n], K[n:], rng.standard_t(4, size=(n, targets))


def predicted(solution, K):
    return K @ np.asarray(solution.dual_coef, np.float64) + np.asarray(solution.intercept)


def objective(K, Y, beta, epsilon):
    """The dual of each target, (t,)."""
    beta = np.asarray(beta, np.float64)
    return 0.5 * np.sum(beta * (K @ beta), axis=0) - np.sum(Y * beta, axis=0) + epsilon * np.abs(beta).sum(0)


def levels(K, y, beta, C, epsilon):
    """U and L of one target, one row after the other, from their formulas."""
    f, rows = np.asarray(y, np.float64) - K @ beta, range(len(y))
    up = [f[i] - (epsilon if beta[i] >= 0 else -epsilon) for i in rows if beta[i] < C[i]]
    down = [f[i] - (epsilon if beta[i] > 0 else -epsilon) for i in rows if beta[i] > -C[i]]
    return max(up), min(down)


def naive_gap(K, y, beta, C, epsilon):
    U, L = levels(K, y, beta, C, epsilon)
    return U - L


def naive_intercept(K, y, beta, C, epsilon):
    f = y - K @ beta
    free = [f[i] - epsilon * np.sign(beta[i]) for i in range(len(y)) if 0 < abs(beta[i]) < C[i]]
    return np.mean(free) if free else sum(levels(K, y, beta, C, epsilon)) / 2


def scikit_learn(K, K_test, y, C, epsilon, tol=1e-6, weight=None):
    """Predictions of libsvm, which keeps K in float32."""
    model = SVR(kernel="precomputed", C=C, epsilon=epsilon, tol=tol)
    return model.fit(K, y, sample_weight=weight).predict(K_test)
