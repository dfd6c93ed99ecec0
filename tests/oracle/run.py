"""Our xenstored against the real one: scripts of consecutive seeds, each in two fresh worlds, until there were enough.

    python tests/oracle/run.py [--steps N] [--seed S] [--steps-per-duel N] [--replay S]

Ends with 0 if every answer and every event was the same, with 1 at the first difference, after the shortest script that
shows it, with 2 where the real daemon is lacking, and with 130 after Ctrl-C, with the report so far.
"""

import itertools
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

import click
from rich import box
from rich.table import Table

from xenblk.harness import progress_bar
from xenblk.harness.report import print_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracle.daemon import lacking
from oracle.differences import EXPLAINED
from oracle.duel import DifferenceError, duel
from oracle.shrink import shrink
from oracle.tally import Tally

WHO = ("domain 0", "guest")


class Run:
    """Duels of some seeds, and what came of them."""

    def __init__(self, steps_per_duel: int) -> None:
        self.steps_per_duel = steps_per_duel
        self.tally = Tally()
        self.seeds: list[int] = []
        self.interrupted = False
        self._began_s = time.monotonic()

    def until(self, nr_steps: int, seeds: Iterable[int]) -> str | None:
        """Duels until so many steps were compared, or until Ctrl-C. A difference, in words, ends it."""
        try:
            with progress_bar("xenstored, ours against the real one") as progress:
                for seed in seeds:
                    progress(self.tally.steps, nr_steps)
                    if self.tally.steps >= nr_steps:
                        break
                    if difference := self._duel(seed):
                        return difference
        except KeyboardInterrupt:
            self.interrupted = True
        return None

    def _duel(self, seed: int) -> str | None:
        self.seeds.append(seed)
        with duel(self.tally) as both:
            try:
                both.run(Random(seed), self.steps_per_duel)
                return None
            except DifferenceError as e:
                found = e
        click.echo(f"seed {seed}: a difference after {len(both.done)} steps; looking for a shorter script", err=True)
        return f"seed {seed}, the shortest script found:\n\n{shrink(both.done, found)}"

    def summary(self) -> str:
        """What was done, without the stop at the end."""
        tally, duration_s = self.tally, time.monotonic() - self._began_s
        seeds = " to ".join(str(seed) for seed in sorted({*self.seeds[:1], *self.seeds[-1:]}))
        answers, events = tally.answers.total(), tally.events.total()
        compared = f"{answers:,} answers and {events:,} events compared in {duration_s:.0f} s"
        return f"{tally.steps:,} steps of seed {seeds}: {compared}"


def answers_table(tally: Tally) -> Table:
    """How often each request was made, and how it was answered."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.add_column("request", no_wrap=True)
    for who in WHO:
        made.add_column(f"from {who}", justify="right", no_wrap=True)
    made.add_column("OK", justify="right", no_wrap=True)
    made.add_column("refused")
    for kind in sorted({kind for kind, _, _ in tally.answers}):
        made.add_row(*_row(kind, tally))
    return made


def _row(kind: str, tally: Tally) -> list[str]:
    by_who, outcomes = Counter[str](), Counter[str]()
    for (other, who, outcome), count in tally.answers.items():
        if other == kind:
            by_who[who] += count
            outcomes[outcome] += count
    ok = outcomes.pop("OK", 0)
    refused = ", ".join(f"{name} {count:,}" for name, count in outcomes.most_common())
    return [kind, *(f"{by_who[who]:,}" for who in WHO), f"{ok:,}", refused]


def other_table(tally: Tally) -> Table:
    """How many events came, and what befell connections and domains."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.add_column("also")
    made.add_column("times", justify="right", no_wrap=True)
    for (who, sort), count in sorted(tally.events.items()):
        made.add_row(f"events {sort}, to {who}", f"{count:,}")
    for what, count in sorted(tally.befallen.items()):
        made.add_row(what, f"{count:,}")
    return made


def report(run: Run) -> None:
    """What was compared, and what was met."""
    print_table(answers_table(run.tally))
    click.echo()
    print_table(other_table(run.tally))
    click.echo("\nintended differences")
    for i, row in enumerate(EXPLAINED):
        text = f"{run.tally.explained[i]:,} times: {row.reason}"
        click.echo(textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="    "))
    click.echo(f"\n{run.summary()}{', then interrupted' if run.interrupted else ''}.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--steps", type=click.IntRange(1), default=1_000_000, show_default=True, help="Compare at least so many.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Begin with this one.")
@click.option("--steps-per-duel", type=click.IntRange(1), default=500, show_default=True, help="Length of a script.")
@click.option("--replay", type=click.IntRange(0), metavar="SEED", help="The script of this seed only.")
def main(steps: int, seed: int, steps_per_duel: int, replay: int | None) -> None:
    """Compare our xenstored with the real one, answer by answer and event by event."""
    if reason := lacking():
        click.echo(reason, err=True)
        raise SystemExit(2)
    run = Run(steps_per_duel)
    difference = run.until(steps, itertools.count(seed) if replay is None else [replay])
    if difference:
        click.echo(f"{difference}\n\n{run.summary()}.")
        raise SystemExit(1)
    report(run)
    if run.interrupted:
        raise SystemExit(130)


if __name__ == "__main__":
    main()
