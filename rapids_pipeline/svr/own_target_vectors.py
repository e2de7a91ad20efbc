"""Rows of a Gaussian kernel's factor, in float32 or float64, written as LLVM vectors like `smo_vectors`.

    out[j] = factor[j]·2^−(scale·squared[j] + ‖statistics[:, j] − own‖²)

which is factor[j]·e^−γ(…) for scale = γ/ln 2 and statistics times √scale.
"""

# ruff: noqa: ARG001 (numba gives an intrinsic arguments of which only the types matter here)

import math
import zlib
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rapids_pipeline.svr.smo_steps import compiled, source_stamp
from rapids_pipeline.svr.smo_vectors import ACCUMULATORS, Lanes

UNROLLED = 6
"""Statistics are padded by zeros to a multiple of this."""
LN2 = math.log(2.0)
LEAST = -100.0
"""Exponent of 2 below which the power is 0."""
POWER_32 = (0.00132647273, 0.0096715127, 0.0555073374, 0.240222421, 0.693146978, 1.0)
"""2^r for |r| ≤ 1/2, highest power first: relative error below 1e-7 beside rounding (fitted)"""
POWER_64 = tuple(LN2**k / math.factorial(k) for k in range(11, -1, -1))
"""The same by Taylor's polynomial: below 1e-14."""


@intrinsic  # type: ignore[untyped-decorator]
def _gaussian(
    typing: Any,
    out: Any,
    start: Any,
    scale: Any,
    statistics: Any,
    at: Any,
    own: Any,
    own_at: Any,
    factor: Any,
) -> Any:
    """out[j] ← factor[j]·2^−(scale·start[j] + Σ_s (statistics[s, j] − own[own_at + s])²), in the type of `out`.

    Over `UNROLLED` statistics; `at` is where the first begins in the memory of `statistics`, `factor` may be None.
    2^x = 2^k·2^r with k = round(x). numba makes short vectors of the conversion to k, these are long.
    """
    where = types.int64
    signature = types.void(out, start, scale, statistics, where, own, where, factor)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(context, builder, out.dtype)
        length = context.make_array(sig.args[0])(context, builder, args[0]).nitems
        out_at, start_at = (lanes.pointer(sig.args[k], args[k]) for k in (0, 1))
        factor_at = None if factor == types.none else lanes.pointer(sig.args[7], args[7])
        owns, scale = lanes.pointer(sig.args[5], args[5], args[6]), lanes.splat(args[2])
        tables, values = [], []
        for s in range(UNROLLED):
            place = ir.Constant(length.type, s)
            offset = builder.add(args[4], builder.mul(length, place))
            tables.append(lanes.pointer(sig.args[3], args[3], offset))
            values.append(lanes.splat(builder.load(builder.gep(owns, [place]))))

        def body(position: Any, carried: list[Any]) -> list[Any]:
            for part in range(ACCUMULATORS):
                here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                total = lanes.mul(lanes.load(start_at, here), scale)
                for table, value in zip(tables, values, strict=True):
                    difference = lanes.sub(lanes.load(table, here), value)
                    total = lanes.add(total, lanes.mul(difference, difference))
                power = _power_of_two(lanes, lanes.sub(lanes.constant(0.0), total))
                power = power if factor_at is None else lanes.mul(lanes.load(factor_at, here), power)
                lanes.store(power, out_at, here)
            return carried

        lanes.loop(length, [], body)
        return context.get_dummy_value()

    return signature, build


def _power_of_two(lanes: Any, x: Any) -> Any:
    """Return 2^x for x ≤ 0, lane by lane, 0 below 2^−100."""
    builder, constant = lanes.builder, lanes.constant
    bits, mantissa, polynomial = (32, 23, POWER_32) if lanes.bytes == 4 else (64, 52, POWER_64)
    whole = ir.VectorType(ir.IntType(bits), lanes.width)
    inside = lanes.larger(x, constant(LEAST))
    k = builder.fptosi(lanes.sub(inside, constant(0.5)), lanes.indices)
    r = lanes.sub(inside, builder.sitofp(k, lanes.vector))
    p = constant(polynomial[0])
    for coefficient in polynomial[1:]:
        p = lanes.add(lanes.mul(p, r), constant(coefficient))
    k = k if bits == 32 else builder.sext(k, whole)
    exponent = builder.shl(k, ir.Constant(whole, [mantissa] * lanes.width))
    value = builder.bitcast(builder.add(builder.bitcast(p, whole), exponent), lanes.vector)
    return builder.select(builder.fcmp_ordered(">", x, constant(LEAST)), value, constant(0.0))


@compiled
def gaussian_row(out: Any, squared: Any, statistics: Any, own: Any, scale: Any, factor: Any) -> None:
    """out[j] ← factor[j]·2^−(scale·squared[j] + ‖statistics[:, j] − own‖²); `factor` may be None.

    `statistics` is (S padded, padded columns), `own` (S padded,), all of one floating type.
    """
    width, last = out.size, statistics.shape[0] - UNROLLED
    if last == 0:
        _gaussian(out, squared, scale, statistics, 0, own, 0, factor)
        return
    for j in range(width):
        out[j] = scale * squared[j]
    for s in range(last):
        values, value = statistics[s], own[s]
        for j in range(width):
            difference = values[j] - value
            out[j] += difference * difference
    _gaussian(out, out, out.dtype.type(1.0), statistics, last * width, own, last, factor)


def vector_stamp() -> int:
    """Return a checksum of what the loops of `own_target` are compiled from besides their own file."""
    try:
        return source_stamp() ^ zlib.crc32(Path(__file__).read_bytes())
    except OSError:
        return source_stamp()
