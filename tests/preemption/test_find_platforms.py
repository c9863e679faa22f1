"""Which platform a machine is taken for, by its firmware and its environment."""

from __future__ import annotations

import pytest

from mlsync.errors import ConfigInvalid
from mlsync.preemption.find import find_platforms
from mlsync.preemption.names import NAMES


def found(tmp_path, fields=None, **environ):
    """The names of what is found, and why."""
    for name, text in (fields or {}).items():
        (tmp_path / name).write_text(text + "\n")
    return {one.platform.name: one.why for one in find_platforms(dmi=tmp_path, environ=environ)}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"sys_vendor": "Amazon EC2", "product_name": "g5.xlarge"}, "aws"),
        ({"sys_vendor": "Xen", "bios_version": "4.11.amazon"}, "aws"),
        ({"sys_vendor": "Google", "product_name": "Google Compute Engine"}, "gcp"),
        ({"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}, "azure"),
        ({"sys_vendor": "Alibaba Cloud", "product_name": "Alibaba Cloud ECS"}, "alibaba"),
        ({"sys_vendor": "Tencent Cloud", "product_name": "CVM"}, "tencent"),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}, "signal"),
        ({"sys_vendor": "QEMU"}, "signal"),
        ({}, "signal"),
    ],
)
def test_a_cloud_is_known_by_its_firmware(tmp_path, fields, name):
    """A hypervisor of the same maker elsewhere is not that cloud, and gets no request."""
    assert list(found(tmp_path, fields)) == [name]


@pytest.mark.parametrize(
    ("variable", "name"),
    [("RUNPOD_POD_ID", "runpod"), ("VAST_CONTAINERLABEL", "vast"), ("SM_TRAINING_ENV", "sagemaker")],
)
def test_a_rented_container_does_not_ask_the_machine_below(tmp_path, variable, name):
    """Whose machine it is, is not said to it."""
    assert list(found(tmp_path, {"sys_vendor": "Amazon EC2"}, **{variable: "x"})) == [name]


def test_a_scheduler_and_the_cloud_below_are_both_listened_to(tmp_path):
    """Slurm tells of the job's time, the cloud of the machine."""
    names = found(tmp_path, {"sys_vendor": "Google"}, SLURM_JOB_ID="5", KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert list(names) == ["gcp", "slurm", "kubernetes"]
    assert names["slurm"] == "SLURM_JOB_ID is set"


def test_every_name_of_the_configuration_makes_its_platform():
    """The names that the configuration takes are those of the platforms, in order."""
    assert [one.platform.name for one in find_platforms(NAMES, environ={})] == list(NAMES)


def test_firmware_that_cannot_be_read_is_passed_over(tmp_path):
    """A field may be missing, a directory, or long."""
    (tmp_path / "sys_vendor").mkdir()
    (tmp_path / "product_name").write_bytes(b"Google" + b"\xff" * 10_000)
    assert list(found(tmp_path)) == ["gcp"]


def test_an_override_that_leads_elsewhere_is_refused(tmp_path):
    """It is found when the agent starts, not at the first question."""
    with pytest.raises(ConfigInvalid):
        found(tmp_path, {"sys_vendor": "Google"}, MLSYNC_METADATA_ENDPOINT="http://192.0.2.1")
