"""The curves of scale.py as a picture."""

from pathlib import Path
from typing import Any

import click


def check() -> None:
    """ClickException if matplotlib is not installed, before anybody waits for figures."""
    try:
        import matplotlib  # noqa: F401, PLC0415
    except ImportError:
        raise click.ClickException("a plot needs matplotlib, which is not installed: pip install -e .[plot]") from None


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """A panel per measure, with a line per daemon and one of what may be, both axes logarithmic."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    measures = list(dict.fromkeys(row["measure"] for row in rows))
    figure, panels = pyplot.subplots(1, len(measures), figsize=(4 * len(measures), 4), squeeze=False)
    for panel, measure in zip(panels[0], measures, strict=True):
        group = [row for row in rows if row["measure"] == measure]
        for name in ("ours", "real"):
            panel.loglog([row["domains"] for row in group], [row[f"{name}_s"] for row in group], "o-", label=name)
        bound = [row["ours_s"] / row["ours_growth"] for row in group]
        panel.loglog([row["domains"] for row in group], bound, "k:", label="n log n, from ours")
        panel.set(title=measure.replace("_", "-"), xlabel="domains", ylabel="seconds")
        panel.legend()
    figure.tight_layout()
    figure.savefig(file, format="png", dpi=120)
