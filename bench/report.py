"""What all benchmarks share in telling: where and with what they ran, their tables, their files of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
CPU_FLAGS = ("sha_ni", "aes", "vaes", "avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sha2", "sve")
KERNEL_MEMORY = Path("/proc/meminfo")
KERNEL_CPU = Path("/proc/cpuinfo")


def parser(documentation: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark takes."""
    result = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; no results are written"
    )
    result.add_argument("--directory", type=Path, default=None, help="where to work; default: the temporary directory")
    result.add_argument("--results", type=Path, default=None, help=f"where results go; default: {RESULTS.name}/ here")
    return result


def write(name: str, result: Mapping[str, object], arguments: argparse.Namespace) -> None:
    """Write results/<name>.json; a quick run writes only where it was told to, lest its figures be taken for real."""
    directory = arguments.results or (None if arguments.quick else RESULTS)
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    whole = {"date": datetime.now(UTC).date().isoformat(), "quick": arguments.quick, "machine": machine(), **result}
    (directory / f"{name}.json").write_text(json.dumps(whole, indent=2) + "\n")


def machine() -> dict[str, object]:
    facts = dict(line.split(":", 1) for line in KERNEL_CPU.read_text().split("\n\n")[0].splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "cores": os.cpu_count(),
        "processor": facts.get("model name", platform.machine()),
        "processor_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "memory_gib": round(memory_bytes("MemTotal") / 2**30, 1),
        "kernel": f"Linux {platform.release()}",
        "python": platform.python_version(),
    }


def memory_bytes(name: str) -> int:
    line = next(line for line in KERNEL_MEMORY.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def spread(values: Iterable[float]) -> dict[str, float]:
    """The median, and the least and most that it comes from."""
    values = list(values)
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    cells = [list(columns), *([shown(value) for value in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        head, *rest = zip(row, widths, strict=True)
        print("  ".join([head[0].ljust(head[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def ratio(value: float | None, of: float | None) -> float | None:
    return round(value / of, 3) if value is not None and of else None
