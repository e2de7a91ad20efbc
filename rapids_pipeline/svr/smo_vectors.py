"""The two passes of an SMO iteration over all rows, written as LLVM vectors.

Both passes end in the position of a maximum, which numba never turns into vector instructions. Here they are
loops over vectors of a fixed width (16 float32 or 8 float64, four independent accumulators), which LLVM lowers
to whatever the processor has; a kernel row is the product of a row of each factor, made on the way (`right` may be
None: then `left` is the kernel).
"""

# ruff: noqa: ARG001 (numba gives an intrinsic arguments of which only the types matter here)

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rapids_pipeline.svr.smo_arrays import BLOCKED

VECTOR_BYTES = 64
ACCUMULATORS = 4


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

    def product(self, factors: list[Any], position: Any) -> Any:
        """Load one vector of each factor (one or two pointers) and multiply them."""
        return functools.reduce(self.mul, [self.load(factor, position) for factor in factors])

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
    typing: Any,
    f: Any,
    down: Any,
    half_diagonal: Any,
    left: Any,
    left_at: Any,
    right: Any,
    right_at: Any,
    length: Any,
    top: Any,
    half_diagonal_i: Any,
    flat: Any,
) -> Any:
    """(j, L): the partner with the largest second-order decrease, and min of f − down over all rows."""
    scalar = f.dtype
    result = types.Tuple((types.int64, scalar))
    signature = result(
        f, down, half_diagonal, left, types.int64, right, types.int64, types.int64, scalar, scalar, scalar
    )

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(context, builder, scalar)
        kinds = sig.args
        f_at, down_at, half_at = (lanes.pointer(kinds[k], args[k]) for k in range(3))
        factors = [lanes.pointer(kinds[k], args[k], args[k + 1]) for k in (3, 5) if kinds[k] != types.none]
        top, half_i, flat = (lanes.splat(args[k]) for k in (8, 9, 10))
        zero = lanes.constant(0.0)

        def better(gain: Any, bend: Any, best: list[Any]) -> Any:
            return builder.fcmp_ordered(">", lanes.mul(gain, best[1]), lanes.mul(best[0], bend))

        def body(position: Any, carried: list[Any]) -> list[Any]:
            lowest, new = carried[0], []
            start = lanes.splat(builder.trunc(position, lanes.index))
            for part in range(ACCUMULATORS):
                best = carried[1 + 3 * part : 4 + 3 * part]
                here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                product = lanes.product(factors, here)
                bend = lanes.larger(lanes.sub(lanes.add(lanes.load(half_at, here), half_i), product), flat)
                level = lanes.sub(lanes.load(f_at, here), lanes.load(down_at, here))
                lowest = lanes.smaller(level, lowest)
                slope = lanes.larger(lanes.sub(top, level), zero)
                gain = lanes.mul(slope, slope)
                new += lanes.choose(better(gain, bend, best), [gain, bend, start], best)
            return [lowest, *new]

        nothing = [zero, lanes.constant(1.0), ir.Constant(lanes.indices, [0] * lanes.width)]
        end = lanes.loop(args[7], [lanes.constant(BLOCKED), *nothing * ACCUMULATORS], body)
        found = [end[1 + 3 * p : 4 + 3 * p] for p in range(ACCUMULATORS)]
        found = [[gain, bend, lanes.row_of(start, p)] for p, (gain, bend, start) in enumerate(found)]
        best = found[0]
        for other in found[1:]:
            best = lanes.choose(better(other[0], other[1], best), other, best)
        _, row = lanes.first_best(builder.fdiv(best[0], best[1]), best[2])
        return context.make_tuple(builder, sig.return_type, [row, lanes.reduce("fmin", end[0])])

    return signature, build


@intrinsic  # type: ignore[untyped-decorator]
def first_row(
    typing: Any,
    f: Any,
    up: Any,
    left: Any,
    left_i: Any,
    left_j: Any,
    right: Any,
    right_i: Any,
    right_j: Any,
    length: Any,
    step: Any,
) -> Any:
    """f ← f − step·(K_i − K_j); return (i, U): the row where f − up is largest, and that value."""
    scalar = f.dtype
    result = types.Tuple((types.int64, scalar))
    signature = result(
        f, up, left, types.int64, types.int64, right, types.int64, types.int64, types.int64, scalar
    )

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(context, builder, scalar)
        kinds = sig.args
        f_at, up_at = lanes.pointer(kinds[0], args[0]), lanes.pointer(kinds[1], args[1])
        held = [k for k in (2, 5) if kinds[k] != types.none]
        of_i, of_j = ([lanes.pointer(kinds[k], args[k], args[k + own]) for k in held] for own in (1, 2))
        step = lanes.splat(args[9])

        def body(position: Any, carried: list[Any]) -> list[Any]:
            new: list[Any] = []
            start = lanes.splat(builder.trunc(position, lanes.index))
            for part in range(ACCUMULATORS):
                best = carried[2 * part : 2 * part + 2]
                here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                k_i, k_j = lanes.product(of_i, here), lanes.product(of_j, here)
                value = lanes.sub(lanes.load(f_at, here), lanes.mul(step, lanes.sub(k_i, k_j)))
                lanes.store(value, f_at, here)
                level = lanes.sub(value, lanes.load(up_at, here))
                new += lanes.choose(builder.fcmp_ordered(">", level, best[0]), [level, start], best)
            return new

        nothing = [lanes.constant(-2 * BLOCKED), ir.Constant(lanes.indices, [0] * lanes.width)]
        end = lanes.loop(args[8], nothing * ACCUMULATORS, body)
        values, rows = lanes.best_row([end[2 * p : 2 * p + 2] for p in range(ACCUMULATORS)])
        value, row = lanes.first_best(values, rows)
        return context.make_tuple(builder, sig.return_type, [row, value])

    return signature, build


@intrinsic  # type: ignore[untyped-decorator]
def power_of_two(typing: Any, exponent: Any) -> Any:
    """2**exponent as float64 (exponent int64 between −1022 and 1023), by writing the exponent bits."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.IntType(64)
        bits = builder.shl(builder.add(args[0], ir.Constant(wide, 1023)), ir.Constant(wide, 52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.int64), build
