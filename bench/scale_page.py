"""The tables of docs/scale.md, from results/scale.json: each lies between two comments of the page that name it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scale_prices import PROVIDERS, TEAMS, Sizes, Team, month, sizes_in

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
_BLOCK = re.compile(r"(<!-- scale: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# A column for saves that are stored as differences, once there are figures: the share of the bytes that is stored.
DIFFERENCES: float | None = None

ONE_RUN = {
    "backup, a new save": "backup of a new save",
    "backup, relies on 13 packs": "backup that relies on 13 older packs",
    "backup, nothing new": "backup with nothing new",
    "maintenance, an hour": "an hour's share of `scrub`, without its reading",
    "restore, newest": "restore of the newest version",
    "copy, nothing new": "`mlsync copy` with nothing new",
    "versions RUN": "`mlsync versions RUN`",
    "prove --pending": "`mlsync prove --pending`",
    "forget": "`mlsync forget`",
    "prune, nothing due": "`mlsync prune`",
    "check": "`mlsync check`",
    "repair --dry-run": "`mlsync repair --dry-run`",
}
MANY_RUNS = {
    "status --fleet": "`mlsync status --fleet`",
    "prove --pending": "`mlsync prove --pending`",
    "forget": "`mlsync forget`",
    "prune, nothing due": "`mlsync prune`, nothing due",
    "prune, removes and marks": "`mlsync prune` that removes half",
    "copy, nothing new": "`mlsync copy`, nothing new",
    "check": "`mlsync check`",
    "repair --dry-run": "`mlsync repair --dry-run`",
}


def written(text: str, result: Mapping[str, Any]) -> str:
    """Return the page with its tables made anew."""
    tables = {
        "one run": one_run(result["one_run"]),
        "many runs": many_runs(result["many_runs"]),
        "prices": prices(),
        "months": months(sizes_in(result)),
        "providers": providers(sizes_in(result)),
    }
    return _BLOCK.sub(lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}", text)


def one_run(histories: Mapping[str, Any]) -> str:
    """What commands cost by the versions of one run: the two longest histories."""
    counts = sorted(map(int, histories))[-2:]
    heads = [f"{count:,} versions" for count in counts]
    rows = [
        [text, *(_asked(histories[str(count)][name]) for count in counts), _usd(histories[str(counts[-1])][name])]
        for name, text in ONE_RUN.items()
    ]
    return table(["command", *heads, "dollars"], rows)


def many_runs(histories: Mapping[str, Any]) -> str:
    """What commands cost that go through all runs."""
    ((count, costs),) = histories.items()
    rows = [[text, _asked(costs[name]), _usd(costs[name])] for name, text in MANY_RUNS.items()]
    return table(["command", f"{int(count):,} runs of ten versions", "dollars"], rows)


def prices() -> str:
    """What providers charge."""
    heads = (
        "provider",
        "1,000 PUT",
        "1,000 LIST",
        "1,000 GET",
        "GB a month",
        "GB to internet",
        "GB to a region",
        "from",
    )
    rows = []
    for one in PROVIDERS:
        amounts = (one.put, one.list, one.get, one.month, one.internet, one.region)
        rows.append([one.name, *(f"${amount:g}" for amount in amounts), f"{one.source} ({one.read})"])
    return table(heads, rows)


def months(sizes: Sizes) -> str:
    """What teams pay at the first provider."""
    found = [(team, month(team, PROVIDERS[0], sizes)) for team in TEAMS]
    rows = [
        ["new versions, and size of each", *(f"{team.versions:,} of {_gb(team.gb)}" for team in TEAMS)],
        ["requests", *(dollars(one.requests) for _, one in found)],
        ["storage that one month adds if all stay", *(_stored(t, t.versions, one.added) for t, one in found)],
        ["storage if 50 of each run stay", *(_stored(t, t.kept, one.kept) for t, one in found)],
        ["… and with the grace", *(_stored(t, t.kept_with_grace, one.kept_with_grace) for t, one in found)],
        ["**a month: requests, and what stays with the grace**", *(dollars(one.total) for _, one in found)],
        ["a mirror in another region: traffic", *(dollars(one.mirror_traffic) for _, one in found)],
        ["**a month with that mirror**", *(dollars(one.total_with_mirror) for _, one in found)],
        ["reading back to a node outside, if it does", *(dollars(one.read_back_outside) for _, one in found)],
        ["a month with differences between versions", *(_with_differences(team, sizes) for team in TEAMS)],
    ]
    return table(["", *(team.name for team in TEAMS)], rows)


def providers(sizes: Sizes) -> str:
    """What teams pay a month at each provider, with retention and its grace, and with a mirror at the same one."""
    rows = []
    for one in PROVIDERS:
        found = [month(team, one, sizes) for team in TEAMS]
        rows.append([one.name, *(f"{dollars(m.total)}; {dollars(m.total_with_mirror)}" for m in found)])
    return table(["provider", *(team.name for team in TEAMS)], rows)


def _stored(team: Team, count: int, usd: float) -> str:
    return f"{_gb(count * team.gb)}, {dollars(usd)}"


def _with_differences(team: Team, sizes: Sizes) -> str:
    return "not measured" if DIFFERENCES is None else dollars(month(team, PROVIDERS[0], sizes, DIFFERENCES).total)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def dollars(amount: float) -> str:
    """An amount as people say it: three digits of it."""
    if amount < 0.005:
        return "under $0.01" if amount else "$0"
    if amount < 100:
        return f"${amount:,.2f}"
    digits = len(str(int(amount))) - 3
    return f"${round(amount / 10**digits) * 10**digits:,}"


def _asked(costs: Mapping[str, float]) -> str:
    count = sum(costs[kind] for kind in ("put", "list", "get", "delete"))
    other = costs.get("at_the_mirror")
    if other:
        count += sum(other[kind] for kind in ("put", "list", "get", "delete"))
    seconds = costs["store_s"] + (other["store_s"] if other else 0)
    return f"{count:,}, {seconds:,.0f} s" if seconds >= 10 else f"{count:,}, {seconds:.1f} s"


def _usd(costs: Mapping[str, float]) -> str:
    amount = PROVIDERS[0].requests_usd(costs)
    if "at_the_mirror" in costs:
        amount += PROVIDERS[0].requests_usd(costs["at_the_mirror"])
    if amount < 0.0001:
        return "under $0.0001"
    return f"${amount:.4f}" if amount < 0.1 else dollars(amount)


def _gb(amount: float) -> str:
    if amount < 1:
        return f"{amount * 1000:g} MB"
    return f"{amount / 1000:,.0f} TB" if amount >= 1000 else f"{amount:g} GB"
