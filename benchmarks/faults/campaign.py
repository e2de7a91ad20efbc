"""The campaign of record: kills, faults of the machine, hostile input. `make campaign` (30 minutes on two cores).

It prints one table, writes it to benchmarks/results/campaign.json and campaign.md, and ends with 1 where anything was
violated: a half file, a restart that was refused, a result that differs, something left behind, a traceback, a crash.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import attempts, kills, resources
from benchmarks.harness import RESULTS, cores

KILLS, FUZZED, RESOURCES = 520, 2000, 40
"""How many of each the campaign has at least."""
TITLE = "Faults: what kills, full disks, limits and hostile input do to the commands"


class Campaign:
    """Commands on a small problem, their undisturbed runs, and the trials made of them.

    Parameters
    ----------
    root : Path
        An empty folder.
    jobs : int
        Trials at a time.
    seed : int
    """

    def __init__(self, root: Path, jobs: int, seed: int) -> None:
        self.root, self.jobs, self.seed = root, jobs, seed
        files, model = attempts.prepare(root / "data"), root / "model"
        model.mkdir()
        self.killed = kills.commands(files, model / "out")
        self.others = resources.more_commands(files, model / "out")
        ended = attempts.attempt(self.killed[0].words, model)
        if ended.code:
            raise ValueError(f"the run that the others need ends with {ended.code}: {ended.err}")
        every = [command.words for command in (*self.killed, *self.others)]
        attempts.warm(every, root / "warm")

    def kill_trials(self, count: int, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Yield the outcome of each trial of kills, `count` of them or some more."""
        chosen = [command for command in self.killed if not only or command.name in only]
        yield from kills.side_by_side(self._kills(chosen, count), self.root / "places", self.jobs)

    def _kills(self, chosen: Sequence[kills.Command], count: int) -> Iterator[kills.Trial]:
        rng, shares = random.Random(self.seed), sum(command.share for command in chosen)
        for command in chosen:
            known = kills.reference(command, self.root / command.name.replace(" ", "-"))
            for some in kills.plan(known, -(-count * command.share // shares), rng):
                yield partial(kills.tried, command, known, some)

    def fault_trials(self, kind: str = "", command: str = "") -> Iterator[dict[str, Any]]:
        """Yield the outcome of each fault of the machine; of those alone whose kind and command have these words."""
        commands = {one.name: one for one in (*self.killed, *self.others) if not one.earlier}
        known = {
            name: kills.reference(command, self.root / f"fault-{name.replace(' ', '-')}")
            for name, command in commands.items()
        }
        rng = random.Random(self.seed)
        found = resources.faults(commands, known, rng, disks=resources.mounts())
        chosen = (one for one in found if kind in one.kind and command in one.command.name)
        trials = (partial(resources.tried, one, known[one.command.name]) for one in chosen)
        yield from kills.side_by_side(trials, self.root / "faults", self.jobs)


def counted(outcomes: Iterator[Mapping[str, Any]], count: str) -> dict[str, dict[str, Any]]:
    """Return cases and violations by name, and print each violation as it comes."""
    cases: Counter[str] = Counter()
    violations: dict[str, list[str]] = {}
    for outcome in outcomes:
        cases[outcome["name"]] += outcome[count]
        violations.setdefault(outcome["name"], []).extend(outcome["violations"])
        for violation in outcome["violations"]:
            print(f"VIOLATION {outcome['name']}: {violation}", file=sys.stderr, flush=True)
    return {name: {"cases": cases[name], "violations": violations[name]} for name in violations}


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--fuzzed", type=int, default=FUZZED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="kills,resources,fuzz", help="parts, separated by commas")
    parser.add_argument("--kind", default="", help="faults of the machine of this kind only")
    parser.add_argument("--command", default="", help="faults of this command only")
    parser.add_argument("--out", type=Path, default=RESULTS / "campaign.json")
    asked = parser.parse_args()
    parts, began, report = asked.only.split(","), time.monotonic(), {}
    root = Path(
        tempfile.mkdtemp(prefix="campaign-")
    )  # no TemporaryDirectory: forked processes would remove it, too
    try:
        os.environ |= {"RAPIDS_PERTURB_CACHE": f"{root}/cache", "MPLBACKEND": "agg"}
        campaign = Campaign(root, cores(), asked.seed)
        if "kills" in parts:
            report["kills"] = counted(campaign.kill_trials(asked.kills), "kills")
            print(f"kills done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if "resources" in parts:
            report["resources"] = counted(campaign.fault_trials(asked.kind, asked.command), "hit")
            print(f"faults done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for part, rows in report.items():
        for name, found in rows.items():
            print(part, name, found["cases"], len(found["violations"]))


if __name__ == "__main__":
    main()
