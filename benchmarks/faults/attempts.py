"""Commands in processes that can be hurt, and what they leave, compared without its times.

An attempt is a process forked from one that has imported everything and has run every command once, so that it takes a
second in the place of ten. Its file operations are counted by an audit hook of Python, which can act before any of
them: kill the process, stop it, delete its folder. With `fresh`, the same program is started anew.

    open for writing, mkdir, rename, remove, rmdir, chmod, link, symlink, truncate, utime    in the attempt's folder
"""

import atexit
import contextlib
import csv
import gc
import hashlib
import importlib
import io
import json
import os
import pkgutil
import re
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import features
import rapids_pipeline
from benchmarks.harness import REPOSITORY
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.stack.saved import load_model

DEADLINE_S = 240.0
"""Seconds after which an attempt counts as hanging."""
OPERATIONS = {f"os.{name}" for name in "rename remove rmdir mkdir link symlink truncate chmod utime".split()}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
UNFINISHED, LOCK, KEPT = ".unfinished-", ".lock", (".run", ".finished")
TIMES = {"created", "seconds", "seal"}
"""Keys of JSON and columns of tables that two runs of a command need not share; the seal is a hash of the others."""
LEFT_OUT = ("__main__", "cluster", "gpu", "pyboost", "rapids", "cuml")
"""Parts of names of modules that are not imported in advance: they need a GPU, or begin to work when imported."""


class Ended(NamedTuple):
    """How an attempt ended: exit code (negative: a signal), output, the file operations begun, seconds."""

    code: int
    out: str
    err: str
    operations: list[str]
    seconds: float


Act = Callable[[], None]


def prepare(folder: Path) -> dict[str, Path]:
    """Import all modules, and write a small problem: 16 compounds of the demo, 8 genes; return its files by name."""
    for package in (rapids_pipeline, features):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in module.name for part in LEFT_OUT):
                importlib.import_module(module.name)
    data = simulate(0, 8)
    names = set(list(dict.fromkeys(data.de_train["sm_name"]))[:16])
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / name for name in ("de_train.parquet", "id_map.csv", "de_test.parquet")}
    files |= {
        name: folder / name for name in ("half.csv", "few.toml", "wide.parquet", "wide.csv", "kernels.toml")
    }
    some = [table[table["sm_name"].isin(names)] for table in (data.de_train, data.de_test)]
    some[0].reset_index(drop=True).to_parquet(files["de_train.parquet"])
    some[1][["id", "cell_type", "sm_name"]].to_csv(files["id_map.csv"], index=False)
    some[1].to_parquet(files["de_test.parquet"])
    some[1][["id", "cell_type", "sm_name"]].iloc[::2].to_csv(files["half.csv"], index=False)
    files["few.toml"].write_text(RECIPE)
    wide = simulate(0, 1500)
    wide.de_train.to_parquet(files["wide.parquet"])
    wide.id_map.to_csv(files["wide.csv"], index=False)
    files["kernels.toml"].write_text(KERNELS)
    return files


def warm(commands: Iterable[Sequence[str]], folder: Path) -> None:
    """Run commands in this process, so that those that are forked from it find everything compiled and loaded."""
    from rapids_pipeline.commands import app

    emptied(folder)
    own, handlers = sys.argv, {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for words in commands:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            sys.argv = ["rapids-perturb", *words]
            with contextlib.suppress(SystemExit):
                app.main()
    sys.argv = own
    for number, handler in handlers.items():
        signal.signal(number, handler)
    gc.freeze()


COMPOSITE = """
[[members]]
kind = "composite"
name = "composite"

[members.known_compounds]
n_components = 4
weights = { cell_type = 2.0, tanimoto = 1.0, "correlation * profile_linear" = 7.0 }

[members.new_compounds]
n_components = 4
weights = { cell_type = 0.1, "rbf(descriptors)" = 0.7 }
"""
KERNELS = f"""name = "kernels"
n_folds = 3
{COMPOSITE}
[blend]
shrink = true
clip = true
"""
RECIPE = f"""name = "few"
n_folds = 3

[[members]]
kind = "svr"
name = "svr_shared"
features = "svr_shared"
{COMPOSITE}
[[members]]
kind = "booster"
name = "boosting"
stacks_on = ["svr_shared", "composite"]
features = "boosting"
n_estimators = 20
n_components = 4

[blend]
shrink = true
clip = true
"""


# --- attempts ---------------------------------------------------------------------------------------------


def attempt(
    words: Sequence[str],
    folder: Path,
    *,
    before: Mapping[int, Act] | None = None,
    setup: Act | None = None,
    fresh: bool = False,
    meanwhile: Callable[[int], None] | None = None,
) -> Ended:
    """Run a command in a process of its own, with `folder` as its working folder.

    Parameters
    ----------
    words : sequence of str
        The command line without the program's name.
    before : mapping of int to function
        What the process does before its n-th file operation, from 0.
    setup : function
        What the process does before the command begins.
    fresh : bool
        Start Python anew; there are no file operations to count then.
    meanwhile : function of the process's number
        What the parent does while it runs.
    """
    pipes = [os.pipe() for _ in range(3)]
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        try:
            os.chdir(folder)
            for number, (_, write) in zip((1, 2), pipes, strict=False):
                os.dup2(write, number)
            log = pipes[2][1]
            for read, write in pipes:
                for one in {read, write} - {log}:
                    os.close(one)
            _be(words, folder, before or {}, setup, fresh, log)
        finally:
            os._exit(70)  # an attempt never goes on as its parent
    for _, write in pipes:
        os.close(write)
    if meanwhile is not None:
        meanwhile(pid)
    code, texts = _waited(pid, [read for read, _ in pipes])
    out, err, log_text = (text.decode("utf-8", "backslashreplace") for text in texts)
    return Ended(code, out, err, log_text.splitlines(), time.monotonic() - began)


def _be(
    words: Sequence[str], folder: Path, before: Mapping[int, Act], setup: Act | None, fresh: bool, log: int
) -> None:
    """Be the attempt: the forked process ends in here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if fresh:
        os.set_inheritable(log, False)
        if setup is not None:
            setup()
        os.environ["PYTHONPATH"] = str(REPOSITORY)
        os.execv(sys.executable, [sys.executable, "-m", "rapids_pipeline", *words])
    if setup is not None:
        setup()
    _count(folder, before, log)
    from rapids_pipeline.commands import app

    # The parent's streams remember what kind of file these were before.
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))
    sys.argv = ["rapids-perturb", *words]
    code: Any = 0
    try:
        app.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _count(folder: Path, before: Mapping[int, Act], log: int) -> None:
    """Count the file operations in a folder from now on, and act before some of them."""
    inside, done, lock, busy = f"{folder.resolve()}{os.sep}", [0], threading.Lock(), threading.local()

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITING:
                return
        elif event not in OPERATIONS:
            return
        if getattr(busy, "now", False) or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if path.startswith(os.sep) and not f"{path}{os.sep}".startswith(inside):
            return
        with lock:
            number = done[0]
            done[0] += 1
        what = f"{event.removeprefix('os.')} {path.removeprefix(inside)}"
        if event == "os.rename":
            what += f" {os.fsdecode(arguments[1]).removeprefix(inside)}"
        with contextlib.suppress(OSError):
            os.write(log, f"{what}\n".encode())
        if number in before:
            busy.now = True
            before[number]()
            busy.now = False

    sys.addaudithook(see)


def _waited(pid: int, reads: list[int]) -> tuple[int, list[bytes]]:
    """Read what a process writes until it ends; one that does not end in time is killed."""
    texts, still, until = dict.fromkeys(reads, b""), set(reads), time.monotonic() + DEADLINE_S
    while still:
        ready, _, _ = select.select(list(still), [], [], max(until - time.monotonic(), 0))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            texts[reads[1]] += b"\n[hung: killed by the campaign]\n"
            break
        for read in ready:
            if piece := os.read(read, 65536):
                texts[read] += piece
            else:
                still.discard(read)
    for read in reads:
        os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), [texts[read] for read in reads]


# --- what is left ---------------------------------------------------------------------------------------------


def is_left_over(name: str) -> bool:
    """Say whether a path names what only a process at work has: half-written files, locks."""
    return any(part.startswith(UNFINISHED) or part.endswith(LOCK) for part in Path(name).parts)


def is_kept(name: str) -> bool:
    """Say whether a path names what unfinished work keeps to go on."""
    return any(part in KEPT or UNFINISHED in part[1:] for part in Path(name).parts)


def snapshot(folder: Path) -> dict[str, str]:
    """Return the content of every file below a folder as a hash without times and the folder's path; "" for a folder.

    What is no whole file of its kind has "damaged: …".
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = ""
        elif is_left_over(name):
            found[name] = "left over"
        else:
            try:
                found[name] = hashlib.sha256(_content(path).replace(str(folder).encode(), b"")).hexdigest()
            except (
                Exception
            ) as error:  # damaged files make readers raise many kinds, and all of them are to be told
                found[name] = f"damaged: {type(error).__name__}: {error}"
    return found


def _content(path: Path) -> bytes:
    """Return what a file says, without times; raises where it is not whole."""
    data = path.read_bytes()
    if path.suffix == ".json":
        document = json.loads(data)
        if "seal" in document:
            load_model(path.parent)  # checks the seal, and sizes and hashes of all files
        return json.dumps(_timeless(document), sort_keys=True).encode()
    if path.suffix == ".csv" and path.stat().st_size < 1e6:
        rows = list(csv.reader(io.StringIO(data.decode())))
        left = [place for place, name in enumerate(rows[0]) if name not in TIMES]
        return json.dumps([[row[place] for place in left] for row in rows]).encode()
    if path.suffix == ".safetensors":
        return _timeless_tensors(data)
    if path.suffix == ".parquet":
        pd.read_parquet(path)
    if path.suffix == ".html":
        return _timeless_page(data.decode()).encode()
    if path.suffix == ".png" and not data.endswith(b"IEND\xaeB`\x82"):
        raise ValueError("ends before IEND")
    return data


def _timeless_page(text: str) -> str:
    if not text.rstrip().endswith("</html>"):
        raise ValueError("ends before </html>")
    quote, names = '(?:"|&#34;)', "|".join(TIMES)
    text = re.sub(rf"{quote}(?:{names}){quote}: (?:\{{[^}}]*\}}|[^,\n]*)", "", text)
    return re.sub(r"(?s)<table>(?:(?!</table>).)*>seconds</th>.*?</table>", _without_last_cells, text)


def _without_last_cells(table: re.Match[str]) -> str:
    """Return a table without the last cell of every row: where there are seconds, they stand there."""
    return re.sub(r"(?s)<td>[^<]*</td>\s*</tr>", "</tr>", table[0])


def _timeless_tensors(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if len(data) != 8 + length + max(ends, default=0):
        raise ValueError(f"{len(data)} bytes, not as its header says")
    metadata = header.get("__metadata__", {})
    metadata.pop("content", None)  # the hash of what is compared here without its times
    if "facts" in metadata:
        metadata["facts"] = _timeless(json.loads(metadata["facts"]))
    return json.dumps(header, sort_keys=True).encode() + data[8 + length :]


def _timeless(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _timeless(value) for name, value in document.items() if name not in TIMES}
    return [_timeless(value) for value in document] if isinstance(document, list) else document


def half_files(found: Mapping[str, str], old: Mapping[str, str], final: Mapping[str, str]) -> list[str]:
    """Return what is wrong with what a killed command left: files that are neither old nor final, damaged ones."""
    faults = []
    for name, content in found.items():
        if content.startswith("damaged"):
            faults.append(f"half file: {name} is {content}")
        elif not (is_left_over(name) or is_kept(name) or content in ("", old.get(name), final.get(name))):
            faults.append(f"half file: {name} is neither the old nor the final one")
    return faults


def differences(found: Mapping[str, str], final: Mapping[str, str]) -> list[str]:
    """Return in what the files of a command that was stopped and repeated are not those of one that was not."""
    left = [f"left behind: {name}" for name in found if name not in final]
    missing = [f"missing: {name}" for name in final if name not in found]
    changed = [f"differs: {name}" for name in final if name in found and found[name] != final[name]]
    return left + missing + changed


def emptied(folder: Path, like: Path | None = None) -> Path:
    """Return a folder that is new, with copies of the files of another one."""
    shutil.rmtree(folder, ignore_errors=True)
    if like is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(like, folder, symlinks=True)
    return folder
