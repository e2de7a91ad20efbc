"""A `cupy` for Py-Boost on a machine without a GPU: numpy arrays, and its kernels compiled for the host, word for word.

`installed()` puts it into `sys.modules`. Only what Py-Boost 0.5.2 calls while it trains with squared error and predicts
is there. An `ElementwiseKernel` becomes a C++ loop over the broadcast index, a `RawKernel` a loop over blocks and
threads, both run one after the other, so an atomic addition is an addition. Needs g++.
"""

import contextlib
import ctypes
import hashlib
import importlib.machinery
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

HEAD = """
#include <cmath>
#include <cstdint>
#include <cstdlib>
using std::isnan;
#define __global__
struct float4 { float x, y, z, w; };
struct dim { int x; };
static dim blockIdx, blockDim, threadIdx;
static void atomicAdd(float* at, float value) { *at += value; }
"""
C_TYPES = {
    "float32": "float",
    "float64": "double",
    "bool": "bool",
    "uint8": "uint8_t",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
}
FOLDER = Path(tempfile.gettempdir()) / "pyboost-kernels"


def compiled(source):
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"{hashlib.sha256(source.encode()).hexdigest()[:20]}.so"
    if not target.exists():
        code = target.with_suffix(".cpp")
        code.write_text(source)
        flags = ["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
        subprocess.run(["g++", *flags, str(code), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


class ndarray(np.ndarray):
    def get(self, stream=None, out=None):
        found = np.asarray(self).copy()
        if out is None:
            return found
        out[...] = found
        return out

    def scatter_add(self, slices, value):
        np.add.at(self, slices, value)


def on_device(value):
    if isinstance(value, np.ndarray):
        return value if isinstance(value, ndarray) else value.copy().view(ndarray)
    return value


class ElementwiseKernel:
    """`i` runs over the broadcast shape of the inputs that are not raw; raw ones are pointers."""

    def __init__(self, in_params, out_params, body, name):
        split = [[" ".join(p.split()) for p in params.split(",")] for params in (in_params, out_params)]
        self.inputs, self.outputs, self.body, self.name = *split, body, name

    def __call__(self, *args):
        places = {}
        inputs, given = self.inputs, args[: len(self.inputs)]
        plain = [np.asarray(a) for a, p in zip(given, inputs, strict=True) if not p.startswith("raw")]
        shape = np.broadcast_shapes(*(a.shape for a in plain))
        arrays, declared = [], []
        for parameter, value in zip(inputs, given, strict=True):
            *raw, kind, name = parameter.split()
            kind = self._kind(kind, places, value)
            value = np.asarray(value) if raw else np.broadcast_to(np.asarray(value), shape)
            assert not raw or value.dtype == kind, (self.name, parameter, value.dtype)
            arrays.append(np.ascontiguousarray(value, dtype=kind))
            declared.append((bool(raw), kind, name))
        results, rest = [], list(args[len(inputs) :])
        for parameter in self.outputs:
            *raw, kind, name = parameter.split()
            kind = self._kind(kind, places, None)
            out = rest.pop(0) if rest else np.empty(shape, dtype=kind).view(ndarray)
            assert out.flags.c_contiguous and out.dtype == kind
            arrays.append(out)
            results.append(out)
            declared.append((bool(raw), kind, name))
        call = compiled(self._source(declared)).run
        call(ctypes.c_longlong(int(np.prod(shape))), *(ctypes.c_void_p(a.ctypes.data) for a in arrays))
        return results[0] if len(results) == 1 else tuple(results)

    def _kind(self, kind, places, value):
        if kind not in C_TYPES:
            return places.setdefault(kind, None if value is None else np.asarray(value).dtype.name)
        return kind

    def _source(self, declared):
        pointers = ", ".join(f"{C_TYPES[kind]}* {name}_at" for _, kind, name in declared)
        bound = "".join(
            f"auto {name} = {name}_at;" if raw else f"{C_TYPES[kind]}& {name} = {name}_at[i];"
            for raw, kind, name in declared
        )
        one = f"static void one(long long i, {pointers}) {{ {bound} {self.body} }}"
        names = ", ".join(f"{name}_at" for *_, name in declared)
        loop = f"for (long long i = 0; i < n; i++) one(i, {names});"
        return f'{HEAD}{one}\nextern "C" void run(long long n, {pointers}) {{ {loop} }}'


class RawKernel:
    def __init__(self, code, name):
        self.code, self.name = code, name

    def __call__(self, grid, block, args):
        parameters = re.search(rf"{self.name}\((.*?)\)", self.code, re.S)[1].split(",")
        names = ", ".join(p.split()[-1].lstrip("*") for p in parameters)
        loops = "for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)"
        loops += f" for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++) {self.name}({names});"
        entry = f'extern "C" void run(int grid, int block, {",".join(parameters)}) {{ blockDim.x = block; {loops} }}'
        passed = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int(a) for a in args
        ]
        compiled(HEAD + self.code + entry).run(ctypes.c_int(grid[0]), ctypes.c_int(block[0]), *passed)


def made(function):
    """Let a numpy function give arrays of the class that stands for device memory."""
    return lambda *args, **kwargs: on_device(function(*args, **kwargs))


def module():
    found = types.ModuleType("cupy")
    found.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    for (
        name
    ) in "array asarray arange zeros empty ones ones_like concatenate dot array_split sqrt clip".split():
        setattr(found, name, made(getattr(np, name)))
    for name in "float32 int32 int64 uint32 uint64 bool_ newaxis".split():
        setattr(found, name, getattr(np, name))
    found.array_split = lambda a, n: [on_device(part) for part in np.array_split(a, n)]
    found.ndarray, found.ElementwiseKernel, found.RawKernel = ndarray, ElementwiseKernel, RawKernel
    draw = found.random = types.SimpleNamespace(state=np.random.RandomState(0))
    draw.seed = lambda seed: setattr(draw, "state", np.random.RandomState(seed))
    draw.shuffle = lambda a: draw.state.shuffle(a)
    draw.randn = lambda *shape, dtype: on_device(draw.state.randn(*shape).astype(dtype))
    nothing = types.SimpleNamespace(synchronize=lambda: None)
    pool = types.SimpleNamespace(malloc=None, free_all_blocks=lambda: None)
    found.cuda = types.SimpleNamespace(
        MemoryPool=lambda: pool,
        using_allocator=lambda allocator: contextlib.nullcontext(),
        get_current_stream=lambda: nothing,
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1),
    )
    return found


_kept = {}


@contextlib.contextmanager
def installed():
    """Make `import cupy` find this one; afterwards it and the Py-Boost imported with it are kept for the next time."""
    before = _taken()
    sys.modules.update(
        _kept or {"cupy": module(), "cuml": None}
    )  # Py-Boost imports cuML where it is, which needs cupy
    try:
        yield
    finally:
        _kept.update(_taken())
        sys.modules.update(before)


def _taken():
    names = [name for name in sys.modules if name.split(".")[0] in ("cupy", "py_boost", "cuml")]
    return {name: sys.modules.pop(name) for name in names}
