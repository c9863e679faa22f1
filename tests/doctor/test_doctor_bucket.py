"""What is found of a bucket's encryption, replication, lock, owner and place."""

from __future__ import annotations

import pytest

from mlsync.doctor import bucket as buckets
from mlsync.doctor.findings import Grade
from mlsync.errors import StoreDenied
from mlsync.store.options import StoreOptions
from mlsync.store.s3.inspection import BucketInspection, ReplicationRule

DAY_S = 86_400
KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"
RULE = ReplicationRule("copy", "", "second")


class Bucket:
    """What a bucket answers; an error is raised."""

    prefix = "runs"

    def __init__(self, **answers) -> None:
        self._answers = answers

    def __getattr__(self, name):
        def answer(*_asked):
            found = self._answers[name]
            if isinstance(found, Exception):
                raise found
            return found

        return answer

    def close(self):
        """Nothing is open."""


def only(findings):
    """The one finding."""
    (found,) = findings
    return found


@pytest.mark.parametrize(
    ("answers", "grade", "said"),
    [
        ({"encryption": ("", "")}, Grade.WARNING, "no default encryption"),
        ({"encryption": ("AES256", "")}, Grade.FINE, "AES256"),
        ({"encryption": ("aws:kms", "")}, Grade.FINE, "aws:kms"),
        ({"encryption": ("aws:kms", KEY), "key_fault": None}, Grade.FINE, "which works"),
        ({"encryption": ("aws:kms", KEY), "key_fault": "its state is PendingDeletion"}, Grade.GRAVE, "PendingDeletion"),
        (
            {"encryption": ("aws:kms", KEY), "key_fault": StoreDenied("no right")},
            Grade.FINE,
            "not asked of KMS: no right",
        ),
    ],
)
def test_encryption(answers, grade, said):
    """No encryption is a warning, a key that does not work is grave, and one that cannot be looked at is neither."""
    found = only(buckets.diagnose_encryption(Bucket(**answers)))
    assert found.grade is grade
    assert said in found.what


@pytest.mark.parametrize(
    ("lock", "grade"),
    [
        ("6 days, mode GOVERNANCE", Grade.WARNING),
        ("7 days, mode GOVERNANCE", Grade.FINE),
        ("1 years, mode x", Grade.FINE),
    ],
)
def test_a_lock_that_is_shorter_than_the_grace_is_a_warning(lock, grade):
    """What is deleted on purpose would be gone before anybody prunes; years are long enough."""
    assert only(buckets.diagnose_lock(Bucket(lock=lock), 7.0 * DAY_S)).grade is grade


@pytest.mark.parametrize(
    ("here", "there", "grades"),
    [
        (True, Bucket(keeps_versions=True, region="eu-west-1"), [Grade.FINE]),
        (False, Bucket(keeps_versions=True, region="eu-west-1"), [Grade.WARNING, Grade.FINE]),
        (True, Bucket(keeps_versions=False), [Grade.WARNING]),
        (True, StoreDenied("no right"), [Grade.WARNING]),
    ],
)
def test_replication_without_versions_copies_nothing(here, there, grades):
    """Both buckets have to keep versions; a second one that cannot be looked at is named."""
    found = list(buckets.diagnose_replication(Bucket(replication=[RULE], keeps_versions=here, other=there)))
    assert [one.grade for one in found] == grades
    assert "second" in found[-1].what


def test_no_replication_is_told_with_what_makes_one():
    """One copy is no fault, and there is a way to a second one."""
    found = only(buckets.diagnose_replication(Bucket(replication=[])))
    assert (found.grade, "--replicate-to" in found.advice) == (Grade.FINE, True)


def test_whose_the_bucket_is_and_where():
    """Another account's bucket and another region than the configured one are warnings, both at once."""
    found = list(buckets.diagnose_place(Bucket(wrong_region="eu-west-1", is_anothers=True)))
    assert [one.grade for one in found] == [Grade.WARNING, Grade.WARNING]
    assert "--region eu-west-1" in found[0].advice
    assert only(buckets.diagnose_place(Bucket(wrong_region=None, is_anothers=False))).grade is Grade.FINE


def test_only_aws_is_asked_for_owner_and_region():
    """Other servers' regions and accounts mean nothing: not one request is made, here to a port that nobody has."""
    asked = BucketInspection("s3://bucket", StoreOptions(endpoint_url="http://127.0.0.1:9", region="x"))
    assert asked.wrong_region() is None
    assert asked.is_anothers() is False
    asked.close()
