"""What has to change in a bucket, from facts alone: what is wanted, what stays, what is refused."""

from __future__ import annotations

import pytest
from bucket_facts import (
    ACCOUNT,
    COPY,
    COPY_KEY,
    FIRST,
    KEY,
    after,
    facts,
    marks,
    missing,
    seen,
    step_for,
    twice,
    wanted,
)

from mlsync.bucket import policy
from mlsync.bucket.facts import BucketFacts, RoleFacts, SettingAnswer
from mlsync.bucket.lifecycle import rules_of
from mlsync.bucket.plan import plan, second_wanted
from mlsync.bucket.providers import AWS, PROVIDERS, UNKNOWN, provider_of
from mlsync.bucket.replication import role_name, second_key
from mlsync.bucket.steps import BUCKET, ROLE, prefix_of
from mlsync.bucket.wanted import NONE, DefaultLock, PackTier, Second, Wanted, check_regions, second_of, tiers_of
from mlsync.doctor.bucket import lifecycle_found
from mlsync.doctor.findings import Grade
from mlsync.errors import ConfigInvalid
from mlsync.repository import names
from mlsync.store.s3.inspection import _rule
from mlsync.store.s3.settings import Setting

THEIRS = {"ID": "theirs", "Filter": {"Prefix": "logs/"}, "Status": "Enabled", "Expiration": {"Days": 3}}


@pytest.mark.parametrize(
    ("wants", "was"),
    [
        (wanted(), seen()),
        (Wanted(FIRST), seen()),
        (twice(), seen(second=missing())),
        (twice(kms_key=KEY, second_key=COPY_KEY, lock=DefaultLock(30)), seen(second=missing())),
        (wanted(tiers=(), abort_days=5, noncurrent_days=90), seen(facts(LIFECYCLE={"Rules": [THEIRS]}))),
        (twice(), seen(facts(VERSIONS={"Status": "Suspended"}), facts(COPY, "eu-west-1"))),
    ],
)
def test_what_was_carried_out_is_not_wanted_again(wants, was):
    """After a plan nothing is left to do, with the same options and with none, whatever was there before."""
    assert plan(wants, was).changes
    then = after(wants, was)
    assert plan(wants, then).open == []
    without = Wanted(wants.bucket, wants.prefix)
    second = second_wanted(without, then.first)
    assert (second is None) == (wants.second is None)
    assert plan(without, then).open == []


def test_only_packs_grow_cold():
    """No rule of ours deletes a current object, and none moves what is not a pack, of all kinds there are."""
    for prefix in ("", "runs"):
        wants = Wanted(FIRST, prefix)
        rules = rules_of(wants, {}, AWS)
        assert [one.grade for one in lifecycle_found([_rule(rule) for rule in rules.values()], prefix)] == [Grade.FINE]
        moving = [rule for rule in rules.values() if "Transitions" in rule]
        assert [prefix_of(rule) for rule in moving] == [f"{prefix}/packs/".lstrip("/")]
        assert not any("Days" in rule.get("Expiration", {}) for rule in rules.values())
        assert "packs/" in names.PREFIXES


def test_rules_of_others_are_neither_sent_nor_removed():
    """A step has our rules alone; others are shown as what stays, also those of a repository beside this one."""
    neighbour = rules_of(Wanted(FIRST, "other"), {}, AWS)
    first = facts(LIFECYCLE={"Rules": [THEIRS, *neighbour.values()]})
    step = step_for(plan(wanted(), seen(first)), Setting.LIFECYCLE)
    assert set(step.rules).isdisjoint({"theirs", *neighbour})
    assert step.removed == ()
    assert marks(step) == ["+", "+", "+", "=", "=", "=", "="]


def test_an_option_that_was_not_given_keeps_what_the_bucket_has():
    """Days, classes, a key and a lock that somebody chose stay; what was disabled comes on again."""
    have = rules_of(wanted(tiers=(PackTier("GLACIER_IR", 200),), noncurrent_days=60, abort_days=9), {}, AWS)
    disabled = [{**rule, "Status": "Disabled"} for rule in have.values()]
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}
    first = facts(
        LIFECYCLE={"Rules": disabled},
        ENCRYPTION={"Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}]},
        LOCK={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 90}}},
    )
    found = plan(wanted(), seen(first))
    assert dict(step_for(found, Setting.LIFECYCLE).rules) == have
    assert marks(step_for(found, Setting.LIFECYCLE)) == ["~", "~", "~"]
    assert marks(step_for(found, Setting.ENCRYPTION)) == marks(step_for(found, Setting.LOCK)) == ["="]


def test_packs_stay_where_they_are_if_that_is_asked_for():
    """``--tier none`` removes our rule about packs and nothing else."""
    first = facts(LIFECYCLE={"Rules": [*rules_of(wanted(), {}, AWS).values(), THEIRS]})
    step = step_for(plan(wanted(tiers=tiers_of(["none"])), seen(first)), Setting.LIFECYCLE)
    assert step.removed == (wanted().rule_name("packs"),)
    assert marks(step) == ["=", "=", "-", "="]


def test_a_bucket_that_others_use_gets_no_rule_about_all_of_it():
    """Without a prefix, and with objects of others there, no rule would remove what is theirs."""
    first = facts(others=["datasets/"])
    found = plan(Wanted(FIRST), seen(first))
    step = step_for(found, Setting.LIFECYCLE)
    assert [prefix_of(rule) for rule in step.rules.values()] == ["packs/"]
    assert "datasets/" in step.lines[-1].text
    assert any("datasets/" in note for note in found.notes)


def test_what_is_set_for_others_too_is_said():
    """Beside a prefix of ours a bucket may have more: its rules stay, and what holds for all of it is named."""
    was = seen(facts(others=["site/"], VERSIONS={"Status": "Enabled"}))
    found = plan(wanted(), was)
    assert len(step_for(found, Setting.LIFECYCLE).rules) == 3
    (note,) = found.notes
    assert note.startswith("ckpt also has site/")
    assert note.endswith("too: public access, encryption, bucket policy")
    assert plan(wanted(), after(wanted(), was)).notes == ()


def test_a_server_that_replicates_nothing_is_asked_for_no_role():
    """Where the bucket is known to have no replication, that is said, and no role is planned."""
    found = plan(twice(), seen(facts(REPLICATION=SettingAnswer(is_lacking=True)), missing(), RoleFacts(why="no IAM")))
    assert [step.setting for step in found.open if step.is_refused] == [Setting.REPLICATION]
    assert ROLE not in [step.setting for step in found.steps]


def test_the_policy_refuses_http_beside_what_it_says_already():
    """Our statement comes to those of others, once; one of theirs that does the same is enough."""
    arn = "arn:aws:s3:::ckpt"
    theirs = {
        "Sid": "read",
        "Effect": "Allow",
        "Principal": {"AWS": ACCOUNT},
        "Action": "s3:GetObject",
        "Resource": arn,
    }
    document = {"Version": "2008-10-17", "Id": "x", "Statement": theirs}
    step = step_for(plan(wanted(), seen(facts(POLICY=document))), Setting.POLICY)
    merged = policy.with_statement(document, step.document["Statement"][0])
    assert merged == {"Version": "2008-10-17", "Id": "x", "Statement": [theirs, policy.statement(arn)]}
    assert policy.with_statement(merged, policy.statement(arn)) == merged
    same = {**policy.statement(arn), "Sid": "TheirOwn"}
    assert marks(step_for(plan(wanted(), seen(facts(POLICY={"Statement": [same]}))), Setting.POLICY)) == ["="]
    narrower = {**same, "Condition": {**same["Condition"], "StringEquals": {"aws:PrincipalAccount": "1"}}}
    assert marks(step_for(plan(wanted(), seen(facts(POLICY={"Statement": narrower}))), Setting.POLICY)) == ["+"]
    over_http = plan(wanted(), seen(facts(), refuses_http=False))
    assert marks(step_for(over_http, Setting.POLICY)) == ["!"]
    assert step_for(over_http, Setting.POLICY) not in over_http.open


def test_the_second_bucket_is_as_the_first():
    """It is made in its region, keeps versions, and encrypts and locks alike; deletions are not copied."""
    wants = twice(kms_key=KEY, second_key=COPY_KEY, lock=DefaultLock(30, "COMPLIANCE"))
    found = plan(wants, seen(second=missing()))
    assert step_for(found, BUCKET, COPY).document == {
        "LocationConstraint": "eu-west-1",
        "ObjectLockEnabledForBucket": True,
    }
    for setting in (Setting.PUBLIC, Setting.VERSIONS, Setting.LOCK):
        assert step_for(found, setting).document == step_for(found, setting, COPY).document
    second = step_for(found, Setting.ENCRYPTION, COPY).document["Rules"][0]["ApplyServerSideEncryptionByDefault"]
    assert second == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": COPY_KEY}
    (rule,) = step_for(found, Setting.REPLICATION).rules.values()
    assert rule["Filter"] == {"Prefix": "runs/"}
    assert rule["DeleteMarkerReplication"] == {"Status": "Disabled"}
    target = {"Bucket": "arn:aws:s3:::copy", "EncryptionConfiguration": {"ReplicaKmsKeyID": COPY_KEY}}
    assert rule["Destination"] == target
    assert rule["SourceSelectionCriteria"] == {"SseKmsEncryptedObjects": {"Status": "Enabled"}}
    rights = step_for(found, ROLE, "").document["PolicyDocument"]["Statement"]
    assert {one["Resource"] for one in rights} == {
        "arn:aws:s3:::ckpt", "arn:aws:s3:::ckpt/runs/*", "arn:aws:s3:::copy/runs/*", KEY, COPY_KEY,
    }  # fmt: skip
    actions = {action for one in rights for action in one["Action"]}
    assert not any("Delete" in action or "*" in action or "PutObject" in action for action in actions)
    assert found.steps[-1].setting is Setting.REPLICATION


def test_what_the_first_bucket_locks_the_second_one_locks_too():
    """A lock that the first bucket has already is wanted of the second one."""
    lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 14}}}
    found = plan(twice(), seen(facts(LOCK=lock), missing()))
    assert step_for(found, BUCKET, COPY).document["ObjectLockEnabledForBucket"]
    assert step_for(found, Setting.LOCK, COPY).document == lock


def test_a_key_in_the_second_region_is_needed_and_a_multi_region_one_is_known():
    """Without a key there, replication of what KMS encrypts is refused; copies of a multi-Region key have one id."""
    found = plan(twice(kms_key=KEY), seen(second=missing()))
    step = step_for(found, Setting.REPLICATION)
    assert step.is_refused
    assert "--second-kms-key" in step.lines[0].text
    multi = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/mrk-1"
    assert second_key(twice(), {}, multi, "eu-west-1") == multi.replace("eu-central-1", "eu-west-1")
    assert second_key(twice(), {}, "", "eu-west-1") == ""


@pytest.mark.parametrize(
    ("default", "said"),
    [
        ({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/ours"}, "by its ARN"),
        ({"SSEAlgorithm": "aws:kms"}, "AWS's own key"),
        ({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}, "--second-kms-key"),
    ],
)
def test_what_would_copy_nothing_is_not_set_up(default, said):
    """S3 skips without a word what it cannot decrypt: a rule that would do that is refused, with what to give."""
    first = facts(ENCRYPTION={"Rules": [{"ApplyServerSideEncryptionByDefault": default}]})
    step = step_for(plan(twice(), seen(first, missing())), Setting.REPLICATION)
    assert step.is_refused
    assert said in step.lines[0].text


def test_what_the_second_bucket_has_is_not_made_weaker():
    """A key or a longer lock of its own stays, whatever the first one has; unless somebody asks for less."""
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": COPY_KEY}

    def lock(days):
        return {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": days}}}

    has = {"ENCRYPTION": {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}, "LOCK": lock(60)}
    was = seen(facts(LOCK=lock(30)), facts(COPY, "eu-west-1", **has))
    found = plan(twice(), was)
    for setting in (Setting.ENCRYPTION, Setting.LOCK):
        assert marks(step_for(found, setting, COPY)) == ["="]
    found = plan(twice(kms_key=NONE, lock=DefaultLock(10)), was)
    for setting in (Setting.ENCRYPTION, Setting.LOCK):
        assert marks(step_for(found, setting, COPY)) == ["~"]


def test_replication_of_somebody_else_is_left_alone():
    """A bucket has one role for all its rules: where that is another's, nothing is changed, and that is said."""
    theirs = {"ID": "dr", "Priority": 4, "Status": "Enabled", "Filter": {}, "Destination": {"Bucket": "arn:aws:s3:::x"}}
    document = {"Role": "arn:aws:iam::1:role/theirs", "Rules": [theirs]}
    step = step_for(plan(twice(), seen(facts(REPLICATION=document), missing())), Setting.REPLICATION)
    assert step.is_refused
    assert not step.is_change
    document = {**document, "Role": f"arn:aws:iam::{ACCOUNT}:role/{role_name(twice())}"}
    step = step_for(plan(twice(), seen(facts(REPLICATION=document), missing())), Setting.REPLICATION)
    assert [rule["Priority"] for rule in step.rules.values()] == [5]
    assert marks(step) == ["+", "="]


def test_what_cannot_be_seen_is_named_and_not_touched():
    """A setting that may not be read is not written either; the others are planned as ever."""
    first = facts(ENCRYPTION=SettingAnswer(why="AccessDenied (allow s3:GetEncryptionConfiguration)"))
    found = plan(twice(), seen(first, missing()))
    step = step_for(found, Setting.ENCRYPTION)
    # Without knowing how the first bucket encrypts nobody can say what the rule needs.
    assert marks(step) == marks(step_for(found, Setting.REPLICATION)) == ["?"]
    assert "s3:GetEncryptionConfiguration" in step.lines[0].text
    assert step in found.open
    assert step not in found.changes
    assert step_for(found, Setting.VERSIONS) in found.changes
    # Without the account's number nobody knows what the role is called.
    found = plan(twice(), seen(facts(), missing(), RoleFacts(why="no right for iam:GetRole")))
    assert marks(step_for(found, ROLE, "")) == marks(step_for(found, Setting.REPLICATION)) == ["?"]
    found = plan(twice(), seen(facts(), missing(), RoleFacts(ACCOUNT, why="no right for iam:GetRole")))
    assert f":{ACCOUNT}:role/" in step_for(found, Setting.REPLICATION).document["Role"]


def test_what_a_server_lacks_is_said_and_fails_only_if_it_was_asked_for():
    """R2 gets its lifecycle; of the rest it is said what follows. A lock by name cannot be had, which is a failure."""
    r2 = provider_of("https://1.r2.cloudflarestorage.com")
    have = {setting.name: SettingAnswer(is_lacking=True) for setting in r2.lacks if isinstance(setting, Setting)}
    found = plan(wanted(), seen(facts(**have), provider=r2))
    assert [step.setting for step in found.open] == [Setting.LIFECYCLE]
    rules = step_for(found, Setting.LIFECYCLE).rules.values()
    assert [rule.get("Transitions") for rule in rules] == [[{"Days": 30, "StorageClass": "STANDARD_IA"}], None]
    said = " ".join(line.text for step in found.steps for line in step.lines)
    for follows in r2.lacks.values():
        assert follows in said or "lock" in follows
    asked = plan(wanted(lock=DefaultLock(30), second=Second(COPY)), seen(facts(**have), provider=r2))
    assert {step.setting for step in asked.open if step.is_refused} == {
        Setting.LOCK, Setting.REPLICATION, Setting.VERSIONS,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "server", "name"),
    [
        (None, "", "AWS"),
        ("https://s3.eu-central-1.amazonaws.com", "", "AWS"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "", "AWS"),
        ("https://oss-cn-shanghai.aliyuncs.com", "", "Aliyun OSS"),
        ("https://abc.r2.cloudflarestorage.com", "", "Cloudflare R2"),
        ("https://s3.us-west-004.backblazeb2.com", "", "Backblaze B2"),
        ("https://minio.lab:9000", "", "MinIO"),
        ("http://10.0.0.1:9000", "MinIO", "MinIO"),
        ("http://10.0.0.1:8333", "SeaweedFS 30GB 4.48", "SeaweedFS"),
        ("https://rgw.lab", "", "Ceph"),
        ("https://s3.example", "nginx", "another server"),
        ("https://amazonaws.com.evil.example", "", "another server"),
    ],
)
def test_a_server_is_known_by_its_host_or_by_what_it_says(endpoint, server, name):
    """The host's name decides first; a server in a private network is known by its own word."""
    assert provider_of(endpoint, server).name == name


def test_every_absence_is_said_with_what_follows():
    """Each provider of the table lacks something, and it is said what follows; of an unknown one all is asked."""
    assert UNKNOWN.lacks == {}
    for one in PROVIDERS[1:]:
        assert one.lacks, one.name
        assert all(len(follows) > 10 for follows in one.lacks.values()), one.name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["STANDARD_IA"], "CLASS:DAYS"),
        (["STANDARD_IA:x"], "CLASS:DAYS"),
        (["none", "STANDARD_IA:30"], "CLASS:DAYS"),
        (["FROZEN:30"], "DEEP_ARCHIVE"),
        (["STANDARD_IA:29"], "30 days or more"),
        (["ONEZONE_IA:1"], "30 days or more"),
        (["GLACIER:36501"], "at most 36500"),
        (["GLACIER:30", "STANDARD_IA:60"], "nothing from GLACIER to STANDARD_IA"),
        (["GLACIER:30", "GLACIER:60"], "nothing from GLACIER to GLACIER"),
        (["ONEZONE_IA:30", "GLACIER_IR:90"], "nothing from ONEZONE_IA to GLACIER_IR"),
        (["GLACIER_IR:90", "DEEP_ARCHIVE:90"], "needs more days"),
        (["STANDARD_IA:30", "GLACIER:45"], "60 days or more"),
    ],
)
def test_classes_and_days_that_s3_refuses_are_refused_here(words, said):
    """Order, days and names of storage classes are checked before anything is asked, with what to do."""
    with pytest.raises(ConfigInvalid, match=said):
        wanted(tiers=tiers_of(words))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"abort_days": 3}, "three days old"),
        ({"abort_days": 0}, "from 1 to"),
        ({"noncurrent_days": 6}, "grace of 7 days"),
        ({"noncurrent_days": 10, "grace_s": 14 * 86_400}, "grace of 14 days"),
        ({"noncurrent_days": -1}, "from 1 to"),
        ({"lock": DefaultLock(0)}, "from 1 to"),
        ({"lock": DefaultLock(40_000)}, "from 1 to"),
        ({"kms_key": "alias/x"}, "not the ARN"),
        ({"kms_key": "arn:aws:kms:eu:1:key/x"}, "not the ARN"),
        ({"second": Second(COPY, kms_key="x")}, "not the ARN"),
        ({"second": Second(FIRST)}, "its own second copy"),
        ({"second": Second(COPY), "skip": frozenset({Setting.REPLICATION})}, "--skip replication"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_is_asked(more, said):
    """Days out of range, keys that are none, a copy onto itself: each with its message."""
    with pytest.raises(ConfigInvalid, match=said):
        wanted(**more)


def test_what_is_said_of_the_second_bucket_fits_together():
    """It keeps the prefix; without it a region and a key are about nothing; a key is where its bucket is."""
    assert second_of("s3://copy/", "eu-west-1", None, "runs") == Second(COPY, "eu-west-1")
    assert second_of("s3://copy/runs", None, None, "runs") == Second(COPY)
    with pytest.raises(ConfigInvalid, match="under their own names"):
        second_of("s3://copy/else", None, None, "runs")
    with pytest.raises(ConfigInvalid, match="--replicate-to"):
        second_of(None, "eu-west-1", None, "runs")
    check_regions(twice(kms_key=KEY, second_key=COPY_KEY), "eu-central-1", "eu-west-1")
    check_regions(twice(kms_key=NONE), "us-east-1", None)
    with pytest.raises(ConfigInvalid, match="the second bucket in eu-west-2"):
        check_regions(twice(kms_key=KEY, second_key=COPY_KEY), "eu-central-1", "eu-west-2")
    with pytest.raises(ConfigInvalid, match="the bucket in us-east-1"):
        check_regions(twice(kms_key=KEY), "us-east-1", "eu-west-1")


def test_what_somebody_should_know_is_said():
    """One region for both, objects that are there already, classes to thaw from, a lock shorter than the grace."""
    first = facts(has_objects=True)
    was = seen(first, facts(COPY))
    same = plan(twice(tiers=tiers_of(["GLACIER:30"]), lock=DefaultLock(2)), was.__class__(
        was.provider, first, "eu-central-1", was.second, "eu-central-1", was.role,
    ))  # fmt: skip
    said = " ".join(same.notes)
    for words in ("both buckets are in eu-central-1", "mlsync copy --to", "thawed", "shorter than the grace of 7 days"):
        assert words in said, words
    then = after(twice(), seen(second=missing()))
    assert plan(twice(), then).notes == ()


def test_settings_that_are_skipped_are_no_part_of_the_plan():
    """What somebody else looks after is neither shown nor changed, in both buckets."""
    skip = frozenset({Setting.POLICY, Setting.LOCK})
    found = plan(twice(skip=skip), seen(second=missing()))
    assert skip.isdisjoint(step.setting for step in found.steps)
    assert {step.bucket for step in found.steps} == {FIRST, COPY, ""}
    skip = frozenset({Setting.REPLICATION})
    wants = wanted(skip=skip)
    found = plan(wants, seen())
    assert skip.isdisjoint(step.setting for step in found.steps)
    assert second_wanted(wants, BucketFacts(FIRST, None, exists=False)) is None


def test_a_prefix_in_a_policy_is_no_pattern():
    """Stars and dollars of a prefix stand for themselves in what the role may do."""
    found = plan(Wanted(FIRST, "a*b${c}", second=Second(COPY, "eu-west-1")), seen(second=missing()))
    rights = step_for(found, ROLE, "").document["PolicyDocument"]["Statement"]
    assert rights[1]["Resource"] == "arn:aws:s3:::ckpt/a${*}b${$}{c}/*"


def test_names_of_roles_fit_into_iam():
    """However long bucket and prefix are, the role has a name of its own of at most 64 characters."""
    found = {role_name(Wanted("b" * length, prefix)) for length in (3, 50, 63) for prefix in ("", "x", "y" * 400)}
    assert len(found) == 9
    assert max(map(len, found)) == 64
