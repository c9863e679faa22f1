"""The status page: one HTML page with its styles and drawings in it, and without a script.

Names of runs, files and hosts are hostile text: everything goes through ``escape``, and the page's policy forbids all
scripts and everything from outside.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from mlsync.app.forecast import duration
from mlsync.app.wording import size
from mlsync.config.units import format_age
from mlsync.service.status import RunStatus
from mlsync.upkeep.version_seen import VersionSeen

HEADERS: Final = (
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
)
CONTENT_TYPE: Final = "text/html; charset=utf-8"
_MEASURED_MAX: Final = 4
_ROWS_MAX: Final = 25
_WIDTH, _HEIGHT, _EDGE = 640, 90, 6
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --back: #fafbfc; --card: #fff; --line: #d9dee3;
  --good: #1a7f37; --warn: #9a6700; --bad: #cf222e; --main: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --dim: #98a2ad; --back: #0e1116; --card: #161b22;
  --line: #30363d; --good: #3fb950; --warn: #d29922; --bad: #f85149; --main: #58a6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1060px; padding: 20px; background: var(--back); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 18px; margin: 0 0 2px; overflow-wrap: anywhere; }
p { margin: 0 0 6px; overflow-wrap: anywhere; } .dim { color: var(--dim); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px;
  margin-top: 18px; overflow-x: auto; }
dl { display: flex; flex-wrap: wrap; gap: 8px 30px; margin: 10px 0; } dt { color: var(--dim); font-size: 13px; }
dd { margin: 0; font-size: 18px; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th { text-align: right; color: var(--dim); font-weight: 500; border-bottom: 1px solid var(--line); }
td { text-align: right; border-bottom: 1px solid var(--line); } th, td { padding: 4px 8px; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } svg { width: 100%; height: auto; max-width: 660px; }
figure { margin: 10px 0; } figcaption { color: var(--dim); font-size: 13px; }
"""


def status_page(runs: Sequence[RunStatus], repository: str, host: str, now_s: float) -> bytes:
    """Return the page; it loads itself again every ten seconds."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now_s))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="10">',
        f"<title>mlsync on {escape(host)}</title><style>{_STYLE}</style></head><body>",
        f'<h1>mlsync on {escape(host)}</h1><p class="dim">{escape(repository)} · {escape(moment)}</p>',
        *(_run(run) for run in runs),
        "</body></html>",
    ]
    return "\n".join(parts).encode("utf-8", "replace")


def _run(run: RunStatus) -> str:
    versions = run.record.versions
    return "\n".join(
        [
            f"<section><h2>{escape(run.run)}</h2>",
            f'<p class="dim">{escape(str(run.directory).encode("utf-8", "replace").decode())}</p>',
            *(f'<p class="{kind}">{escape(text)}</p>' for kind, text in _news(run)),
            f"<dl>{_figures(run, versions)}</dl>",
            _drawing("bytes that a whole copy takes, and bytes stored (filled)", _sizes(versions)),
            _drawing("fitness", _line([one.fitness for one in versions])),
            *_measured(versions),
            _table(versions, run.now_s) if versions else "",
            "</section>",
        ]
    )


def _measured(versions: Sequence[VersionSeen]) -> Iterable[str]:
    """Yield a drawing of each number that was measured of most versions."""
    counts = Counter(name for one in versions for name in one.numbers)
    for name, _ in sorted(counts.most_common(_MEASURED_MAX)):
        yield _drawing(f"measured: {name}", _line([one.numbers.get(name) for one in versions]))


def _news(run: RunStatus) -> Iterable[tuple[str, str]]:
    """Yield what is worth a line, with how bad it is."""
    if run.is_silent:
        yield "bad", f"no progress for {duration(run.silent_s or 0.0)}"
    if run.state.last_error is not None:
        yield ("bad" if run.state.failures else "warn"), run.state.last_error
    if run.waits:
        yield "warn", f"waits for the {run.waits}"
    if run.no_checkpoint_s is not None:
        yield "warn", f"no new checkpoint for {duration(run.no_checkpoint_s)}"
    if run.record.measured is not None and run.record.measured.error:
        measured = run.record.measured
        yield "warn", f"version {measured.version} is not evaluated: {measured.error}"
    if run.hidden:
        yield "bad", f"later proofs are missing of version {', '.join(map(str, run.hidden))}"
    for trouble in run.state.troubles[:5]:
        yield "warn", trouble
    doing = run.heartbeat.doing
    if doing is not None and doing.what:
        left = "" if doing.left_s is None else f", about {duration(doing.left_s)} left"
        yield "dim", f"now: {doing.what}{left}"


def _figures(run: RunStatus, versions: Sequence[VersionSeen]) -> str:
    state = run.state
    is_proved = state.last_proved_version == state.last_version
    proved = "none" if state.last_version is None else f"{state.last_version}, {'proved' if is_proved else 'pending'}"
    age = "-" if state.last_version_s is None else format_age(run.now_s - state.last_version_s)
    risk = "not known" if run.unproved_s is None else _seconds(run.unproved_s)
    whole, stored = sum(one.size_bytes for one in versions), sum(one.stored_bytes for one in versions)
    saved = f"{100 * (1 - stored / whole):.0f} % of {size(whole)}" if whole else "-"
    shown = [
        ("last version", proved, "good" if is_proved and state.last_version else "warn"),
        ("made", age, ""),
        ("not yet proved elsewhere", risk, ""),
        *_far(run),
        ("newest checkpoint ahead of the stored one", _seconds(run.lag_s), ""),
        ("ahead of the proved one", _seconds(run.proof_lag_s), ""),
        (f"stored by {len(versions)} versions", size(stored), ""),
        ("saved against whole copies", saved, ""),
        ("phase", state.phase, "bad" if state.phase in ("retrying", "locked", "refused") else ""),
    ]
    return "".join(
        f'<div><dt>{escape(name)}</dt><dd class="{kind}">{escape(text)}</dd></div>' for name, text, kind in shown
    )


def _far(run: RunStatus) -> Iterable[tuple[str, str, str]]:
    """Yield what is not in a mirror yet, where that is what safe means."""
    if run.safe_in_mirror:
        text = "all of it" if run.unsafe_s is None else _seconds(run.unsafe_s)
        yield "not yet in a mirror", text, "warn" if run.unsafe_s is None else ""


def _seconds(seconds: float) -> str:
    return "none" if seconds < 1 else f"{seconds:.0f} s"


def _table(versions: Sequence[VersionSeen], now_s: float) -> str:
    heads = ("version", "made", "files", "size", "stored", "proof", "epoch", "fitness", "host")
    rows = "".join(_row(one, now_s) for one in reversed(versions[-_ROWS_MAX:]))
    return (
        f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(one: VersionSeen, now_s: float) -> str:
    if one.is_hidden:
        proof, kind = "hidden", "bad"
    elif one.broken_count:
        proof, kind = f"{one.broken_count} broken", "bad"
    elif one.level is None:
        proof, kind = "-", ""
    else:
        proof, kind = f"L{one.level}" + (" pending" if one.is_pending else ""), "warn" if one.is_pending else "good"
    texts = (
        str(one.version),
        format_age(now_s - one.made_s),
        str(one.file_count),
        size(one.size_bytes),
        size(one.stored_bytes),
        proof,
        "-" if one.epoch is None else f"{one.epoch:g}",
        "-" if one.fitness is None else f"{one.fitness:.4g}",
        one.host,
    )
    cells = "".join(
        f'<td class="{kind if number == 5 else ""}">{escape(text)}</td>'  # noqa: PLR2004 - the proof's column
        for number, text in enumerate(texts)
    )
    return f"<tr>{cells}</tr>"


def _drawing(about: str, shapes: str) -> str:
    if not shapes:
        return ""
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(about)}"'
    return f"<figure><figcaption>{escape(about)}</figcaption><svg {box}>{shapes}</svg></figure>"


def _sizes(versions: Sequence[VersionSeen]) -> str:
    """Return a bar for each version: the outline is a whole copy, what is filled was stored."""
    highest = max((max(one.size_bytes, one.stored_bytes) for one in versions), default=0)
    if not highest:
        return ""
    step = _WIDTH / max(len(versions), 12)
    bars = []
    for number, one in enumerate(versions):
        for amount, paint in (
            (one.size_bytes, 'fill="none" stroke="var(--line)"'),
            (one.stored_bytes, 'fill="var(--main)"'),
        ):
            height = amount / highest * (_HEIGHT - 2)
            place = f'x="{number * step + 1:.1f}" y="{_HEIGHT - height - 1:.1f}" width="{step * 0.8:.1f}"'
            bars.append(f'<rect {place} height="{height:.1f}" {paint}/>')
    return "".join(bars)


def _line(values: Sequence[float | None]) -> str:
    """Return a line through the values that are known; nothing for less than two."""
    known = [(number, value) for number, value in enumerate(values) if value is not None and abs(value) < 1e300]  # noqa: PLR2004 - no infinity
    if len(known) < 2:  # noqa: PLR2004 - two points make a line
        return ""
    lowest, highest = min(value for _, value in known), max(value for _, value in known)
    span, last = (highest - lowest) or 1.0, max(known[-1][0], 1)
    points = " ".join(
        f"{_EDGE + number / last * (_WIDTH - 2 * _EDGE):.1f},"
        f"{_HEIGHT - _EDGE - (value - lowest) / span * (_HEIGHT - 2 * _EDGE):.1f}"
        for number, value in known
    )
    return f'<polyline points="{points}" fill="none" stroke="var(--main)" stroke-width="2"/>'
