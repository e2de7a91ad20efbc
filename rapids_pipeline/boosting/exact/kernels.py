"""What the loops of the exact engine are made of: how they are compiled, weights of rows, the scan of one column.

Loops are compiled for `row_weight = None` and, at the first fit with weights, once more for an array. Without weights
the compiler drops all that has to do with them, and the loops are those of plain counts.

Numba keeps vector accumulators in memory unless they are written as such, so the scan is written as LLVM vectors. A
block of 16 rows is 16 steps

    H += h[row of step j],   v_j = H ∘ H  summed over the K vectors of H        H in K registers of 16 float32

and then one transposed sum of v_0 … v_15 gives the 16 numbers |H|² as one vector, so that all that follows (weights,
comparison of codes, maximum) is vector code, too.
"""

# ruff: noqa: ARG001 (numba gives an intrinsic arguments of which only the types matter here)

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from rapids_pipeline.boosting.trees import COMPILED

LANES = 16
ROW_BITS = 24
"""An entry of a column's order is the row in the low 24 bits and its code in the high 8."""
MOST_VECTORS = 4


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba; it becomes part of the functions that are cached on disk."""
    return njit(**COMPILED)(function)  # type: ignore[no-any-return]


def compiled_reductions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, sums in the order that suits vectors."""
    return njit(**COMPILED | {"fastmath": COMPILED["fastmath"] | {"reassoc"}})(function)  # type: ignore[no-any-return]


def checksum() -> int:
    """Return a checksum of all that the engine is compiled from (0 where the sources are not there)."""
    folder = Path(__file__).parent
    sources = [folder / "kernels.py", folder / "search.py", folder / "engine.py", folder.parent / "trees.py"]
    try:
        return zlib.crc32(b"".join(source.read_bytes() for source in sources))
    except OSError:
        return 0


@compiled
def weighs(row_weight: Any) -> bool:
    """Say whether there are weights; known when the loops are compiled."""
    return row_weight is not None


@compiled
def weight_at(row_weight: Any, row: Any) -> Any:
    """Return a row's weight, 1.0 without weights."""
    if row_weight is None:
        return 1.0
    return row_weight[row]


@compiled
def weight_of(row_weight: Any, rows: Any) -> float:
    """Return the weight of some rows: how many they are without weights."""
    if row_weight is None:
        return float(rows.size)
    total = 0.0
    for row in rows:
        total += row_weight[row]
    return total


# --- the scan of one column -------------------------------------------------------------------------------------------

_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
_ZERO = ir.Constant(_FLOATS, [0.0] * LANES)
# Which lanes of two vectors a round of the transposed sum adds, for steps, pairs, fours and eights of them.
_ROUNDS = (
    (
        [q + k for q in (0, 4, 8, 12) for k in (0, 16, 1, 17)],
        [q + k for q in (0, 4, 8, 12) for k in (2, 18, 3, 19)],
    ),
    (
        [q + k for q in (0, 4, 8, 12) for k in (0, 1, 16, 17)],
        [q + k for q in (0, 4, 8, 12) for k in (2, 3, 18, 19)],
    ),
    ([q + k for q in (0, 8, 16, 24) for k in range(4)], [q + k for q in (4, 12, 20, 28) for k in range(4)]),
    ([q + k for q in (0, 8, 16, 24) for k in range(4)], [q + k for q in (4, 12, 20, 28) for k in range(4)]),
)


def vectors_and_passes(outputs: int) -> tuple[int, int]:
    """Return how many vectors of 16 floats a pass over the outputs takes (at most 4), and how many passes."""
    needed = -(-outputs // LANES)
    passes = -(-needed // MOST_VECTORS)
    return -(-needed // passes), passes


class _Writer:
    """Writes the vector instructions of a scan into a function under construction."""

    def __init__(self, builder: Any, vectors: int) -> None:
        self.builder, self.vectors = builder, vectors

    def load(self, base: Any, position: Any, kind: Any, align: int) -> Any:
        place = self.builder.bitcast(self.builder.gep(base, [position]), kind.as_pointer())
        return self.builder.load(place, align=align)

    def store(self, value: Any, base: Any, position: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(base, [position]), value.type.as_pointer())
        self.builder.store(value, place, align=4)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=("contract", "nsz"))

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract", "nsz"))

    def added(self, a: Any, b: Any, level: int) -> Any:
        """Add the lanes of a and b that round `level` of the transposed sum pairs."""
        low, high = (self.builder.shuffle_vector(a, b, ir.Constant(_INTS, lanes)) for lanes in _ROUNDS[level])
        return self.add(low, high)

    def steps(self, count: int, h: Any, order: Any, position: Any, held: list[Any]) -> tuple[Any, list[Any]]:
        """Write `count` (8 or 16) steps; return the vector of |H|² after each of them, and H."""
        builder = self.builder
        waiting: list[list[Any]] = [[] for _ in range(5)]
        stride = ir.Constant(_LONG, self.vectors * LANES)
        for step in range(count):
            entry = builder.load(builder.gep(order, [builder.add(position, ir.Constant(_LONG, step))]))
            row = builder.zext(builder.and_(entry, ir.Constant(_INT, (1 << ROW_BITS) - 1)), _LONG)
            start = builder.mul(row, stride)
            squares = None
            for k in range(self.vectors):
                there = builder.add(start, ir.Constant(_LONG, k * LANES))
                held[k] = self.add(held[k], self.load(h, there, _FLOATS, 64))
                square = self.mul(held[k], held[k])
                squares = square if squares is None else self.add(squares, square)
            waiting[0].append(squares)
            for level in range(4):
                if len(waiting[level]) == 2:
                    waiting[level + 1].append(self.added(waiting[level][0], waiting[level][1], level))
                    waiting[level] = []
        return (waiting[4][0] if count == LANES else self.added(waiting[3][0], _ZERO, 3)), held

    def judged(self, sums: Any, given: dict[str, Any], position: Any, best: Any) -> Any:
        """Add what other outputs gave, keep the sum, and return the larger of `best` and sum · weight."""
        builder = self.builder
        sums = self.add(sums, self.load(given["before"], position, _FLOATS, 4))
        self.store(sums, given["sums"], position)
        here = self.load(given["order"], position, _INTS, 4)
        following = self.load(given["order"], builder.add(position, ir.Constant(_LONG, 1)), _INTS, 4)
        last_code_bit = ir.Constant(_INTS, [1 << ROW_BITS] * LANES)
        changes = builder.icmp_unsigned(">=", builder.xor(here, following), last_code_bit)
        score = self.mul(sums, self.load(given["weight"], position, _FLOATS, 4))
        better = builder.and_(changes, builder.fcmp_ordered(">", score, best))
        return builder.select(better, score, best)

    def loop(
        self, length: Any, held: list[Any], best: Any, body: Callable[..., tuple[list[Any], Any]]
    ) -> Any:
        """Run `body` in blocks of 16 steps while more than 8 are left, then once with 8 if any are; return best."""
        builder = self.builder
        test, blocks, rest, tail, end = (
            builder.append_basic_block(name) for name in ("test", "block", "rest", "tail", "end")
        )
        before = builder.basic_block
        builder.branch(test)
        builder.position_at_end(test)
        position = builder.phi(_LONG)
        carried = [builder.phi(_FLOATS) for _ in held]
        top = builder.phi(_FLOATS)
        left = builder.sub(length, position)
        builder.cbranch(builder.icmp_signed(">", left, ir.Constant(_LONG, 8)), blocks, rest)
        builder.position_at_end(blocks)
        new, new_top = body(LANES, position, list(carried), top)
        following = builder.add(position, ir.Constant(_LONG, LANES))
        for phi, first, value in zip(
            [position, *carried, top],
            [ir.Constant(_LONG, 0), *held, best],
            [following, *new, new_top],
            strict=True,
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(value, builder.basic_block)
        builder.branch(test)
        builder.position_at_end(rest)
        builder.cbranch(builder.icmp_signed(">", left, ir.Constant(_LONG, 0)), tail, end)
        builder.position_at_end(tail)
        _, tail_top = body(8, position, list(carried), top)
        builder.branch(end)
        builder.position_at_end(end)
        found = builder.phi(_FLOATS)
        found.add_incoming(top, rest)
        found.add_incoming(tail_top, tail)
        return found


def _scan_of(vectors: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def scan(
        typing: Any,
        h: Any,
        h_at: Any,
        start: Any,
        start_at: Any,
        order: Any,
        order_at: Any,
        steps: Any,
        weight: Any,
        before: Any,
        before_at: Any,
        sums: Any,
        sums_at: Any,
    ) -> Any:
        long = types.int64
        signature = types.float32(h, long, start, long, order, long, long, weight, before, long, sums, long)

        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            def pointer(k: int, at: Any | None = None) -> Any:
                data = context.make_array(sig.args[k])(context, builder, args[k]).data
                return data if at is None else builder.gep(data, [at])

            writer = _Writer(builder, vectors)
            rows, first = pointer(0, args[1]), pointer(2, args[3])
            given = {
                "order": pointer(4, args[5]),
                "weight": pointer(7),
                "before": pointer(8, args[9]),
                "sums": pointer(10, args[11]),
            }
            held = [writer.load(first, ir.Constant(_LONG, k * LANES), _FLOATS, 64) for k in range(vectors)]

            def body(count: int, position: Any, held: list[Any], best: Any) -> tuple[list[Any], Any]:
                squares, held = writer.steps(count, rows, given["order"], position, held)
                return held, writer.judged(squares, given, position, best)

            best = writer.loop(args[6], held, _ZERO, body)
            kind = ir.FunctionType(_FLOAT, [_FLOATS])
            largest = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fmax.v16f32")
            return builder.call(largest, [best], fastmath=("nnan", "nsz"))

        return signature, build

    return scan


scan_1, scan_2, scan_3, scan_4 = (_scan_of(vectors) for vectors in range(1, MOST_VECTORS + 1))
"""scan_K(h, h_at, start, start_at, order, order_at, steps, weight, before, before_at, sums, sums_at) → best.

H starts from `start` (K vectors) and goes over the rows in the order of `order`; after step j

    sums[j] = before[j] + |H|²,    best = max of sums[j] · weight[j] over j where the code changes after step j

`…_at` are positions in the flattened arrays. Up to 15 steps too many are made; weight must be 0 there, and all arrays
must be that much longer.
"""
