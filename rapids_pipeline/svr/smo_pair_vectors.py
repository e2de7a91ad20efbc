"""The two passes of an SMO iteration that moves up to `PAIRS` pairs at once, written as LLVM vectors.

As in `smo_vectors`, but on half squared distances D_ij = (K_ii + K_jj)/2 − K_ij instead of K, and with the best row of
every *lane* (row number modulo `LANES`) as the result, so that several rows can be taken from one pass:

    advance    f ← f + Σ_a δ_a D[row_a] − shift;  the row with the largest f − up of every quarter of the lanes
    partners   for each of several rows i, in every lane the row k with the largest key

A key stands for (u_i − l_k)/√D_ik, l = f − down, whose square is the second-order decrease. Read as an integer, a
positive float32 is nearly a logarithm, so the key is the bits of u_i − l_k less half of those of D_ik: one integer
subtraction in the place of a root and a division, and off by less than a tenth, little enough to choose a row by. The
lowest bits of a key hold the row itself, so that a maximum brings the row with it. Rows with u_i ≤ l_k have keys below
0.
"""

# ruff: noqa: ARG001 (numba gives an intrinsic arguments of which only the types matter here)

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rapids_pipeline.svr.smo_arrays import BLOCKED
from rapids_pipeline.svr.smo_vectors import ACCUMULATORS, Lanes

PAIRS = 4
LANES = 16


def _advance_of(rows: int) -> Callable[..., Any]:
    """Return the intrinsic that adds `rows` rows of the table to f."""

    @intrinsic  # type: ignore[untyped-decorator]
    def advance(
        typing: Any,
        f: Any,
        up: Any,
        table: Any,
        starts: Any,
        steps: Any,
        shift: Any,
        length: Any,
        tops: Any,
        top_rows: Any,
    ) -> Any:
        """f ← f + Σ steps_a·table[starts_a:] − shift; write each quarter's largest f − up, and its row."""
        signature = types.void(f, up, table, starts, steps, f.dtype, types.int64, tops, top_rows)

        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes = Lanes(context, builder, f.dtype)
            kinds = sig.args
            f_at, up_at, table_at, starts_at, steps_at = (lanes.pointer(kinds[k], args[k]) for k in range(5))
            row_at = [builder.gep(table_at, [lanes.number(starts_at, a)]) for a in range(rows)]
            step = [lanes.splat(lanes.number(steps_at, a)) for a in range(rows)]
            shift_all = lanes.splat(args[5])

            def body(position: Any, carried: list[Any]) -> list[Any]:
                new: list[Any] = []
                start = lanes.splat(builder.trunc(position, lanes.index))
                for part in range(ACCUMULATORS):
                    best = carried[2 * part : 2 * part + 2]
                    here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                    value = lanes.load(f_at, here)
                    if rows:
                        value = lanes.sub(value, shift_all)
                        for pointer, size in zip(row_at, step, strict=True):
                            value = lanes.add(value, lanes.mul(size, lanes.load(pointer, here)))
                        lanes.store(value, f_at, here)
                    level = lanes.sub(value, lanes.load(up_at, here))
                    new += lanes.choose(builder.fcmp_ordered(">", level, best[0]), [level, start], best)
                return new

            nothing = [lanes.constant(-2 * BLOCKED), ir.Constant(lanes.indices, [0] * lanes.width)]
            end = lanes.loop(args[6], nothing * ACCUMULATORS, body)
            best = lanes.best_row([end[2 * p : 2 * p + 2] for p in range(ACCUMULATORS)])
            for turn in (1, 2):
                order = [lane - lane % 4 + (lane + turn) % 4 for lane in range(lanes.width)]
                other = [lanes.shuffled(value, order) for value in best]
                best = lanes.choose(builder.fcmp_ordered(">", other[0], best[0]), other, best)
            zero = ir.Constant(ir.IntType(64), 0)
            lanes.store(best[0], lanes.pointer(kinds[7], args[7]), zero)
            rows_at = builder.bitcast(lanes.pointer(kinds[8], args[8]), lanes.indices.as_pointer())
            builder.store(best[1], rows_at, align=4)
            return context.get_dummy_value()

        return signature, build

    return advance  # type: ignore[no-any-return]


def _partners_of(count: int) -> Callable[..., Any]:
    """Return the intrinsic that looks for partners of `count` rows."""

    @intrinsic  # type: ignore[untyped-decorator]
    def partners(
        typing: Any,
        f: Any,
        down: Any,
        table: Any,
        starts: Any,
        tops: Any,
        row_bits: Any,
        length: Any,
        keys: Any,
    ) -> Any:
        """Write each lane's best key for every row i; return min of f − down over all rows."""
        signature = f.dtype(f, down, table, starts, tops, types.int32, types.int64, keys)

        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes = Lanes(context, builder, f.dtype)
            kinds = sig.args
            f_at, down_at, table_at, starts_at, tops_at = (lanes.pointer(kinds[k], args[k]) for k in range(5))
            row_at = [builder.gep(table_at, [lanes.number(starts_at, a)]) for a in range(count)]
            top = [lanes.splat(lanes.number(tops_at, a)) for a in range(count)]
            one = ir.Constant(lanes.indices, [1] * lanes.width)
            keep = lanes.splat(builder.not_(args[5]))
            numbers = ir.Constant(lanes.indices, list(range(lanes.width)))

            def body(position: Any, carried: list[Any]) -> list[Any]:
                lowest, new = carried[0], list(carried[1:])
                for unrolled in range(ACCUMULATORS):
                    here = builder.add(position, ir.Constant(position.type, unrolled * lanes.width))
                    rows = builder.add(lanes.splat(builder.trunc(here, lanes.index)), numbers)
                    level = lanes.sub(lanes.load(f_at, here), lanes.load(down_at, here))
                    lowest = lanes.smaller(level, lowest)
                    for a in range(count):
                        bits = builder.bitcast(lanes.load(row_at[a], here), lanes.indices)
                        slope = builder.bitcast(lanes.sub(top[a], level), lanes.indices)
                        key = builder.sub(slope, builder.lshr(bits, one))
                        key = builder.or_(builder.and_(key, keep), rows)
                        new[a] = builder.select(builder.icmp_signed(">", key, new[a]), key, new[a])
                return [lowest, *new]

            nothing = ir.Constant(lanes.indices, [0] * lanes.width)
            end = lanes.loop(args[6], [lanes.constant(BLOCKED), *[nothing] * count], body)
            keys_at = lanes.pointer(kinds[7], args[7])
            for a in range(count):
                place = builder.gep(keys_at, [ir.Constant(ir.IntType(64), a * lanes.width)])
                builder.store(end[1 + a], builder.bitcast(place, lanes.indices.as_pointer()), align=4)
            return lanes.reduce("fmin", end[0])

        return signature, build

    return partners  # type: ignore[no-any-return]


@intrinsic  # type: ignore[untyped-decorator]
def free_partner(typing: Any, keys: Any, first: Any, row_bits: Any, taken: Any) -> Any:
    """Return the row of the largest of the `LANES` keys from `first` on that is not taken, or −1."""
    signature = types.int64(keys, types.int64, types.int32, taken)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(context, builder, types.float32)
        place = builder.gep(lanes.pointer(sig.args[0], args[0]), [args[1]])
        taken_at = lanes.pointer(sig.args[3], args[3])
        values = builder.load(builder.bitcast(place, lanes.indices.as_pointer()), align=4)
        before = builder.basic_block
        look = builder.append_basic_block("look")
        again = builder.append_basic_block("again")
        after = builder.append_basic_block("found")
        builder.branch(look)
        builder.position_at_end(look)
        left = builder.phi(values.type)
        best = lanes.reduce("smax", left)
        row = builder.zext(builder.and_(best, args[2]), ir.IntType(64))
        none = builder.icmp_signed("<=", best, args[2])
        used = builder.icmp_signed(
            "!=", builder.load(builder.gep(taken_at, [row])), ir.Constant(ir.IntType(8), 0)
        )
        used = builder.and_(used, builder.not_(none))
        builder.cbranch(used, again, after)
        builder.position_at_end(again)
        nothing = ir.Constant(lanes.indices, [0] * lanes.width)
        fewer = builder.select(builder.icmp_signed("==", left, lanes.splat(best)), nothing, left)
        builder.branch(look)
        left.add_incoming(values, before)
        left.add_incoming(fewer, again)
        builder.position_at_end(after)
        return builder.select(none, ir.Constant(ir.IntType(64), -1), row)

    return signature, build


advance_0, advance_1, advance_2, advance_3, advance_4 = (_advance_of(2 * pairs) for pairs in range(PAIRS + 1))
partners_1, partners_2, partners_3, partners_4 = (_partners_of(pairs) for pairs in range(1, PAIRS + 1))
