"""How long the nets of a recipe take on a CPU, by arithmetic, so that nobody starts days of work unasked.

    operations = 3 products of a layer (forward, and backward by inputs and by weights), as PyTorch counts them
                 × rows × epochs × nets × fits

Members of other kinds are not counted: they take minutes where these take hours.
"""

import time
from typing import Any

import numpy as np

from features.rows import Rows
from rapids_pipeline.backend.devices import DeviceName, processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.objective import MOST_SPLITS
from rapids_pipeline.stack.recipe import Recipe

LONG = 1.0
"""Hours from which a run must be asked for expressly."""
SHARE = 0.37
"""Of the speed of large products, what nets reach on a processor: `make bench-nets` printed 0.35 to 0.61."""
SIDE = 1024


def require_agreed(
    recipe: Recipe, train: Rows, n_test: int, n_targets: int, device: DeviceName, *, times: int = 1
) -> None:
    """Raise InputError where the nets of a recipe would take an hour or more on a CPU, with the hours.

    Parameters
    ----------
    recipe : Recipe
        With its encoders named.
    train : Rows
    n_test, n_targets : int
    device : str
    times : int
        How often the recipe is fitted.
    """
    if device != "cpu" or not any(isinstance(member, NetMember) for member in recipe.members):
        return
    times *= 1 if recipe.blend.objective == "mrrmse" else 1 + MOST_SPLITS
    done = operations(recipe, train, n_test, n_targets) * times
    hours = done / (SHARE * speed() * processor_count()) / 3600
    if hours >= LONG:
        short = recipe.name.removesuffix("_faithful")
        other = f"take {short}, which takes minutes, or" if short != recipe.name else "or"
        raise InputError(
            f"the nets of {recipe.name} need {done / 1e12:,.0f} TFLOP here, about {hours:,.0f} hours on this CPU; "
            f"{other} use a GPU, or add --yes to start all the same: finished fits are kept"
        )


def operations(recipe: Recipe, train: Rows, n_test: int, n_targets: int) -> float:
    """Return the floating-point operations of all fits of a recipe's nets."""
    n, folds = len(train.obs), recipe.n_folds
    read = {name for member in recipe.members for name in member.stacks_on}
    total = 0.0
    for form in recipe.forms:
        if isinstance(form.member, NetMember):
            pairs = folds * (folds - 1) // 2 if form.name in read and not form.labelled else folds
            rows = n + folds * n * (1 - 1 / folds) + pairs * n * (1 - 2 / folds)
            rows += form.labelled * n_test * (1 + folds + pairs)
            total += rows * of_a_row(form.member, train, n_targets)
    return total


def of_a_row(member: NetMember, train: Rows, n_targets: int) -> float:
    """Return the operations by which a row trains all nets of a member in all epochs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    k = n_targets if member.n_components == "none" else min(member.n_components, len(train.obs), n_targets)
    scores = np.random.default_rng(0).normal(size=(len(train.obs), k)).astype(np.float32)
    width = member.width(train, scores)
    counter: Any = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        if member.features is None:
            x = torch.zeros(1, 2, len(width), dtype=torch.int64)
        else:
            x = torch.zeros(1, 2, sum(width))
        member.updated(replicas=1).nets(width, k, "meta")(x).sum().backward()
    how = member.training
    # A fold of all rows is 1 of n of them; a compound in a few cell types is next to nothing.
    left_out = 1 if how.validation in ("rows", "clusters") else 0
    groups = how.validation_folds - left_out if member.every_fold else 1
    return float(counter.get_total_flops() / 2 * how.epochs * member.replicas * groups)


def speed() -> float:
    """Return the floating-point operations a second of large products on one processor, the best of three."""
    import torch

    from rapids_pipeline.nets.training import one_thread

    A = torch.ones(SIDE, SIDE)
    best = np.inf
    with one_thread():
        for _ in range(3):
            began = time.perf_counter()
            A @ A
            best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best
