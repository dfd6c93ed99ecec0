"""The clients of the peers: C programs (load.h) that load a running server and say what it cost."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from servers import PEERS, ROOT, PeerError, Server, environment, libraries

PROGRAMS: Final = ROOT / "build" / "benchmarks" / "peers"
PATIENCE_S: Final = 60.0
FILL_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Load:
    """What a client does: `operation` read or write, `pattern` random or sequential, `depth` operations at a time."""

    operation: str
    pattern: str
    block_bytes: int
    depth: int

    @property
    def name(self) -> str:
        """For tables: 4K random read QD 32."""
        unit = "M" if self.block_bytes >= 1 << 20 else "K"
        size = self.block_bytes >> (20 if unit == "M" else 10)
        return f"{size}{unit} {self.pattern} {self.operation} QD {self.depth}"


@dataclass(frozen=True)
class Figures:
    """What one run found; CPU time is user and system time of client and server together."""

    name: str
    iops: float
    p50_us: float
    p99_us: float
    cpu_s_per_million: float


@dataclass(frozen=True)
class NotMeasured:
    """A peer that could not be measured, and why."""

    name: str
    why: str


def fill(server: Server, cpu: int | None = None) -> None:
    """Write every page of the disk once; nothing can be read before."""
    _run(server, ["--operation", "fill", "--block-bytes", str(FILL_BYTES), "--depth", "8"], 0.0, cpu)


def run(server: Server, load: Load, seconds: float, cpu: int | None = None, seed: int = 1) -> Figures:
    """Load a server whose disk is filled, from `cpu`. PeerError if anything is wrong, also with the data."""
    options = ["--operation", load.operation, "--pattern", load.pattern, "--block-bytes", str(load.block_bytes)]
    options += ["--depth", str(load.depth), "--seconds", str(seconds), "--seed", str(seed)]
    found = _run(server, options, seconds, cpu)
    cpu_s = found["client_cpu_s"] + found["server_cpu_s"]
    return Figures(server.peer.name, found["iops"], found["p50_us"], found["p99_us"], cpu_s / found["ios"] * 1e6)


def _run(server: Server, options: list[str], seconds: float, cpu: int | None) -> dict[str, Any]:
    command = [str(build(server.peer.client)), server.socket, "--export", server.export, *options]
    command += ["--server-pid", str(server.pid)]
    command += ["--poll"] if server.peer.polls else []
    command += [] if cpu is None else ["--cpu", str(cpu)]
    limit_s = seconds + PATIENCE_S
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise PeerError(f"the client did not end within {limit_s:.0f} seconds") from None
    if done.returncode:
        raise PeerError(done.stderr.strip() or f"the client ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@cache
def build(name: str) -> Path:
    """The client of that name, compiled if need be. PeerError if that fails."""
    folder = Path(__file__).resolve().parent
    sources = [folder / "load.c", folder / f"{name}.c"]
    newest = max(path.stat().st_mtime for path in [*sources, folder / "load.h"])
    program = PROGRAMS / name
    if not program.exists() or program.stat().st_mtime < newest:
        program.parent.mkdir(parents=True, exist_ok=True)
        compile_client(program, sources, ["-O2"])
    return program


def compile_client(program: Path, sources: list[Path], options: list[str]) -> None:
    """Compile a client, whose name decides what it is linked with, with further options. PeerError if that fails."""
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{PEERS / 'root/usr/include'}", *options]
    link = [flag for folder in libraries() for flag in (f"-L{folder}", f"-Wl,-rpath-link,{folder}")]
    link += ["-lnbd"] if program.name.startswith("nbd") else []
    command = [os.environ.get("CC", "cc"), *flags, "-o", str(program), *map(str, sources), *link]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{program.name} could not be compiled: {done.stderr.strip()}")
