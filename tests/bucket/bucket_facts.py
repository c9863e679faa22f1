"""Facts of buckets for tests: of an empty account, and of a bucket that a plan was carried out on."""

from __future__ import annotations

from mlsync.bucket.facts import BucketFacts, RoleFacts, SettingAnswer
from mlsync.bucket.plan import Seen, plan
from mlsync.bucket.providers import AWS
from mlsync.bucket.steps import BUCKET, ROLE
from mlsync.bucket.wanted import Second, Wanted
from mlsync.store.s3.settings import Setting

FIRST, COPY = "ckpt", "copy"
ACCOUNT = "111122223333"
KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd"
COPY_KEY = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/99887766"


def wanted(**more) -> Wanted:
    """A repository below a prefix of the first bucket."""
    return Wanted(FIRST, **{"prefix": "runs", **more})


def twice(**more) -> Wanted:
    """The same with a second bucket in another region."""
    return wanted(second=Second(COPY, "eu-west-1", more.pop("second_key", None)), **more)


def facts(name=FIRST, region="eu-central-1", *, others=(), has_objects=False, **documents) -> BucketFacts:
    """A bucket that is there, with these documents by the names of the settings; nothing is set besides."""
    answers = {setting: SettingAnswer() for setting in Setting}
    for setting, document in documents.items():
        answers[Setting[setting]] = document if isinstance(document, SettingAnswer) else SettingAnswer(document)
    return BucketFacts(name, region, True, answers, tuple(others), has_objects)


def seen(first=None, second=None, role=None, provider=AWS, **more) -> Seen:
    """What is seen of one bucket, or of two."""
    first = first or BucketFacts(FIRST, None, exists=False)
    where = {} if second is None else {"second": second, "second_region": "eu-west-1"}
    return Seen(provider, first, "eu-central-1", role=role or RoleFacts(ACCOUNT), **where, **more)


def missing(name=COPY) -> BucketFacts:
    """A bucket that is not there."""
    return BucketFacts(name, None, exists=False)


def after(wants: Wanted, was: Seen) -> Seen:
    """What is seen once the plan was carried out by a server that does as it is told."""
    documents = {FIRST: {}, COPY: {}}
    for one in (was.first, was.second):
        if one is not None and one.exists:
            documents[one.bucket] = {setting.name: answer for setting, answer in one.answers.items()}
    role = was.role
    for step in plan(wants, was).changes:
        if step.setting == ROLE:
            role = RoleFacts(ACCOUNT, step.document["AssumeRolePolicyDocument"], step.document["PolicyDocument"])
        elif step.setting == BUCKET:
            if step.document["ObjectLockEnabledForBucket"]:
                documents[step.bucket]["LOCK"] = {"ObjectLockEnabled": "Enabled"}
        else:
            documents[step.bucket][step.setting.name] = _merged(step, documents[step.bucket])
    second = None if was.second is None else facts(COPY, "eu-west-1", **documents[COPY])
    first = facts(others=was.first.others, **documents[FIRST])
    return Seen(was.provider, first, was.region, second, was.second_region, role, was.refuses_http)


def _merged(step, have):
    """A document as the server has it then: rules of others stay."""
    if step.setting not in (Setting.LIFECYCLE, Setting.REPLICATION):
        return step.document
    before = have.get(step.setting.name, SettingAnswer())
    before = before.document if isinstance(before, SettingAnswer) else before
    gone = {*step.rules, *step.removed}
    kept = [rule for rule in before.get("Rules", []) if rule["ID"] not in gone]
    return {**step.document, "Rules": [*kept, *step.rules.values()]}


def step_for(found, setting, bucket=FIRST):
    """The step of a plan that is about that setting."""
    (step,) = [one for one in found.steps if one.setting == setting and one.bucket == bucket]
    return step


def marks(step):
    """The marks of its lines."""
    return [line.mark.value for line in step.lines]
