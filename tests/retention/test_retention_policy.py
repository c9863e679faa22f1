"""A whole policy: rules together, what no policy removes, and what always holds."""

import dataclasses
import random

import pytest
from history_parts import DAY_NS, HOUR_NS, START_NS, applied, kept, made, reasons
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlsync.errors import PolicyRefused, RemovalRefused
from mlsync.retention.facts import VersionFacts
from mlsync.retention.grammar import parse_rules
from mlsync.retention.limit import RemovalLimit, parse_limit, refuse_too_many
from mlsync.retention.policy import KeepPolicy, evaluate

TEN = [made(number, number) for number in range(1, 11)]

# ---------------------------------------------------------------- examples


def test_rules_add_up():
    """Each version that any rule keeps is kept, with the reasons of all of them."""
    evaluation = applied(["last 2", "daily 3"], TEN)
    assert reasons(evaluation) == {
        **dict.fromkeys(range(1, 8), ()),
        8: ("daily 3: 2026-01-13",),
        9: ("last 2", "daily 3: 2026-01-14"),
        10: ("newest", "newest proved", "last 2", "daily 3: 2026-01-15"),
    }
    assert evaluation.removed == (1, 2, 3, 4, 5, 6, 7)
    assert evaluation.policy_text == "last 2, daily 3"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"is_best": True}, "best"),
        ({"is_pinned": True}, "pinned"),
        ({"is_registered": True}, "registered"),
        ({"is_resumable": True}, "newest resumable"),
    ],
)
def test_no_policy_removes_these(more, reason):
    """The best, pinned and registered ones and the newest resumable one stay under any policy."""
    versions = [dataclasses.replace(one, **more) if one.number == 3 else one for one in TEN]
    assert reasons(applied(["last 1"], versions))[3] == (reason,)


def test_the_newest_and_the_newest_proved_stay():
    """They may be two versions."""
    versions = [*TEN, made(11, 11, level=0)]
    evaluation = applied(["registered"], [dataclasses.replace(one, is_registered=False) for one in versions])
    assert {number: why for number, why in reasons(evaluation).items() if why} == {
        10: ("newest proved",),
        11: ("newest",),
    }


def test_the_newest_that_is_proved_as_required_stays_beside_that_at_the_floor():
    """A floor above what was required does not make what was required worthless."""
    versions = [made(1, 1, level=4), made(2, 2, is_as_required=True), made(3, 3, level=0), made(4, 4, level=0)]
    assert kept(["last 1"], versions, floor=4) == [1, 2, 4]


def test_the_newest_resumable_at_the_floor_stays_beside_a_newer_one_below():
    """A resumable version below the floor does not displace a proved one here either."""
    versions = [made(1, 1, is_resumable=True), made(2, 2, is_resumable=True, level=0), made(3, 3)]
    assert kept(["last 1"], versions) == [1, 2, 3]


def test_the_newest_sound_one_stays_where_none_is_proved():
    """In a run below the floor, the newest version without a broken checkpoint counts as the newest proved."""
    versions = [made(1, 1, level=0), made(2, 2, level=0), made(3, 3, level=0, is_broken=True)]
    assert kept(["last 1"], versions) == [2, 3]


def test_versions_younger_than_the_grace_stay():
    """What was made a moment ago may still be looked at by somebody."""
    evaluation = applied(["last 1"], TEN, grace_s=3 * 86_400, now_day=11)
    assert [number for number, why in reasons(evaluation).items() if "younger than the grace" in why] == [9, 10]
    assert evaluation.removed == (1, 2, 3, 4, 5, 6, 7, 8)


def test_sources_of_kept_content_stay():
    """A version whose content of a torn file stands in a kept version is kept, and so are its own sources."""
    versions = [
        *TEN,
        made(11, 11, sources=frozenset({7})),
    ]
    versions[6] = made(7, 7, sources=frozenset({3}))
    versions[5] = made(6, 6, sources=frozenset({2}))  # not kept, so its sources are not
    evaluation = applied(["last 1"], versions)
    assert {number: why for number, why in reasons(evaluation).items() if why} == {
        3: ("last good content of a file in version 7",),
        7: ("last good content of a file in version 11",),
        11: ("newest", "newest proved", "last 1"),
    }


def test_sources_that_are_not_there_are_no_harm():
    """A source may be gone, be the version itself, or be made up."""
    versions = [made(5, 5), made(6, 6, sources=frozenset({1, 6, 9}))]
    assert kept(["last 1"], versions) == [6]


def test_forgotten_versions_neither_count_nor_come_back():
    """A version that is forgotten already is no candidate, and no rule counts it."""
    versions = [dataclasses.replace(one, is_forgotten=one.number in (8, 9)) for one in TEN]
    evaluation = applied(["last 2"], versions)
    assert [one.version.number for one in evaluation.judged if one.is_kept] == [7, 10]
    assert evaluation.removed == (1, 2, 3, 4, 5, 6)


def test_a_run_without_versions_loses_none():
    """An empty list is no reason for an error, whatever the rules ask for."""
    assert applied(["best 1 by fitness", "every 3 epochs"], []).judged == ()


def test_a_policy_without_rules_is_refused():
    """It would keep nothing but what no policy removes."""
    with pytest.raises(PolicyRefused, match="has no rule"):
        evaluate(KeepPolicy((), 3, 0), "yolo", TEN, START_NS)


def test_a_list_that_shows_a_version_twice_counts_it_once():
    """The same version twice is one; two versions under one number are refused."""
    assert kept(["last 2"], [*TEN, *TEN]) == [9, 10]
    with pytest.raises(PolicyRefused, match="version 4 of run 'yolo' was listed twice, and differs"):
        applied(["last 2"], [*TEN, made(4, 5)])


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\u8a55"])
def test_a_long_policy_is_cut_in_its_text(letter):
    """What stands beside each removed version is bounded in bytes, whatever the script."""
    policy = KeepPolicy(parse_rules([f"best 1 by {letter * 50}{number}" for number in range(9)]), 3, 0)
    assert 175 < len(policy.text.encode()) <= 180
    assert policy.text.endswith("…")
    assert policy.text[:-1] in ", ".join(rule.text for rule in policy.rules)


# ---------------------------------------------------------------- how many at once


def evaluation_of(removed_count, there_count):
    """The evaluation of a run in which so many versions go, of so many."""
    versions = [made(number, number) for number in range(1, there_count + 1)]
    return applied([f"last {there_count - removed_count}"], versions)


def test_a_share_is_allowed_up_to_its_bound():
    """Half of the versions may go with 50%, and one more may not."""
    refuse_too_many([(evaluation_of(5, 10), parse_limit("50%"))], None)
    with pytest.raises(RemovalRefused, match=r"6 of the 10 versions of run 'yolo' .* allows 50%.*--yes-remove 6\)"):
        refuse_too_many([(evaluation_of(6, 10), parse_limit("50%"))], None)


def test_a_number_is_allowed_up_to_itself():
    """Three may go with 3, and four may not."""
    refuse_too_many([(evaluation_of(3, 10), parse_limit(3))], None)
    with pytest.raises(RemovalRefused, match="allows 3 "):
        refuse_too_many([(evaluation_of(4, 10), parse_limit(3))], None)


def test_zero_asks_always():
    """With 0, each removal wants its number."""
    refuse_too_many([(evaluation_of(0, 10), parse_limit(0))], None)
    with pytest.raises(RemovalRefused):
        refuse_too_many([(evaluation_of(1, 10), parse_limit(0))], None)


def test_the_number_must_be_right():
    """Whoever confirms another number than there is saw another list, even if the limit allows this one."""
    both = [(evaluation_of(6, 10), parse_limit("50%")), (evaluation_of(1, 10), parse_limit("50%"))]
    refuse_too_many(both, 7)
    for wrong in (6, 8, 0):
        with pytest.raises(RemovalRefused, match=f"7 versions would be removed, and {wrong} were confirmed"):
            refuse_too_many(both, wrong)


def test_a_run_beyond_its_limit_counts_although_others_are_not():
    """Each run has its own limit; the number to confirm is of all."""
    both = [(evaluation_of(6, 10), parse_limit("50%")), (evaluation_of(1, 100), parse_limit("50%"))]
    with pytest.raises(RemovalRefused, match="--yes-remove 7"):
        refuse_too_many(both, None)


@pytest.mark.parametrize(("value", "limit"), [("50%", RemovalLimit(50, True)), (7, RemovalLimit(7, False))])
def test_limits_are_read(value, limit):
    """A share or a number."""
    assert parse_limit(value) == limit
    assert str(parse_limit(value)) == str(value)


@pytest.mark.parametrize("value", ["101%", "50", "%", "-1%", "5.5%", -1, 1.5, True, None, "\u0665%"])
def test_what_is_no_limit_is_refused(value):
    """Anything else is no limit."""
    with pytest.raises(ValueError, match="a share like"):
        parse_limit(value)


# ---------------------------------------------------------------- what always holds

COUNTED = ["last", "resumable", "hourly", "daily", "weekly", "monthly", "yearly"]
numbers = st.integers(1, 4)
rules = st.one_of(
    st.tuples(st.sampled_from(COUNTED), numbers).map(lambda two: f"{two[0]} {two[1]}"),
    st.tuples(numbers, st.sampled_from(["max", "min"])).map(lambda two: f"best {two[0]} by m {two[1]}"),
    st.tuples(st.integers(1, 7), st.sampled_from(["epochs", "steps"])).map(lambda two: f"every {two[0]} {two[1]}"),
    st.tuples(st.integers(1, 72), st.sampled_from("hd")).map(lambda two: f"within {two[0]}{two[1]}"),
    st.just("pinned"),
    st.just("registered"),
)
policies = st.lists(rules, min_size=1, max_size=4, unique=True)
reals = st.one_of(st.integers(-2, 12).map(float), st.sampled_from([float("nan"), float("inf"), 2.5, 1e30]))


@st.composite
def histories(draw):
    """A run: numbers with gaps, dates mostly rising, some of wrong clocks."""
    gaps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=14))
    versions, number, made_ns = [], 0, START_NS
    for gap in gaps:
        number += gap
        made_ns += draw(st.sampled_from([0, HOUR_NS // 2, 3 * HOUR_NS, DAY_NS, 9 * DAY_NS]))
        skew_ns = draw(st.sampled_from([0, 0, 0, 0, -DAY_NS, DAY_NS, 5000 * DAY_NS, -(1 << 62)]))
        versions.append(
            VersionFacts(
                number,
                made_ns + skew_ns,
                level=draw(st.integers(0, 5)),
                is_as_required=draw(st.booleans()),
                is_broken=draw(st.booleans()) and draw(st.booleans()),
                is_resumable=draw(st.booleans()),
                is_best=draw(st.integers(0, 9)) == 0,
                is_pinned=draw(st.integers(0, 9)) == 0,
                is_registered=draw(st.booleans()),
                epoch=draw(st.none() | reals),
                step=draw(st.none() | reals),
                metrics={"m": tuple(draw(st.lists(reals, max_size=2)))} if draw(st.booleans()) else {},
                sources=frozenset(draw(st.sets(st.integers(0, number + 2), max_size=1))),
            )
        )
    return versions, made_ns + draw(st.sampled_from([0, DAY_NS, -DAY_NS, 400 * DAY_NS]))


floors = st.integers(0, 5)
graces = st.sampled_from([0, 3600, 86_400, 7 * 86_400])
# Histories take their time to draw.
some = settings(max_examples=40, deadline=None)


def removed(keep, history, floor, grace_s):
    """The versions that a policy removes; an empty set if it is refused, since then nothing is."""
    versions, now_ns = history
    try:
        return set(evaluate(KeepPolicy(parse_rules(keep), floor, grace_s), "r", versions, now_ns).removed)
    except PolicyRefused:
        return set()


@some
@given(policies, histories(), floors, graces, st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(keep, history, floor, grace_s, chance):
    """Any order of versions and of rules, and versions that are listed twice, give the same answer."""
    versions, now_ns = history
    shuffled = [*versions, *chance.sample(versions, chance.randint(0, len(versions)))]
    random.Random(chance.random()).shuffle(shuffled)
    other = chance.sample(keep, len(keep))
    assert removed(keep, history, floor, grace_s) == removed(other, (shuffled, now_ns), floor, grace_s)


@some
@given(policies, rules, histories(), floors, graces)
def test_one_more_rule_removes_nothing_more(keep, rule, history, floor, grace_s):
    """A rule can only keep, or have the whole policy refused."""
    assert removed([*keep, rule], history, floor, grace_s) <= removed(keep, history, floor, grace_s)


@some
@given(policies, histories(), floors, graces, st.integers(0, 3), st.integers(1, 5))
def test_a_higher_count_removes_nothing_more(keep, history, floor, grace_s, at, more):
    """All that last 4 keeps is kept by last 5; so it is with values, periods and lengths of time."""
    words = keep[at % len(keep)].split()
    assume(words[0] not in ("every", "pinned", "registered"))
    digits = "".join(filter(str.isdigit, words[1]))
    words[1] = words[1].replace(digits, str(int(digits) + more))
    raised = [*keep[: at % len(keep)], " ".join(words), *keep[at % len(keep) + 1 :]]
    assert removed(raised, history, floor, grace_s) <= removed(keep, history, floor, grace_s)


@some
@given(policies, histories(), floors, graces, graces)
def test_a_longer_grace_removes_nothing_more(keep, history, floor, one_s, other_s):
    """A longer grace keeps more, or the same."""
    shorter_s, longer_s = sorted((one_s, other_s))
    assert removed(keep, history, floor, longer_s) <= removed(keep, history, floor, shorter_s)


@some
@given(policies, histories(), floors, graces)
def test_what_is_protected_stays(keep, history, floor, grace_s):
    """None of what no policy removes is removed, said here a second time, and simply."""
    versions, now_ns = history
    gone = removed(keep, history, floor, grace_s)
    left = [one for one in versions if one.number not in gone]
    by_number = sorted(versions, key=lambda one: one.number)
    proved = [one for one in by_number if one.level >= floor and not one.is_broken]
    sound = [one for one in by_number if not one.is_broken]
    resumable = [one for one in by_number if one.is_resumable]
    required = [one for one in by_number if one.is_as_required]
    for several in (required, by_number, proved or sound, resumable, [one for one in resumable if one in proved]):
        assert not several or several[-1] in left
    for one in versions:
        is_young = one.made_ns > now_ns - grace_s * 10**9
        if one.is_best or one.is_pinned or is_young:
            assert one in left
    for one in left:
        assert not (one.sources & gone) - {one.number}


@some
@given(policies, histories(), floors, graces)
def test_what_is_left_loses_nothing_to_the_same_policy(keep, history, floor, grace_s):
    """At one moment, once is enough, with calendar periods too: whether what was removed is gone or forgotten."""
    versions, now_ns = history
    gone = removed(keep, history, floor, grace_s)
    left = [one for one in versions if one.number not in gone]
    assert removed(keep, (left, now_ns), floor, grace_s) == set()
    forgotten = [dataclasses.replace(one, is_forgotten=one.number in gone) for one in versions]
    assert removed(keep, (forgotten, now_ns), floor, grace_s) == set()


@some
@given(policies, histories(), floors, graces, st.lists(st.integers(1, 50), max_size=4))
def test_useless_versions_displace_no_proved_one(keep, history, floor, grace_s, days):
    """Whoever adds versions below the floor, at whatever dates, makes a policy remove no version at or above it."""
    assume(floor > 0)
    versions, now_ns = history
    # A source stays because a version that is kept has its content: it may go with that one.
    versions = [dataclasses.replace(one, sources=frozenset()) for one in versions]
    highest = max(one.number for one in versions)
    useless = [
        VersionFacts(
            highest + place,
            START_NS + day * DAY_NS,
            level=0,
            is_resumable=True,
            is_registered=False,
            epoch=float(day),
            step=float(day),
            metrics={"m": (float(day),)},
        )
        for place, day in enumerate(days, 1)
    ]
    proved = {one.number for one in versions if one.level >= floor and not one.is_broken}
    try:
        before = set(evaluate(KeepPolicy(parse_rules(keep), floor, grace_s), "r", versions, now_ns).removed)
    except PolicyRefused:
        return
    after = removed(keep, (versions + useless, now_ns), floor, grace_s)
    assert after & proved <= before & proved
