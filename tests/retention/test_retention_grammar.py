"""The lines of a policy: what each means, and how a line that is none is refused."""

import pytest

from mlsync.retention.grammar import RULES_MAX, parse_rule, parse_rules
from mlsync.retention.rules import (
    BestRule,
    CalendarRule,
    EveryRule,
    LastRule,
    PinnedRule,
    RegisteredRule,
    ResumableRule,
    WithinRule,
)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("last 5", LastRule("last 5", 5)),
        ("  last   5 ", LastRule("last 5", 5)),
        ("resumable 2", ResumableRule("resumable 2", 2)),
        ("best 3 by fitness", BestRule("best 3 by fitness", 3, "fitness", is_max=True)),
        ("best 3 by fitness max", BestRule("best 3 by fitness max", 3, "fitness", is_max=True)),
        ("best 1 by eval_loss min", BestRule("best 1 by eval_loss min", 1, "eval_loss", is_max=False)),
        (
            "best 3 by results.csv:metrics/mAP50-95(B) max",
            BestRule(
                "best 3 by results.csv:metrics/mAP50-95(B) max", 3, "results.csv:metrics/mAP50-95(B)", is_max=True
            ),
        ),
        ("best 2 by val loss min", BestRule("best 2 by val loss min", 2, "val loss", is_max=False)),
        ("every 10 epochs", EveryRule("every 10 epochs", 10, "epoch")),
        ("every 1 epoch", EveryRule("every 1 epoch", 1, "epoch")),
        ("every 500 steps", EveryRule("every 500 steps", 500, "step")),
        ("hourly 24", CalendarRule("hourly 24", 24, "hourly")),
        ("daily 14", CalendarRule("daily 14", 14, "daily")),
        ("weekly 8", CalendarRule("weekly 8", 8, "weekly")),
        ("monthly 12", CalendarRule("monthly 12", 12, "monthly")),
        ("yearly 3", CalendarRule("yearly 3", 3, "yearly")),
        ("within 3d", WithinRule("within 3d", 259_200)),
        ("within 36h", WithinRule("within 36h", 129_600)),
        ("within 2w", WithinRule("within 2w", 1_209_600)),
        ("pinned", PinnedRule("pinned")),
        ("registered", RegisteredRule("registered")),
    ],
)
def test_each_rule_is_read(line, rule):
    """A line is read as its rule; how many blanks are in it does not matter."""
    assert parse_rule(line) == rule


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lst 5", "'lst 5' is no rule: did you mean last?"),
        ("dayly 3", "did you mean daily?"),
        ("Last 5", "did you mean last?"),
        ("keep everything", "rules begin with last, resumable, best, every, hourly"),
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("last", "last takes one number, as in last 5"),
        ("last 5 versions", "last takes one number"),
        ("last 0", "'0' is not a whole number from 1 to 1000000"),
        ("last -1", "'-1' is not a whole number"),
        ("last 1000001", "not a whole number"),
        ("last 99999999999", "not a whole number"),
        ("last \u0665", "not a whole number"),
        ("last 5.0", "not a whole number"),
        ("daily", "daily takes one number"),
        ("best 3", "as in best 3 by fitness max"),
        ("best 3 of fitness", "as in best 3 by fitness max"),
        ("best x by fitness", "'x' is not a whole number"),
        ("best 3 by max", "it names nothing"),
        ("best 3 by eval_loss", "whether more of eval_loss is better"),
        ("every 10", "as in every 10 epochs"),
        ("every 10 epoch s", "every takes a number of epochs or of steps"),
        ("every 10 epohcs", "did you mean epochs?"),
        ("every 0 epochs", "not a whole number"),
        ("within 3", "as in within 36h"),
        ("within 0d", "as in within 36h"),
        ("within 3 d", "as in within 36h"),
        ("within 3m", "as in within 36h"),
        ("within \u0663d", "as in within 36h"),
        ("within", "as in within 36h"),
        ("pinned 3", "pinned stands alone"),
        ("registered best", "registered stands alone"),
        ("last 5\n", "printable"),
        ("last\x1b[2J5", "printable"),
        ("best 3 by " + "x" * 200, "at most 200 characters"),
    ],
)
def test_what_is_no_rule_is_refused(line, said):
    """A line that is none is refused, with the line, and with what was probably meant."""
    with pytest.raises(ValueError, match="rule") as refused:
        parse_rule(line)
    assert said in str(refused.value)


def test_an_empty_list_is_refused():
    """A policy without a rule would keep nothing, which nobody means."""
    with pytest.raises(ValueError, match="an empty one would keep nothing"):
        parse_rules([])


def test_a_list_is_bounded():
    """More rules than anybody writes are refused."""
    assert len(parse_rules([f"last {number}" for number in range(1, RULES_MAX + 1)])) == RULES_MAX
    with pytest.raises(ValueError, match="at most 50"):
        parse_rules([f"last {number}" for number in range(1, RULES_MAX + 2)])


def test_a_rule_counts_once():
    """A rule that is there twice, with other blanks, is one."""
    assert parse_rules(["last 5", "daily 3", " last  5"]) == parse_rules(["last 5", "daily 3"])
