"""Histograms of a node, and the search for its best split in them; notation of `histogram.py`."""

from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.boosting.compilation import compiled
from rapids_pipeline.boosting.exact_search import TIE, Node, add_rows, score_of
from rapids_pipeline.boosting.histogram_vectors import COLUMNS, LANES, add_by_code, add_square_lengths
from rapids_pipeline.boosting.row_weights import LEAST_SHARE, weighs, weight_at

SLACK_SHARE = 1e-3
"""Splits whose float32 score is within this share of the best are judged in float64."""


class Search(NamedTuple):
    """What nodes are searched in; see `histogram.allocated`."""

    values: Any  # float32 (n, searched outputs, padded)
    codes: Any  # uint8 (p, n)
    n_codes: Any  # int64 (p)
    rows: Any  # int32 (n)
    spare: Any  # int32 (n)
    gathered: Any  # float32, flat: (chunks, n, 16)
    tile_codes: Any  # uint8, flat: (columns a block, tile rows)
    histogram: Any  # float32, flat: for every slot (columns, chunks, bins, 16), then one block of columns
    sums: Any  # float32 (bins)
    counts: Any  # float32 (bins)
    weights: Any  # float32 (bins)
    scores: Any  # float32 (p, bins)
    best: Any  # float32 (p)
    total: Any  # float64 (searched outputs, padded)
    mean: Any  # float32 (16 · chunks)
    start: Any  # float32 (16 · chunks)
    held: Any  # float64 (bins, searched outputs, padded)
    held_weight: Any  # float64 (bins)
    row_weight: Any  # float64 (n), or None


class Limits(NamedTuple):
    """What the search is told, and the sizes it works in."""

    reg_lambda: float
    min_leaf: int
    least_gain: float
    max_depth: int
    outputs: int
    chunks: int
    bins: int
    block: int
    tile: int
    small: int
    kept: int
    slots: int


@compiled
def prepare(s: Search, limits: Limits, node: Node) -> float:
    """Write T, the mean T/N and H_0 = −λT/N; return |T|²."""
    N, square = node.weight + 2.0 * limits.reg_lambda, 0.0
    add_rows(s.values, s.row_weight, s.rows[node.low : node.high], s.total)
    for k in range(limits.outputs):
        square += s.total[k] * s.total[k]
        s.mean[k] = np.float32(s.total[k] / N)
        s.start[k] = np.float32(-limits.reg_lambda * s.total[k] / N)
    return square


@compiled
def _gather(s: Search, limits: Limits, node: Node) -> None:
    """Copy the weighted values of the node's rows one after the other, 16 outputs at a time; the weights last."""
    n = s.rows.size
    for chunk in range(limits.chunks):
        first = chunk * LANES
        width = min(LANES, limits.outputs - first)
        for i in range(node.high - node.low):
            row = s.rows[node.low + i]
            at, value, weight = (
                (chunk * n + i) * LANES,
                s.values[row],
                np.float32(weight_at(s.row_weight, row)),
            )
            here = s.gathered[at : at + LANES]
            for k in range(width):
                here[k] = weight * value[first + k]
            if weighs(s.row_weight) and 0 <= limits.outputs + 1 - first < LANES:
                here[limits.outputs + 1 - first] = weight


@compiled
def _fill(s: Search, limits: Limits, node: Node, columns: Any, base: int) -> None:
    """Write the histograms of a block of columns from `base` on, tile of rows by tile of rows."""
    length, n = limits.bins * LANES, s.rows.size
    step = limits.chunks * length
    s.histogram[base : base + -(-columns.size // COLUMNS) * COLUMNS * step] = 0.0
    for first in range(node.low, node.high, limits.tile):
        rows = s.rows[first : min(first + limits.tile, node.high)]
        for f in range(columns.size):
            codes, here = s.codes[columns[f]], s.tile_codes[f * limits.tile : (f + 1) * limits.tile]
            for i in range(rows.size):
                here[i] = codes[rows[i]]
        for f in range(0, columns.size, COLUMNS):
            for chunk in range(limits.chunks):
                at, values_at = base + f * step + chunk * length, (chunk * n + first - node.low) * LANES
                codes_at = f * limits.tile
                add_by_code(
                    s.histogram,
                    at,
                    step,
                    s.tile_codes,
                    codes_at,
                    limits.tile,
                    s.gathered,
                    values_at,
                    rows.size,
                )


@compiled
def slot_size(limits: Limits, columns: int) -> int:
    """Return the floats that the histograms of so many columns take."""
    return -(-columns // COLUMNS) * COLUMNS * limits.chunks * limits.bins * LANES


@compiled
def fill_slot(s: Search, limits: Limits, node: Node, columns: Any, slot: int) -> None:
    """Write the histograms of all columns into a slot."""
    _gather(s, limits, node)
    for first in range(0, columns.size, limits.block):
        base = slot * slot_size(limits, columns.size) + slot_size(limits, first)
        _fill(s, limits, node, columns[first : first + limits.block], base)


@compiled
def _take_lane(s: Search, limits: Limits, base: int, lane: int, bins: int, into: Any) -> int:
    """Copy a lane of the histogram at `base` and write zeros there; return where it starts."""
    at = base + (lane // LANES) * limits.bins * LANES + lane % LANES
    for b in range(bins):
        into[b] = s.histogram[at + b * LANES]
        s.histogram[at + b * LANES] = 0.0
    return at


@compiled
def _score_column(s: Search, limits: Limits, node: Node, base: int, bins: int, scores: Any) -> Any:
    """Write the scores of the splits of the column whose histogram is at `base`, 0 for none; return the largest."""
    at, weights = _take_lane(s, limits, base, limits.outputs, bins, s.counts), s.counts
    if weighs(s.row_weight):  # this lane is not put back: histograms of weighted rows are not kept
        _take_lane(s, limits, base, limits.outputs + 1, bins, s.weights)
        weights = s.weights
    s.sums[:bins] = 0.0
    for chunk in range(limits.chunks):
        first = base + chunk * limits.bins * LANES
        add_square_lengths(s.histogram, first, s.start, s.mean, chunk * LANES, weights, s.sums, bins)
    for b in range(bins):
        s.histogram[at + b * LANES] = s.counts[b]
    if weighs(s.row_weight):
        return _scores_of_weights(s, limits, node, bins, scores)
    return _scores_of_counts(s, limits, node, bins, scores)


@compiled
def _scores_of_counts(s: Search, limits: Limits, node: Node, bins: int, scores: Any) -> Any:
    """Multiply every |H|² by N / ((n_L + λ)(n_R + λ)); return the largest score."""
    m, lam = node.high - node.low, limits.reg_lambda
    left, N, best = 0, m + 2.0 * lam, np.float32(0.0)
    for b in range(bins):
        left += int(s.counts[b])
        score = np.float32(0.0)
        if s.counts[b] > 0.0 and left >= limits.min_leaf and m - left >= limits.min_leaf:
            score = np.float32(s.sums[b] * (N / ((left + lam) * (m - left + lam))))
            best = max(best, score)
        scores[b] = score
    return best


@compiled
def _scores_of_weights(s: Search, limits: Limits, node: Node, bins: int, scores: Any) -> Any:
    """Multiply every |H|² by N / ((W_L + λ)(W_R + λ)), W_R added up from the right; return the largest score."""
    m, lam, right = node.high - node.low, limits.reg_lambda, 0.0
    for b in range(bins - 1, -1, -1):
        s.held_weight[b] = right
        right += s.weights[b]
    rows, left, N, best = 0, 0.0, node.weight + 2.0 * lam, np.float32(0.0)
    for b in range(bins):
        rows += int(s.counts[b])
        left += s.weights[b]
        score = np.float32(0.0)
        if s.counts[b] > 0.0 and rows >= limits.min_leaf and m - rows >= limits.min_leaf:
            score = np.float32(s.sums[b] * (N / ((left + lam) * (s.held_weight[b] + lam))))
            best = max(best, score)
        scores[b] = score
    return best


@compiled
def _score_columns(s: Search, limits: Limits, node: Node, columns: Any, slot: int) -> Any:
    """Write the float32 scores of all splits, from the histograms in a slot or, if −1, block by block."""
    top, step = np.float32(0.0), limits.chunks * limits.bins * LANES
    if slot < 0:
        _gather(s, limits, node)
    for first in range(0, columns.size, limits.block):
        block = columns[first : first + limits.block]
        base = limits.slots * slot_size(limits, columns.size)
        if slot < 0:
            _fill(s, limits, node, block, base)
        else:
            base = slot * slot_size(limits, columns.size) + first * step
        for f in range(block.size):
            scores = s.scores[first + f]
            s.best[first + f] = _score_column(s, limits, node, base + f * step, s.n_codes[block[f]], scores)
            top = max(top, s.best[first + f])
    return top


@compiled
def _judge(
    s: Search, limits: Limits, node: Node, column: int, scores: Any, floor: float, best: float
) -> tuple[float, int, int]:
    """Judge in float64 the splits whose float32 score reaches `floor`: (score, cut, rows left), 0 left for none."""
    lam, bins = limits.reg_lambda, s.n_codes[column]
    N, codes, least = node.weight + 2.0 * lam, s.codes[column], LEAST_SHARE * node.weight
    s.held[:bins] = 0.0
    s.counts[:bins] = 0.0
    s.held_weight[:bins] = 0.0
    for row in s.rows[node.low : node.high]:
        code, weight = codes[row], weight_at(s.row_weight, row)
        held, value = s.held[code], s.values[row]
        s.counts[code] += 1.0
        if weighs(s.row_weight):
            s.held_weight[code] += weight
        for k in range(held.size):
            held[k] += weight * value[k]
    left, weight_left, cut, found = 0, 0.0, 0, 0
    for b in range(bins):
        left += int(s.counts[b])
        weight_left += s.held_weight[b] if weighs(s.row_weight) else s.counts[b]
        if b > 0:
            s.held[b] += s.held[b - 1]
        if scores[b] > 0.0 and scores[b] >= floor:
            here, rest = weight_left + lam, node.weight - weight_left + lam
            score = score_of(s.total, s.held[b], here / N) * N / (here * rest)
            if score > best * TIE and weight_left > least and node.weight - weight_left > least:
                best, cut, found = score, b, left
    return best, cut, found


@compiled
def best_split(
    s: Search, limits: Limits, node: Node, columns: Any, slot: int, square: float
) -> tuple[int, int, int, float]:
    """Return (column, cut, rows left, score) of the best split of a node; no rows left where there is none."""
    feature, cut, left, best = -1, 0, 0, 0.0
    top = _score_columns(s, limits, node, columns, slot)
    if not top > 0.0:
        return feature, cut, left, best
    floor = top * (1.0 - SLACK_SHARE) - 1e-6 * square / (node.weight + limits.reg_lambda)
    for i in range(columns.size):
        if s.best[i] >= floor:
            score, at, here = _judge(s, limits, node, columns[i], s.scores[i], floor, best)
            if here > 0:
                feature, cut, left, best = columns[i], at, here, score
    return feature, cut, left, best
