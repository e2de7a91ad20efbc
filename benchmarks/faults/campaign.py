"""The campaign of record: kills, faults of the machine, hostile input. `make campaign` (30 minutes on two cores).

It prints one table, writes it to benchmarks/results/campaign.json and campaign.md, and ends with 1 where anything was
violated: a half file, a restart that was refused, a result that differs, something left behind, a traceback, a crash.
"""

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import attempts, fuzz, kills, resources, trials
from benchmarks.harness import cores, options_of, seconds, table, written

KILLS = 580
"""How many are planned; those that come after the end of a command are not counted."""
MOST = ("seconds", "peak_mb")
"""What inputs are also judged by: the most that one of a kind took; 400 MB of it are libraries."""
RULES = (
    "kills: SIGKILL before file operations spread over a whole command, moments after one, and at any moment. "
    "Afterwards no file is half a file, the same command typed again ends well, and leaves what an undisturbed one "
    "leaves, to the byte but for times, and nothing else. faults: a full disk, a limit, a folder that goes away, a "
    "closed output, a "
    "signal, a clock that is set back; one line or no harm, and nothing finished is lost. inputs: damaged or hostile "
    "files, settings and names; a process ends by itself within 10 s and 1.5 GB, with its work done or one line of at "
    "most 500 characters."
)


class References(dict[str, kills.Reference]):
    """What undisturbed commands do, by name; each is tried when it is first asked for."""

    def __init__(self, commands: Iterable[kills.Command], root: Path) -> None:
        super().__init__()
        self.commands, self.root = {command.name: command for command in commands}, root

    def __missing__(self, name: str) -> kills.Reference:
        """Try a command undisturbed, in a folder of its own."""
        self[name] = kills.reference(self.commands[name], self.root / name.replace(" ", "-"))
        return self[name]


class Campaign:
    """Commands on a small problem, their undisturbed runs, and the trials made of them.

    Parameters
    ----------
    root : Path
        An empty folder.
    jobs : int
        Trials at a time.
    seed : int
    command : str
        Kills are of the command of this name alone, and faults of those whose names have these words.
    """

    def __init__(self, root: Path, jobs: int, seed: int, command: str = "") -> None:
        self.root, self.jobs, self.seed, self.command = root, jobs, seed, command
        files, model = attempts.prepare(root / "data"), root / "model"
        model.mkdir()
        self.killed = kills.commands(files, model / "out")
        self.others = resources.more_commands(files, model / "out")
        ended = attempts.attempt(self.killed[0].words, model)
        if ended.code:
            raise ValueError(f"the run that the others need ends with {ended.code}: {ended.err}")
        every = (*self.killed, *self.others)
        attempts.warm([one.words for one in every if command in one.name], root / "warm")
        self.known = References(every, root / "known")

    def kill_trials(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the outcome of each trial of kills, `count` of them or some more."""
        chosen = [one for one in self.killed if self.command in ("", one.name)]
        yield from kills.side_by_side(self._kills(chosen, count), self.root / "places", self.jobs)

    def _kills(self, chosen: Sequence[kills.Command], count: int) -> Iterator[kills.Trial]:
        rng, shares = random.Random(self.seed), sum(command.share for command in chosen)
        for command in chosen:
            known = self.known[command.name]
            for some in kills.plan(known, -(-count * command.share // shares), rng):
                yield partial(kills.tried, command, known, some)

    def fault_trials(self, kind: str = "") -> Iterator[dict[str, Any]]:
        """Yield the outcome of each fault of the machine; of those alone whose kind has these words."""
        commands = {one.name: one for one in (*self.killed, *self.others) if not one.earlier}
        rng = random.Random(self.seed)
        found = resources.faults(commands, self.known, rng, disks=trials.mounts(), kind=kind)
        chosen = (one for one in found if self.command in one.command.name)
        made = (partial(trials.tried, one, self.known[one.command.name]) for one in chosen)
        yield from kills.side_by_side(made, self.root / "faults", self.jobs)


def counted(part: str, outcomes: Iterator[Mapping[str, Any]], count: str) -> list[dict[str, Any]]:
    """Return a row for each command or kind of fault; violations are printed as they come."""
    rows: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        row = rows.setdefault(
            outcome["name"], {"part": part, "what": outcome["name"], "cases": 0, "violations": []}
        )
        row["cases"] += outcome[count]
        row["violations"] += outcome["violations"]
        for most in MOST:
            if most in outcome:
                row[most] = max(row.get(most, 0), outcome[most])
        for violation in outcome["violations"]:
            print(f"VIOLATION {outcome['name']}: {violation}", file=sys.stderr, flush=True)
    print(f"{part}: {sum(row['cases'] for row in rows.values())} cases", file=sys.stderr, flush=True)
    return [rows[name] for name in sorted(rows)]


def hostile(seed: int, only: str = "") -> Iterator[dict[str, Any]]:
    """Yield the outcome of each hostile input."""
    for outcome in fuzz.outcomes_of(seed, only):
        told = [outcome.told()] if outcome.violations else []
        needed = {"seconds": round(outcome.seconds, 2), "peak_mb": round(outcome.peak_mb)}
        yield {"name": fuzz.family(outcome.kind), "hit": 1, "violations": told, **needed}


def markdown(report: dict[str, Any]) -> str:
    """Return the table of a report, with the totals of each part."""

    def line(part: str, what: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
        most = [max((row[name] for row in rows if name in row), default="") for name in MOST]
        return (
            part,
            what,
            sum(row["cases"] for row in rows),
            sum(len(row["violations"]) for row in rows),
            *most,
        )

    found = report["rows"]
    rows = [line(row["part"], row["what"], [row]) for row in found]
    for part in dict.fromkeys(row["part"] for row in found):
        rows.append(line(part, "all", [row for row in found if row["part"] == part]))
    wrong = [violation for row in report["rows"] for violation in row["violations"]]
    lines = table("part | command or kind | cases | violations | most seconds | most MB", rows)
    return "\n".join(
        [RULES, "", f"Seed {report['seed']}, {report['seconds']:.0f} s.", "", *lines, "", *wrong]
    )


def main() -> int:
    """Run the campaign, write its report, and return the exit code."""
    parser = options_of(__doc__, "campaign.json")
    parser.add_argument("--kills", type=int, default=KILLS, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default="kills,faults,inputs", help="separated by commas")
    parser.add_argument("--kind", default="", help="faults and inputs of this kind only")
    parser.add_argument("--command", default="", help="kills and faults of this command only")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    # No TemporaryDirectory, which forked processes would remove, too.
    root = Path(tempfile.mkdtemp(prefix="campaign-"))
    root.chmod(0o755)  # some faults are those of another user

    def work() -> None:
        parts = asked.parts.split(",")
        if parts != ["inputs"]:
            campaign = Campaign(root, cores(), asked.seed, asked.command)
            if "kills" in parts:
                rows.extend(counted("kills", campaign.kill_trials(asked.kills), "kills"))
            if "faults" in parts:
                rows.extend(counted("faults", campaign.fault_trials(asked.kind), "hit"))
        if "inputs" in parts:
            rows.extend(counted("inputs", hostile(asked.seed, asked.kind), "hit"))

    try:
        os.environ |= {"RAPIDS_PERTURB_CACHE": f"{root}/cache", "MPLBACKEND": "agg"}
        taken = seconds(work)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    written(asked.out, markdown, seed=asked.seed, seconds=round(taken, 1), rows=rows)
    return 1 if any(row["violations"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
