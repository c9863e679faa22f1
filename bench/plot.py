"""Draws results/size.json: per series, what each tool added per version and how long it took.

python bench/plot.py results/size.json results/size.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

# mlsync stands out, its peers are told apart by hue; colours that differ also for the colour-blind (Okabe and Ito).
STYLES = {
    "mlsync": {"color": "#000000", "linewidth": 2.2, "marker": "o", "zorder": 5},
    "mlsync no device proof": {"color": "#000000", "linewidth": 1.2, "linestyle": ":", "zorder": 4},
    "mlsync whole": {"color": "#56B4E9", "linewidth": 1.2, "zorder": 4},
    "restic": {"color": "#D55E00", "marker": "s"},
    "restic max": {"color": "#E69F00", "marker": "D"},
    "borg": {"color": "#0072B2", "marker": "^"},
    "rclone crypt": {"color": "#009E73", "linestyle": "--"},
    "rsync -a": {"color": "#CC79A7", "linestyle": "--"},
    "cp -a": {"color": "#999999", "linestyle": "--"},
}
MEGABYTE = 1e6


def draw_size(source: Path, target: Path) -> None:
    result = json.loads(source.read_text())
    kept = [name for name, keeps in result["keeps_versions"].items() if keeps]
    figure, axes = plt.subplots(
        2, len(result["series"]), figsize=(3.1 * len(result["series"]) + 0.6, 6.4), squeeze=False, sharex="col"
    )
    for column, (name, series) in enumerate(result["series"].items()):
        bytes_axis, seconds_axis = axes[:, column]
        bytes_axis.set_title(name)
        # All write the same first version; the tools without versions would only raise the scale here.
        lines(bytes_axis, series["versions"], [tool for tool in kept if tool != "mlsync no device proof"], megabytes)
        lines(seconds_axis, series["versions"], list(result["keeps_versions"]), seconds)
        seconds_axis.set_xlabel("version")
    axes[0, 0].set_ylabel("MB added to the repository")
    axes[1, 0].set_ylabel("seconds")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(target, dpi=130)
    plt.close(figure)


def lines(axis, versions: list[dict], tools: list[str], value) -> None:
    numbers = range(1, len(versions) + 1)
    for tool in tools:
        style = {"markersize": 3.5, "linewidth": 1.4} | STYLES[tool]
        axis.plot(numbers, [value(version[tool]) for version in versions], label=tool, **style)
    axis.set_ylim(bottom=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def megabytes(run: dict) -> float:
    return run["added_bytes"] / MEGABYTE


def seconds(run: dict) -> float:
    return run["wall_s"]


if __name__ == "__main__":
    draw_size(Path(sys.argv[1]), Path(sys.argv[2]))
