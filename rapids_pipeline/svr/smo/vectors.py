"""Passes of an SMO iteration over all rows, written as LLVM vectors.

The passes end in the position of a maximum, which numba never turns into vector instructions. Here they are loops over
vectors of a fixed width (16 float32 or 8 float64, four independent accumulators), which LLVM lowers to whatever the
processor has.

One pair an iteration, on rows of K:

    first_row    f ← f − step·(K_i − K_j);  the row with the largest f − up
    second_row   the row with the largest (u_i − l_k)²/(K_ii + K_kk − 2K_ik), l = f − down

Up to `PAIRS` pairs at once, on half squared distances D_ij = (K_ii + K_jj)/2 − K_ij, with the best row of every *lane*
(row number modulo `LANES`) as the result, so that several rows can be taken from one pass:

    advance      f ← f + Σ_a δ_a D[row_a] − shift;  the row with the largest f − up of every quarter of the lanes
    partners     for each of several rows i, in every lane the row k with the largest key

A key stands for (u_i − l_k)/√D_ik, whose square is the second-order decrease. Read as an integer, a positive float32 is
nearly a logarithm, so the key is the bits of u_i − l_k less half of those of D_ik: one integer subtraction in the place
of a root and a division, and off by less than a tenth, little enough to choose a row by. The lowest bits of a key hold
the row itself, so that a maximum brings the row with it. Rows with u_i ≤ l_k have keys below 0.
"""

# ruff: noqa: ARG001 (numba gives an intrinsic arguments of which only the types matter here)

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

VECTOR_BYTES = 64
ACCUMULATORS = 4
PAIRS = 4
LANES = 16
BLOCKED = 1e30
"""Offset of a row that cannot move in a direction: no violation is ever found there."""


class Lanes:
    """Writes vector instructions over float arrays of one type into a function under construction."""

    def __init__(self, context: Any, builder: Any, scalar: types.Float) -> None:
        self.context, self.builder = context, builder
        self.scalar = context.get_value_type(scalar)
        self.bytes = scalar.bitwidth // 8
        self.width = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(self.scalar, self.width)
        self.index = ir.IntType(32)
        self.indices = ir.VectorType(self.index, self.width)

    def constant(self, value: float) -> Any:
        """Return a vector with one number in every lane."""
        return ir.Constant(self.vector, [value] * self.width)

    def splat(self, value: Any) -> Any:
        """Return a vector with a scalar in every lane."""
        kind = ir.VectorType(value.type, self.width)
        first = self.builder.insert_element(
            ir.Constant(kind, ir.Undefined), value, ir.Constant(self.index, 0)
        )
        zeros = ir.Constant(self.indices, [0] * self.width)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)

    def pointer(self, kind: types.Array, array: Any, offset: Any | None = None) -> Any:
        """Return the address of an array, or of its element `offset`."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return data if offset is None else self.builder.gep(data, [offset])

    def at(self, pointer: Any, position: Any) -> Any:
        """Return the address of the vector that begins at an element."""
        place = self.builder.gep(pointer, [position])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def load(self, pointer: Any, position: Any) -> Any:
        """Load the vector that begins at an element."""
        return self.builder.load(self.at(pointer, position), align=self.bytes)

    def store(self, value: Any, pointer: Any, position: Any) -> None:
        """Store a vector from an element on."""
        self.builder.store(value, self.at(pointer, position), align=self.bytes)

    def number(self, pointer: Any, place: int) -> Any:
        """Load one element of an array, of whatever type it has."""
        return self.builder.load(self.builder.gep(pointer, [ir.Constant(ir.IntType(64), place)]))

    def shuffled(self, value: Any, order: list[int]) -> Any:
        """Return the vector with lane k taken from lane order[k]."""
        return self.builder.shuffle_vector(value, value, ir.Constant(self.indices, order))

    def mul(self, a: Any, b: Any) -> Any:
        """a·b, which may become part of a fused operation."""
        return self.builder.fmul(a, b, flags=("contract",))

    def add(self, a: Any, b: Any) -> Any:
        """a + b, which may become part of a fused operation."""
        return self.builder.fadd(a, b, flags=("contract",))

    def sub(self, a: Any, b: Any) -> Any:
        """a − b, which may become part of a fused operation."""
        return self.builder.fsub(a, b, flags=("contract",))

    def choose(self, condition: Any, chosen: list[Any], otherwise: list[Any]) -> list[Any]:
        """Select each of several vectors by the same lane-wise condition."""
        return [self.builder.select(condition, a, b) for a, b in zip(chosen, otherwise, strict=True)]

    def larger(self, a: Any, b: Any) -> Any:
        """Lane by lane the larger of a and b."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        """Lane by lane the smaller of a and b."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def reduce(self, name: str, value: Any) -> Any:
        """Reduce the lanes to a scalar by an LLVM reduction."""
        kind = "f" if value.type == self.vector else "i"
        bits = {"float": 32, "double": 64}.get(str(self.scalar)) if kind == "f" else 32
        full = f"llvm.vector.reduce.{name}.v{self.width}{kind}{bits}"
        signature = ir.FunctionType(value.type.element, [value.type])
        function = cgutils.get_or_insert_function(self.builder.module, signature, full)
        flags = ("nnan", "nsz") if kind == "f" else ()
        return self.builder.call(function, [value], fastmath=flags)

    def loop(self, length: Any, start: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Run `body(position, carried)` at 0, step, 2·step, ... < length; return what it carried at last."""
        builder = self.builder
        before = builder.basic_block
        inside = builder.append_basic_block("lanes")
        after = builder.append_basic_block("lanes.end")
        builder.branch(inside)
        builder.position_at_end(inside)
        position = builder.phi(length.type)
        carried = [builder.phi(value.type) for value in start]
        new = body(position, list(carried))
        following = builder.add(position, ir.Constant(length.type, self.width * ACCUMULATORS))
        for phi, first, value in zip(
            [position, *carried], [ir.Constant(length.type, 0), *start], [following, *new], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(value, builder.basic_block)
        builder.cbranch(builder.icmp_signed("<", following, length), inside, after)
        builder.position_at_end(after)
        return new

    def best_row(self, parts: list[list[Any]]) -> list[Any]:
        """Return in each lane the largest of the accumulators' values and its row; `parts` hold values and starts."""
        found = [[values, self.row_of(starts, part)] for part, (values, starts) in enumerate(parts)]
        best = found[0]
        for other in found[1:]:
            best = self.choose(self.builder.fcmp_ordered(">", other[0], best[0]), other, best)
        return best

    def row_of(self, starts: Any, part: int) -> Any:
        """Turn the loop positions where each lane of accumulator `part` was best into row numbers."""
        lanes = ir.Constant(self.indices, [part * self.width + lane for lane in range(self.width)])
        return self.builder.add(starts, lanes)

    def first_best(self, values: Any, rows: Any) -> tuple[Any, Any]:
        """Return the largest value over the lanes and the smallest of the rows that have it."""
        best = self.reduce("fmax", values)
        far = ir.Constant(self.indices, [2**31 - 1] * self.width)
        equal = self.builder.fcmp_ordered("==", values, self.splat(best))
        row = self.reduce("umin", self.builder.select(equal, rows, far))
        return best, self.builder.zext(row, ir.IntType(64))


@intrinsic  # type: ignore[untyped-decorator]
def second_row(
    typing: Any, f: Any, down: Any, half_diagonal: Any, table: Any, start: Any, length: Any, top: Any,
    half_diagonal_i: Any, flat: Any,
) -> Any:  # fmt: skip
    """(j, L): the partner with the largest second-order decrease, and min of f − down over all rows."""
    scalar = f.dtype
    result = types.Tuple((types.int64, scalar))
    signature = result(f, down, half_diagonal, table, types.int64, types.int64, scalar, scalar, scalar)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(context, builder, scalar)
        f_at, down_at, half_at = (lanes.pointer(sig.args[k], args[k]) for k in range(3))
        row_at = lanes.pointer(sig.args[3], args[3], args[4])
        top, half_i, flat = (lanes.splat(args[k]) for k in (6, 7, 8))
        zero = lanes.constant(0.0)

        def better(gain: Any, bend: Any, best: list[Any]) -> Any:
            return builder.fcmp_ordered(">", lanes.mul(gain, best[1]), lanes.mul(best[0], bend))

        def body(position: Any, carried: list[Any]) -> list[Any]:
            lowest, new = carried[0], []
            start = lanes.splat(builder.trunc(position, lanes.index))
            for part in range(ACCUMULATORS):
                best = carried[1 + 3 * part : 4 + 3 * part]
                here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                bend = lanes.sub(lanes.add(lanes.load(half_at, here), half_i), lanes.load(row_at, here))
                bend = lanes.larger(bend, flat)
                level = lanes.sub(lanes.load(f_at, here), lanes.load(down_at, here))
                lowest = lanes.smaller(level, lowest)
                slope = lanes.larger(lanes.sub(top, level), zero)
                gain = lanes.mul(slope, slope)
                new += lanes.choose(better(gain, bend, best), [gain, bend, start], best)
            return [lowest, *new]

        nothing = [zero, lanes.constant(1.0), ir.Constant(lanes.indices, [0] * lanes.width)]
        end = lanes.loop(args[5], [lanes.constant(BLOCKED), *nothing * ACCUMULATORS], body)
        found = [end[1 + 3 * p : 4 + 3 * p] for p in range(ACCUMULATORS)]
        found = [[gain, bend, lanes.row_of(start, p)] for p, (gain, bend, start) in enumerate(found)]
        best = found[0]
        for other in found[1:]:
            best = lanes.choose(better(other[0], other[1], best), other, best)
        _, row = lanes.first_best(builder.fdiv(best[0], best[1]), best[2])
        return context.make_tuple(builder, sig.return_type, [row, lanes.reduce("fmin", end[0])])

    return signature, build


@intrinsic  # type: ignore[untyped-decorator]
def first_row(typing: Any, f: Any, up: Any, table: Any, i: Any, j: Any, length: Any, step: Any) -> Any:
    """f ← f − step·(table[i:] − table[j:]); return (i, U): the row where f − up is largest, and that value."""
    scalar = f.dtype
    result = types.Tuple((types.int64, scalar))
    signature = result(f, up, table, types.int64, types.int64, types.int64, scalar)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(context, builder, scalar)
        f_at, up_at = (lanes.pointer(sig.args[k], args[k]) for k in range(2))
        i_at, j_at = (lanes.pointer(sig.args[2], args[2], args[k]) for k in (3, 4))
        step = lanes.splat(args[6])

        def body(position: Any, carried: list[Any]) -> list[Any]:
            new: list[Any] = []
            start = lanes.splat(builder.trunc(position, lanes.index))
            for part in range(ACCUMULATORS):
                best = carried[2 * part : 2 * part + 2]
                here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                change = lanes.sub(lanes.load(i_at, here), lanes.load(j_at, here))
                value = lanes.sub(lanes.load(f_at, here), lanes.mul(step, change))
                lanes.store(value, f_at, here)
                level = lanes.sub(value, lanes.load(up_at, here))
                new += lanes.choose(builder.fcmp_ordered(">", level, best[0]), [level, start], best)
            return new

        nothing = [lanes.constant(-2 * BLOCKED), ir.Constant(lanes.indices, [0] * lanes.width)]
        end = lanes.loop(args[5], nothing * ACCUMULATORS, body)
        values, rows = lanes.best_row([end[2 * p : 2 * p + 2] for p in range(ACCUMULATORS)])
        value, row = lanes.first_best(values, rows)
        return context.make_tuple(builder, sig.return_type, [row, value])

    return signature, build


def _advance_of(rows: int) -> Callable[..., Any]:
    """Return the intrinsic that adds `rows` rows of the table to f."""

    @intrinsic  # type: ignore[untyped-decorator]
    def advance(
        typing: Any, f: Any, up: Any, table: Any, starts: Any, steps: Any, shift: Any, length: Any, tops: Any,
        top_rows: Any,
    ) -> Any:  # fmt: skip
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
        typing: Any, f: Any, down: Any, table: Any, starts: Any, tops: Any, row_bits: Any, length: Any, keys: Any
    ) -> Any:  # fmt: skip
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
