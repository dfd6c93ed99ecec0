"""Structures that find a mapped page by its grant reference: the same operations on each, in turns, in one run.

    python benchmarks/grants/compare_trees.py [--rounds N] [--seconds S] [--seed N] [--entries N,N] [--json]

JSON: {"machine": {"cpus", "cpu", "compiler"}, "rounds", "seconds", "seed", "rows": [{"entries", "pattern", "operation",
"hash_ns", "radix_ns", "rbtree_ns", "radix_ratio", "rbtree_ratio"}], "memory": [{"entries", "pattern", "hash_bytes",
"radix_bytes", "rbtree_bytes"}]}. A figure with _ns holds {"median", "min", "max"} of the rounds, per operation. A ratio
is that structure's median / the hash's: above 1, the hash is faster. Bytes are the most of the rounds.
"""

import json
import os
import platform
import subprocess
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
from rich import box
from rich.table import Table
from rich.text import Text

from xenblk.harness import progress_bar
from xenblk.harness.report import print_table

ROOT: Final = Path(__file__).resolve().parents[2]
STRUCTURES: Final = ("hash", "radix", "rbtree")
OTHERS: Final = STRUCTURES[1:]
PATTERNS: Final = ("dense", "scattered", "sparse")
OPERATIONS: Final = ("hit", "miss", "churn", "walk")
ENTRIES: Final = "352,1056,4224,16896"
ENTRIES_MAX: Final = 32768
PATIENCE_S: Final = 60.0

Run = tuple[int, str]
Result = dict[str, Any]


def compiler() -> str:
    """What C is compiled with."""
    return os.environ.get("CC", "cc")


def build() -> Path:
    """The program that measures, compiled if need be."""
    folder = Path(__file__).parent
    sources = [*sorted(folder.glob("*.c")), ROOT / "grants" / "gref_map.c"]
    inputs = [*sources, *folder.glob("*.h"), *(ROOT / "grants").glob("gref_*.h")]
    program = ROOT / "build" / "benchmarks" / "gref_tree"
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in inputs):
        program.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", f"-I{ROOT}"]
        if subprocess.run([compiler(), *flags, "-o", program, *sources], check=False).returncode:
            raise click.ClickException(f"{folder / 'gref_tree.c'} could not be compiled")
    return program


def run_once(program: Path, structure: str, run: Run, seconds: float, seed: int) -> Result:
    """One run's line of JSON."""
    entries, pattern = run
    command = [str(program), structure, pattern, str(entries), str(seconds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * seconds + PATIENCE_S, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    result: Result = json.loads(done.stdout)
    return result


def measure(runs: list[Run], rounds: int, seconds: float, seed: int) -> dict[Run, dict[str, list[Result]]]:
    """All results, by entries and pattern, then by structure. Who goes first changes from round to round."""
    program = build()
    found: dict[Run, dict[str, list[Result]]] = {run: {name: [] for name in STRUCTURES} for run in runs}
    with progress_bar("structures for the gref map") as progress:
        for number in range(rounds):
            first = number % len(STRUCTURES)
            for i, run in enumerate(runs):
                for name in STRUCTURES[first:] + STRUCTURES[:first]:
                    found[run][name].append(run_once(program, name, run, seconds, seed + number))
                progress(number * len(runs) + i + 1, rounds * len(runs))
    return found


def rows(found: dict[Run, dict[str, list[Result]]]) -> list[Result]:
    """One per entries, pattern and operation, as the JSON has it."""
    made = []
    for (entries, pattern), by_name in found.items():
        for operation in OPERATIONS:
            row: Result = {"entries": entries, "pattern": pattern, "operation": operation}
            for name in STRUCTURES:
                values = [result[f"{operation}_ns"] for result in by_name[name]]
                row[f"{name}_ns"] = {"median": median(values), "min": min(values), "max": max(values)}
            for name in OTHERS:
                row[f"{name}_ratio"] = row[f"{name}_ns"]["median"] / row["hash_ns"]["median"]
            made.append(row)
    return made


def memory(found: dict[Run, dict[str, list[Result]]]) -> list[Result]:
    """What the structures took beside the entries."""
    return [
        {"entries": entries, "pattern": pattern}
        | {f"{name}_bytes": max(result["bytes"] for result in by_name[name]) for name in STRUCTURES}
        for (entries, pattern), by_name in found.items()
    ]


def table(found: dict[Run, dict[str, list[Result]]], caption: str) -> Table:
    """A row per entries, pattern and operation, and one for the memory."""
    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=Text(f"\n{caption}"), caption_justify="left"
    )
    made.add_column("operation", no_wrap=True)
    for header in ("entries", *STRUCTURES, *(f"{name} / hash" for name in OTHERS)):
        made.add_column(header, justify="right", no_wrap=True)
    for row in rows(found):
        made.add_row(
            f"{row['operation']}, {row['pattern']}, ns",
            str(row["entries"]),
            *(shown(row[f"{name}_ns"]) for name in STRUCTURES),
            *(f"{row[f'{name}_ratio']:.2f}" for name in OTHERS),
        )
    for row in memory(found):
        sizes = [row[f"{name}_bytes"] for name in STRUCTURES]
        made.add_row(
            f"memory, {row['pattern']}, KiB",
            str(row["entries"]),
            *(f"{size / 1024:,.0f}" for size in sizes),
            *(f"{size / sizes[0]:.2f}" for size in sizes[1:]),
        )
    return made


def shown(figure: Result) -> str:
    """The median, and in brackets how far the rounds are apart."""
    return f"{figure['median']:.1f} ({figure['min']:.1f}..{figure['max']:.1f})"


def machine() -> Result:
    """What the figures were taken on."""
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    models = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    cpu = models[0].strip() if models else platform.machine()
    return {"cpus": os.cpu_count(), "cpu": cpu, "compiler": version.splitlines()[0]}


def machine_text() -> str:
    """The same for people."""
    found = machine()
    return f"{found['cpu']}, {found['compiler']}"


def parse_entries(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    """The numbers of entries asked for, each once, the smallest first."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"numbers of entries are written 352,1056, not {text}") from None
    for number in numbers:
        if not 2 <= number <= ENTRIES_MAX:
            raise click.BadParameter(f"2 to {ENTRIES_MAX} entries can be measured, not {number}")
    return numbers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each case is run.")
@click.option("--seconds", type=click.FloatRange(0.0), default=0.05, show_default=True, help="Time of each operation.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the first round's references.")
@click.option("--entries", callback=parse_entries, default=ENTRIES, show_default=True, help="Numbers of entries.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def main(rounds: int, seconds: float, seed: int, entries: list[int], as_json: bool) -> None:
    """Structures that find a mapped page by its grant reference: the same operations, in turns."""
    found = measure([(number, pattern) for number in entries for pattern in PATTERNS], rounds, seconds, seed)
    if as_json:
        options = {"rounds": rounds, "seconds": seconds, "seed": seed}
        click.echo(
            json.dumps({"machine": machine(), **options, "rows": rows(found), "memory": memory(found)}, indent=2)
        )
        return
    caption = f"median (least..most) of {rounds} round(s) of {seconds:g} s, in turns; {machine_text()}"
    print_table(table(found, caption))


if __name__ == "__main__":
    main()
