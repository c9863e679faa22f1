"""What each rule keeps, and what a version below the floor cannot do to the others."""

import pytest
from history_parts import DAY_NS, applied, kept, made, reasons

from mlsync.errors import PolicyRefused

# The newest version stands beside what a rule keeps: no policy removes it.
TEN = [made(number, number) for number in range(1, 11)]


def test_last_keeps_the_newest():
    """Of ten versions, last 3 keeps the newest three."""
    assert kept(["last 3"], TEN) == [8, 9, 10]


def test_last_counts_those_at_the_floor_by_themselves():
    """Five useless versions in a row take the place of no proved one: both kinds are counted."""
    versions = [*TEN, *(made(number, number, level=0) for number in range(11, 16))]
    assert kept(["last 3"], versions) == [8, 9, 10, 13, 14, 15]


def test_broken_versions_displace_none():
    """A version with a broken checkpoint is as one below the floor, whatever level the others reached."""
    versions = [*TEN, *(made(number, number, is_broken=True) for number in range(11, 16))]
    assert kept(["last 1"], versions) == [10, 15]


def test_resumable_keeps_the_newest_of_these():
    """Versions for inference alone are passed over."""
    versions = [made(number, number, is_resumable=number < 8 and number % 2 == 0) for number in range(1, 11)]
    assert kept(["resumable 2"], versions) == [4, 6, 10]


def test_resumable_counts_those_at_the_floor_by_themselves():
    """A resumable version below the floor displaces none at the floor."""
    versions = [*TEN, *(made(number, number, is_resumable=True, level=1) for number in (11, 12))]
    versions[4] = made(5, 5, is_resumable=True)
    assert kept(["resumable 1"], versions) == [5, 10, 12]


def scored(values, **more):
    """Versions with these values of fitness, ``None`` for one that has none."""
    return [
        made(number, number, metrics={} if value is None else {"fitness": (value,)}, **more)
        for number, value in enumerate(values, 1)
    ]


def test_best_keeps_the_highest_values():
    """Without a word for it, more is better."""
    assert kept(["best 2 by fitness"], scored([1, 5, 3, 4, 2])) == [2, 4, 5]


def test_best_min_keeps_the_lowest_values():
    """With min, less is better."""
    assert kept(["best 2 by fitness min"], scored([3, 1, 2, 4, 5])) == [2, 3, 5]


def test_best_keeps_the_newest_of_equals():
    """A best value that stays for ten versions is one checkpoint: it does not use the count up."""
    assert kept(["best 2 by fitness"], scored([4, 5, 5, 5, 5, 1])) == [1, 5, 6]


def test_best_keeps_versions_without_the_value():
    """Nobody knows whether they are better."""
    evaluation = applied(["best 1 by fitness"], scored([None, 2, 1, None, 1]))
    assert reasons(evaluation)[1] == ("best 1 by fitness: not known",)
    assert [one.version.number for one in evaluation.judged if one.is_kept] == [1, 2, 4, 5]


def test_best_takes_nan_for_no_value():
    """A training that diverged has no value that could be compared; its versions are kept for a look."""
    assert kept(["best 1 by fitness"], scored([float("nan"), 2, 1, 0])) == [1, 2, 4]


def test_best_takes_the_best_checkpoint_of_a_version():
    """Of several checkpoints in a version, the best one counts."""
    versions = scored([5, 1, 1])
    versions[1] = made(2, 2, metrics={"fitness": (0, 9)})
    assert kept(["best 1 by fitness max"], versions) == [2, 3]
    assert kept(["best 1 by fitness min"], versions) == [2, 3]


def test_best_counts_those_at_the_floor_by_themselves():
    """Whoever writes a useless version with a dreamt-up value displaces no proved one."""
    versions = scored([5, 4, 3])
    versions += [made(4, 4, level=0, metrics={"fitness": (99,)}), made(5, 5, level=0, metrics={"fitness": (98,)})]
    assert kept(["best 1 by fitness"], versions) == [1, 3, 4, 5]


def test_of_equals_the_proved_one_is_the_best():
    """A newer version below the floor does not take the place of a proved one with the same value."""
    versions = [*scored([5, 1]), made(3, 3, level=0, metrics={"fitness": (5,)}), *scored([0, 0, 0, 0])[3:]]
    assert 1 in kept(["best 1 by fitness"], versions)


def test_a_value_that_no_version_has_is_refused():
    """A mistyped name would otherwise keep all, or nothing; the names that there are help."""
    with pytest.raises(PolicyRefused, match=r"a number called 'fitnes': best 1 by fitnes \(did you mean fitness\?\)"):
        applied(["best 1 by fitnes"], scored([1, 2]))
    with pytest.raises(PolicyRefused, match="known are: fitness"):
        applied(["best 1 by zzz"], scored([1, 2]))
    with pytest.raises(PolicyRefused, match="mlsync show"):
        applied(["best 1 by zzz"], TEN)


def test_every_keeps_the_nearest_to_each_multiple():
    """Of the epochs around each multiple one is kept: the nearest."""
    versions = [made(number, number, epoch=epoch) for number, epoch in enumerate([0, 4, 6, 9, 12, 16, 21, 29, 31], 1)]
    assert kept(["every 10 epochs"], versions) == [1, 4, 7, 9]


def test_every_counts_steps_too():
    """Steps are counted like epochs."""
    versions = [made(number, number, step=100 * number) for number in range(1, 11)]
    assert kept(["every 500 steps"], versions) == [1, 5, 10]


def test_every_prefers_those_at_the_floor():
    """A nearer version below the floor does not displace a proved one."""
    versions = [made(1, 1, epoch=8), made(2, 2, epoch=10, level=0), made(3, 3, epoch=30)]
    assert kept(["every 10 epochs"], versions) == [1, 3]


def test_of_equals_every_keeps_the_newest():
    """A training that began again has each epoch twice: the newer counts."""
    versions = [made(number, number, epoch=epoch) for number, epoch in enumerate([10, 20, 10, 20, 21], 1)]
    assert kept(["every 10 epochs"], versions) == [3, 4, 5]


@pytest.mark.parametrize("count", [-1, float("nan"), float("inf"), 1e300, None])
def test_every_leaves_out_counts_that_are_none(count):
    """An epoch that is none (Ultralytics writes -1 when training ends) is near to no multiple."""
    versions = [made(1, 1, epoch=10), made(2, 2, epoch=count), made(3, 3, epoch=30)]
    assert kept(["every 10 epochs"], versions) == [1, 3]
    with pytest.raises(PolicyRefused, match="of no version of run 'yolo' the epoch is known: every 10 epochs"):
        applied(["every 10 epochs"], versions[1:2])


def test_a_day_keeps_its_newest():
    """Of several versions of one day the newest is kept, of each of the newest days that have one."""
    versions = [made(number, number / 4) for number in range(1, 13)]
    assert kept(["daily 2"], versions) == [11, 12]
    assert kept(["daily 3"], versions) == [7, 11, 12]
    assert kept(["daily 9"], versions) == [3, 7, 11, 12]


def test_days_without_a_version_do_not_count():
    """A run that rested for a month has its days from before and after."""
    versions = [made(1, 0), made(2, 1), made(3, 2), made(4, 40)]
    assert kept(["daily 3"], versions) == [2, 3, 4]


@pytest.mark.parametrize(
    ("rule", "days", "expected"),
    [
        ("hourly 2", [0, 0.01, 0.05, 0.06, 0.1], [4, 5]),
        ("weekly 2", [0, 6.9, 7, 8, 13.9, 14], [5, 6]),
        ("monthly 2", [0, 25, 27, 28, 54, 55], [5, 6]),
        ("yearly 2", [0, 359, 361, 730], [3, 4]),
    ],
)
def test_periods_are_those_of_the_calendar(rule, days, expected):
    """Hours, weeks from Monday on, months and years, in UTC."""
    versions = [made(number, day) for number, day in enumerate(days, 1)]
    assert kept([rule], versions) == expected


def test_a_week_belongs_to_one_year():
    """The days around New Year are in one week, and are not two."""
    new_year = 361  # 2027-01-01, a Friday
    versions = [made(1, new_year - 2), made(2, new_year + 1), made(3, new_year + 9)]
    assert kept(["weekly 5"], versions) == [2, 3]


def test_a_useless_newer_version_of_a_week_displaces_none():
    """Whoever adds an empty version at the end of each week removes nothing by it."""
    good = [made(2 * week, 7 * week + 3) for week in range(1, 9)]
    useless = [made(2 * week + 1, 7 * week + 6, level=0) for week in range(1, 9)]
    assert kept(["weekly 8"], good + useless) == [*(2 * week for week in range(1, 9)), 17]


def test_useless_versions_use_no_days_up():
    """A node that makes a useless version on each of many days pushes no good day out of the count."""
    good = [made(number, number) for number in range(1, 6)]
    useless = [made(number, number, level=0) for number in range(6, 30)]
    assert kept(["daily 5"], good + useless) == [1, 2, 3, 4, 5, 25, 26, 27, 28, 29]


def test_a_version_below_the_floor_is_kept_where_there_is_no_other():
    """A period has its newest version, even if none of it reached the floor."""
    versions = [made(number, number, level=1) for number in range(1, 6)]
    assert kept(["daily 3"], versions) == [3, 4, 5]


def test_within_counts_from_the_newest_proved_version():
    """A run that stopped two years ago loses nothing of its last three days."""
    versions = [made(number, number) for number in range(1, 11)]
    assert kept(["within 3d"], versions, now_day=900) == [7, 8, 9, 10]


def test_within_does_not_count_from_a_useless_version():
    """A version below the floor that comes months later moves nothing."""
    versions = [*(made(number, number) for number in range(1, 6)), made(6, 200, level=0)]
    assert kept(["within 2d"], versions) == [3, 4, 5, 6]


def test_a_wrong_clock_moves_no_rule_of_time():
    """A version of the year 2036 is kept and named, is in no period, and nothing counts from it."""
    versions = [*(made(number, number) for number in range(1, 6)), made(6, 3650), made(7, 6)]
    evaluation = applied(["daily 2", "within 1d"], versions, now_day=30)
    assert reasons(evaluation)[6] == ("dated in the future",)
    assert [one.version.number for one in evaluation.judged if one.is_kept] == [5, 6, 7]


def test_within_survives_a_newest_version_of_the_future():
    """Where the newest proved version itself has a wrong date, the days before now are kept."""
    versions = [*(made(number, number) for number in range(1, 6)), made(6, 3650)]
    assert kept(["within 3d"], versions, now_day=6) == [3, 4, 5, 6]


def test_registered_keeps_what_a_registry_points_to():
    """Where it is known which versions are registered, these are kept."""
    versions = [made(number, number, is_registered=number == 2) for number in range(1, 4)]
    assert kept(["registered"], versions) == [2, 3]


def test_registered_is_refused_where_nothing_is_known():
    """Each version may be a registered one, so none is removed."""
    with pytest.raises(PolicyRefused, match="not known which versions a registry"):
        applied(["last 1", "registered"], TEN)


def test_each_rule_says_how_many_it_saw():
    """A rule that saw fewer versions than somebody expects is a mistake that can be seen."""
    versions = [made(number, number, is_resumable=number < 4, is_pinned=number == 1) for number in range(1, 6)]
    versions.append(made(6, 5000))
    evaluation = applied(["last 2", "resumable 2", "daily 2", "pinned"], versions)
    assert [(rule.text, rule.seen_count, rule.kept_count) for rule in evaluation.rules] == [
        ("last 2", 6, 2),
        ("resumable 2", 3, 2),
        ("daily 2", 5, 2),
        ("pinned", 1, 1),
    ]


def test_dates_at_their_bounds_are_dates():
    """The earliest date that a manifest can have is a day like another."""
    versions = [made(1, 0), made(2, 1)]
    oldest = made(0, -(1 << 63) / DAY_NS - 20_458)
    assert kept(["yearly 3"], [oldest, *versions]) == [0, 2]
