"""How a machine is told that it goes away, as doctor shows it."""

from __future__ import annotations

from mlsync.doctor.findings import Grade
from mlsync.doctor.notices import diagnose_grace, diagnose_notices, told
from mlsync.preemption.find import find_platforms
from mlsync.preemption.grace import Grace
from mlsync.preemption.platform import Description


def test_a_notice_that_does_not_come_is_a_warning():
    """A metadata service that does not answer is told with its address, what follows, and what to do."""
    silent = Description(
        "aws",
        "instance metadata",
        120.0,
        30.0,
        "http://169.254.169.254",
        False,
        "no answer in 2 s",
        "raise the hop limit",
    )
    found = told(silent, "the firmware is Amazon's")
    assert found.grade is Grade.WARNING
    assert "no answer in 2 s" in found.what
    assert "169.254.169.254" in found.what
    assert found.advice == "raise the hop limit"


def test_the_grace_of_the_place_is_told(tmp_path):
    """A place that is known by its environment says how many seconds it leaves, and what that means if they are few."""
    (found,) = diagnose_notices(find_platforms(dmi=tmp_path, environ={"RUNPOD_POD_ID": "x"}), wall=lambda: 0.0)
    assert (found.grade, found.subject) == (Grade.FINE, "notice of an end")
    assert "runpod (RUNPOD_POD_ID is set): SIGTERM: 5 s before the end" in found.what
    assert "before the notice" in found.means


def test_a_long_notice_means_nothing_more():
    """Two minutes are time enough, and no warning of too short a time comes."""
    found = told(Description("aws", "instance metadata", 120.0, 120.0, "http://x", True), "why")
    assert (found.grade, found.means, found.advice) == (Grade.FINE, "", "")


def test_the_time_for_a_last_backup_is_told_with_its_reason():
    """What SIGTERM leaves is shown with why, and what of it is planned with; the configuration says it better."""
    here = Grace(5.0, "RunPod kills so soon after SIGTERM")
    found = diagnose_grace(None, here)
    assert found.what == "SIGKILL comes after 5 s (RunPod kills so soon after SIGTERM); mlsync run plans with 4 s"
    assert (found.grade, bool(found.means)) == (Grade.FINE, True)
    assert "SIGKILL comes after 60 s (signal_grace in the configuration)" in diagnose_grace(60.0, here).what
    assert diagnose_grace(60.0, here).means == ""
