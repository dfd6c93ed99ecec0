"""Experiments: seeded workloads, the model disk that checks them, exact latencies, and tables of what they cost."""

from xenblk.harness.bench import run_job
from xenblk.harness.frontend import Bio, Frontend
from xenblk.harness.oracle import VerifyError
from xenblk.harness.progress import progress_bar
from xenblk.harness.result import BenchResult
from xenblk.harness.workload import Job

__all__ = ["BenchResult", "Bio", "Frontend", "Job", "VerifyError", "progress_bar", "run_job"]
