"""``mlsync iam-policy``: the document that grants a role the rights that it needs, and no others."""

from __future__ import annotations

import dataclasses
import json
from urllib.parse import urlsplit

import click

from mlsync.access.key_names import KeyName
from mlsync.access.place import PolicyForm, PolicyPlace
from mlsync.access.policy import PolicyRequest, make_policy, refuse_long
from mlsync.access.ram import make_ram_policy
from mlsync.access.rights import OF_ONE_RUN, RIGHTS, BucketRole
from mlsync.access.words import remarks
from mlsync.app.flow_options import store_options
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.reports.json import iam_policy_json
from mlsync.cli.terminal import output
from mlsync.config.model import Config
from mlsync.config.run_name import check_run_name
from mlsync.errors import ConfigInvalid, NotFound
from mlsync.kms.names import is_name
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.store.location import bucket_and_prefix

_EXAMPLES = """\b
Examples:
  mlsync iam-policy --role writer --run yolo > writer.json
  mlsync iam-policy s3://bucket/runs --role restorer --form ram -v
"""
_FORMS = [form.value for form in PolicyForm]
_SETTINGS = [right.setting for right in RIGHTS if right.setting]
_NARROWED = [role.value for role in OF_ONE_RUN]


def _key(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_name(value):
        raise click.BadParameter(f"{value!r} is no key of AWS KMS: give its ARN, its id, or alias/NAME")
    return value


@click.command("iam-policy", cls=Command, short_help="Print the least rights of a role, as JSON.", epilog=_EXAMPLES)
@click.argument("url", required=False)
@click.option(
    "--role",
    metavar="ROLE",
    type=click.Choice([role.value for role in BucketRole]),
    shell_complete=candidates.words(*(role.value for role in BucketRole)),
    help="What the credentials are for.  [required]",
)
@click.option(
    "--run",
    metavar="NAME",
    shell_complete=candidates.runs,
    help="Let a writer or prover write for this run only; opens the repository.",
)
@click.option(
    "--form",
    metavar="FORM",
    type=click.Choice(_FORMS),
    shell_complete=candidates.words(*_FORMS),
    default=PolicyForm.AWS.value,
    help="Whose policies: aws (default), minio, or ram (Aliyun's).",
)
@click.option(
    "--sse-kms-key",
    metavar="KEY",
    callback=_key,
    help="The key of AWS KMS by which the bucket's objects are encrypted.",
)
@common_options
def iam_policy_command(
    common: Common, url: str | None, role: str | None, run: str | None, form: str, sse_kms_key: str | None
) -> None:
    """Print the policy that grants a role the rights that it needs in the bucket, and no others.

    ROLE: writer backs up, and cannot overwrite or delete; prover adds proofs; restorer only reads; copier fills a
    mirror; pruner also deletes; admin also makes repositories. URL is a repository in a bucket; default: the configured
    one. -v says on stderr what each right is for. Nothing is changed: give the JSON to the store's own tools.
    """
    if role is None:
        # click's own words for this have a tab before each role.
        raise click.UsageError(f"give --role: {', '.join(role.value for role in BucketRole)}")
    if url is not None:
        if common.repo is not None:
            raise click.UsageError("give the repository once: as URL, or by --repo")
        common = dataclasses.replace(common, repo=url)
    config, monitor = common.configuration(), common.monitor()
    asked = _asked(common, config, monitor, BucketRole(role), PolicyForm(form), run=run, sse_key=sse_kms_key)
    policy = make_ram_policy(asked) if asked.place.form is PolicyForm.RAM else make_policy(asked)
    refuse_long(policy, asked.place.form)
    said = list(remarks(asked, policy, endpoint=urlsplit(config.s3.endpoint_url or "").hostname))
    if common.as_json:
        common.emit(iam_policy_json(config.repository, asked, run, policy, said))
        return
    for grade, text in said:
        monitor.notice(grade, text)
    for line in json.dumps(policy, indent=2).splitlines():
        output.say_line(line)


def _asked(
    common: Common,
    config: Config,
    monitor: Monitor,
    role: BucketRole,
    form: PolicyForm,
    *,
    run: str | None,
    sse_key: str | None,
) -> PolicyRequest:
    if config.repository_directory is not None:
        what = "a repository in a directory has no policy: owners and modes say who may do what there"
        raise ConfigInvalid(what, where=config.repository, advice="give the URL of one in a bucket: s3://bucket/prefix")
    if run is not None and role not in OF_ONE_RUN:
        raise ConfigInvalid(f"--role {role.value} cannot be limited to a run: --run is for {' and '.join(_NARROWED)}")
    from mlsync.store.s3.partition import partition_and_region  # late: boto3 takes a third of a second

    bucket, prefix = bucket_and_prefix(config.repository)
    partition, region = partition_and_region(store_options(config))
    slot_key = common.kms or config.key.kms_key
    # What encrypts without a key of one's own needs no right: the key of AWS allows whoever may use S3.
    bucket_key = sse_key or config.s3.kms_key_id
    return PolicyRequest(
        role,
        PolicyPlace(bucket, prefix, form, partition),
        run=None if run is None else _id_of(common, config, monitor, run),
        sse_key=None if bucket_key is None else KeyName(bucket_key, region, partition),
        slot_key=None
        if slot_key is None
        else KeyName(slot_key, common.kms_region or config.key.kms_region or region, partition),
        settings=frozenset(name for name in _SETTINGS if getattr(config.s3, name) is not None),
    )


def _id_of(common: Common, config: Config, monitor: Monitor, run: str) -> str:
    """Return the run's id, as it is in names of objects."""
    check_run_name(run)
    with common.session(config, monitor) as session:
        repository = session.repository
        found = names.parse_version(repository.version_key(run, 1))
        assert found is not None
        key = names.registration(found[0])
        try:
            repository.store.stat(key)
        except NotFound:
            monitor.notice("status", f"the repository has no run {run} yet: the policy is for the one that will be")
    return found[0].hex()
