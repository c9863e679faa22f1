"""The rules of a policy: each chooses versions to keep, by itself, whatever the other rules choose.

A version below the floor never displaces one at or above it. So each rule that counts does so twice: among all
versions, and among those at or above the floor; and keeps what either count finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from mlsync.errors import PolicyRefused

if TYPE_CHECKING:
    from mlsync.retention.facts import History, VersionFacts
from mlsync.retention.nearest_word import did_you_mean
from mlsync.values import COUNT_MAX

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Choice(msgspec.Struct, frozen=True):
    """What a rule keeps, the reason by the version's number, and how many versions it could choose from."""

    reasons: Mapping[int, str]
    seen_count: int


class Rule(Protocol):
    """A line of a policy; *text* is how it was written, with single blanks."""

    @property
    def text(self) -> str:
        """The line."""

    def choose(self, history: History) -> Choice:
        """Return what the rule keeps; raise ``PolicyRefused`` if what it asks for is not known of any version."""


class LastRule(msgspec.Struct, frozen=True):
    """The newest versions."""

    text: str
    count: int

    def choose(self, history: History) -> Choice:
        """Keep the newest of all, and the newest at or above the floor."""
        return _newest(self.text, history.versions, self.count, history)


class ResumableRule(msgspec.Struct, frozen=True):
    """The newest versions that training can resume from."""

    text: str
    count: int

    def choose(self, history: History) -> Choice:
        """Keep the newest of these, and the newest of them at or above the floor."""
        return _newest(self.text, [one for one in history.versions if one.is_resumable], self.count, history)


def _newest(text: str, versions: Sequence[VersionFacts], count: int, history: History) -> Choice:
    proved = [one for one in versions if history.is_proved(one)]
    kept = {one.number for one in (*versions[-count:], *proved[-count:])}
    return Choice(dict.fromkeys(kept, text), len(versions))


class BestRule(msgspec.Struct, frozen=True):
    """The versions with the best values of a number; *name* is as trainers or logs call it."""

    text: str
    count: int
    name: str
    is_max: bool

    def choose(self, history: History) -> Choice:
        """Keep the newest version of each of the best values, and all versions of which the value is not known.

        Versions of one value mostly hold one checkpoint, which was the best for a while.
        """
        values = {one.number: value for one in history.versions if (value := self._value(one)) is not None}
        if not values:
            raise _unknown_name(self.name, history, self.text)
        ranked = [one for one in history.versions if one.number in values]
        proved = [one for one in ranked if history.is_proved(one)]
        reasons = {one.number: f"{self.text}: not known" for one in history.versions if one.number not in values}
        for among in (ranked, proved):
            of_value: dict[float, VersionFacts] = {}
            for one in among:
                # Rising by number: the newest stays, unless an older one alone is proved.
                before = of_value.get(values[one.number])
                if before is None or history.is_proved(one) or not history.is_proved(before):
                    of_value[values[one.number]] = one
            for value in sorted(of_value, reverse=self.is_max)[: self.count]:
                reasons[of_value[value].number] = f"{self.text}: {value:g}"
        return Choice(reasons, len(history.versions))

    def _value(self, one: VersionFacts) -> float | None:
        found = [value for value in one.metrics.get(self.name, ()) if not math.isnan(value)]
        if not found:
            return None
        return max(found) if self.is_max else min(found)


def _unknown_name(name: str, history: History, text: str) -> PolicyRefused:
    known = sorted({known for one in history.versions for known in one.metrics})
    advice = did_you_mean(name, known)
    if advice is None:
        advice = f"known are: {', '.join(known)}" if known else "mlsync show lists what is known of each checkpoint"
    return PolicyRefused(f"no version of run {history.run!r} has a number called {name!r}", where=text, advice=advice)


class EveryRule(msgspec.Struct, frozen=True):
    """The versions nearest to the multiples of a number of epochs or steps; *unit* is "epoch" or "step"."""

    text: str
    interval: int
    unit: str

    def choose(self, history: History) -> Choice:
        """Keep one version for each multiple that a version is nearest to: at or above the floor, near, then new."""
        counts = {one.number: count for one in history.versions if (count := self._count(one)) is not None}
        if not counts:
            what = f"of no version of run {history.run!r} the {self.unit} is known"
            raise PolicyRefused(what, where=self.text)
        nearest: dict[int, VersionFacts] = {}
        for one in history.versions:
            if one.number in counts:
                multiple = self._multiple(counts[one.number])
                before = nearest.get(multiple)
                nearest[multiple] = one if before is None else max(before, one, key=self._rank(history, counts))
        reasons = {one.number: f"{self.text}: {multiple * self.interval}" for multiple, one in nearest.items()}
        return Choice(reasons, len(counts))

    def _count(self, one: VersionFacts) -> float | None:
        count = one.epoch if self.unit == "epoch" else one.step
        return count if count is not None and 0 <= count <= COUNT_MAX else None

    def _multiple(self, count: float) -> int:
        return int(count / self.interval + 0.5)

    def _rank(self, history: History, counts: Mapping[int, float]) -> Callable[[VersionFacts], tuple[bool, float, int]]:
        def rank(one: VersionFacts) -> tuple[bool, float, int]:
            count = counts[one.number]
            distance = abs(count - self._multiple(count) * self.interval)
            return history.is_proved(one), -distance, one.number

        return rank


class CalendarRule(msgspec.Struct, frozen=True):
    """A version of each of the newest hours, days, weeks, months or years that have one, in UTC."""

    text: str
    count: int
    period: str

    def choose(self, history: History) -> Choice:
        """Keep the newest version at or above the floor of each of these periods, or its newest if it has none."""
        proved = [one for one in history.dated if history.is_proved(one)]
        reasons: dict[int, str] = {}
        for among in (history.dated, proved):
            of_period: dict[str, VersionFacts] = {}
            for one in among:
                period = _PERIODS[self.period](_EPOCH + timedelta(microseconds=one.made_ns // 1000))
                before = of_period.get(period)
                if before is None or history.is_proved(one) or not history.is_proved(before):
                    of_period[period] = one
            for period in sorted(of_period, reverse=True)[: self.count]:
                reasons[of_period[period].number] = f"{self.text}: {period}"
        return Choice(reasons, len(history.dated))


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year:04d}-W{week:02d}"


# Each sorts as time passes.
_PERIODS: Final[Mapping[str, Callable[[datetime], str]]] = {
    "hourly": lambda moment: moment.strftime("%Y-%m-%d %H:00"),
    "daily": lambda moment: moment.strftime("%Y-%m-%d"),
    "weekly": _week,
    "monthly": lambda moment: moment.strftime("%Y-%m"),
    "yearly": lambda moment: moment.strftime("%Y"),
}
PERIODS: Final = tuple(_PERIODS)


class WithinRule(msgspec.Struct, frozen=True):
    """The versions of a length of time before the newest proved one: a run that stopped long ago loses none of them."""

    text: str
    seconds: int

    def choose(self, history: History) -> Choice:
        """Keep these versions."""
        anchor = history.newest_proved
        if anchor is None:
            return Choice({}, 0)
        first_ns = min(anchor.made_ns, history.now_ns) - self.seconds * 10**9
        kept = [one.number for one in history.dated if one.made_ns >= first_ns]
        return Choice(dict.fromkeys(kept, self.text), len(history.dated))


class PinnedRule(msgspec.Struct, frozen=True):
    """The versions that somebody pinned; these are kept without a rule, too."""

    text: str

    def choose(self, history: History) -> Choice:
        """Keep these versions."""
        kept = [one.number for one in history.versions if one.is_pinned]
        return Choice(dict.fromkeys(kept, self.text), len(kept))


class RegisteredRule(msgspec.Struct, frozen=True):
    """The versions that a registry of models points to."""

    text: str

    def choose(self, history: History) -> Choice:
        """Keep these versions; refuse if it is not known which they are, for then each may be one."""
        if any(one.is_registered is None for one in history.versions):
            what = "it is not known which versions a registry of models points to"
            advice = "mlsync pin N keeps a version; leave this rule out"
            raise PolicyRefused(what, where=self.text, advice=advice)
        kept = [one.number for one in history.versions if one.is_registered]
        return Choice(dict.fromkeys(kept, self.text), len(kept))


def thins_out(rules: Iterable[Rule]) -> bool:
    """Return whether rules keep single versions of those that were made one after the other."""
    return any(isinstance(rule, EveryRule | CalendarRule) for rule in rules)
