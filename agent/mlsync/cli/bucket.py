"""``mlsync bucket``: set up a bucket for a repository, and a second one with a copy of it; show what it is set to."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from mlsync.app.flow_options import store_options
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command, Group
from mlsync.cli.reports.bucket_report import print_done, print_plan, print_shown
from mlsync.cli.reports.doctor_report import print_findings
from mlsync.cli.reports.json import bucket_plan_json, bucket_show_json
from mlsync.cli.terminal import output
from mlsync.config.model import Config
from mlsync.doctor.doctor import longest_grace_s
from mlsync.doctor.findings import Grade, examine
from mlsync.errors import BucketDiffers, BucketUnconfirmed, ConfigInvalid, GraveFound, StoreLocationInvalid

if TYPE_CHECKING:
    from mlsync.bucket.apply import BucketApplied
    from mlsync.bucket.setup import BucketSetup
    from mlsync.bucket.steps import BucketPlan
    from mlsync.bucket.wanted import Wanted

_EXAMPLES = """\b
Examples:
  mlsync bucket apply s3://ckpt --region eu-central-1
  mlsync bucket show s3://ckpt
"""
_PLAN_EXAMPLES = """\b
Examples:
  mlsync bucket plan s3://ckpt/runs --tier STANDARD_IA:30 --tier GLACIER:120
  mlsync bucket plan s3://ckpt --region eu-central-1 --terraform > ckpt.tf
"""
_APPLY_EXAMPLES = """\b
Examples:
  mlsync bucket apply s3://ckpt --region eu-central-1
  mlsync bucket apply --replicate-to s3://copy --second-region eu-west-1
"""
_SHOW_EXAMPLES = """\b
Examples:
  mlsync bucket show
  mlsync bucket show s3://ckpt/runs --json
"""
# By the names of the settings, which would cost the import of what asks for them.
SKIPPED: Final = {
    "public": "PUBLIC",
    "versioning": "VERSIONS",
    "encryption": "ENCRYPTION",
    "lifecycle": "LIFECYCLE",
    "lock": "LOCK",
    "policy": "POLICY",
    "replication": "REPLICATION",
}
_MODES: Final = ("governance", "compliance")


@click.group("bucket", cls=Group, short_help="Set up a bucket, and a second one with a copy.", epilog=_EXAMPLES)
def bucket_command() -> None:
    """Set a bucket up for a repository, before mlsync init or later.

    No public access, versioning, encryption, packs to colder classes, no heaps of old versions and unfinished uploads;
    if wanted a lock, and a second bucket elsewhere that S3 keeps a copy in. Rules that are not mlsync's stay.
    """


def _wanting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say what is wanted; it gets them as they were given."""
    options = (
        click.argument("url", required=False),
        click.option("--tier", "tiers", multiple=True, metavar="CLASS:DAYS",
                     help="Move packs there; several times, or none."),
        click.option("--noncurrent-days", type=int, metavar="N", help="Keep deleted objects so many days. [30]"),
        click.option("--abort-uploads-days", type=int, metavar="N", help="Drop unfinished uploads then. [7]"),
        click.option("--sse-kms-key", metavar="ARN", help="Encrypt by this key; none: S3's own."),
        click.option("--lock-days", type=int, metavar="N", help="Lock new objects for so many days."),
        click.option("--lock-mode", type=click.Choice(_MODES), metavar="MODE",
                     help="governance (default), or compliance: nobody lifts it."),
        click.option("--replicate-to", metavar="URL", help="Have S3 copy new objects to that bucket."),
        click.option("--second-region", metavar="REGION", help="Where to make that one."),
        click.option("--second-kms-key", metavar="ARN", help="Its key, if the first has one."),
        click.option("--skip", "skipped", multiple=True, type=click.Choice(tuple(SKIPPED)), metavar="SETTING",
                     help=f"Leave alone: {', '.join(SKIPPED)}."),
    )  # fmt: skip
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


@bucket_command.command("plan", cls=Command, short_help="Show what apply would change.", epilog=_PLAN_EXAMPLES)
@_wanting
@click.option("--check", is_flag=True, help="End with 104 if anything would change.")
@click.option("--terraform", is_flag=True, help="Print it as HCL instead; asks no server.")
@click.option("--cloudformation", is_flag=True, help="Print a template instead; asks no server.")
@common_options
def plan_command(
    common: Common, url: str | None, *, check: bool, terraform: bool, cloudformation: bool, **given: Any
) -> None:
    """Show what apply would change: + is added, ~ changed, - removed; = is so already.

    What no option names stays as it is, or gets the default (--tier: STANDARD_IA:30 and GLACIER_IR:90). Ends with 104
    if something cannot be seen, or cannot be as it was asked for.
    """
    config = _configuration(common, url)
    wanted = _wanted(config, given)
    if terraform or cloudformation:
        _print_documents(wanted, config, terraform=terraform, cloudformation=cloudformation)
        return
    with _opened(wanted, config) as setup:
        found = setup.plan()
        assert setup.seen is not None
        found = _with_findings(found, setup)
        if common.as_json:
            common.emit(bucket_plan_json(setup.seen, found, None, found))
        else:
            print_plan(setup.seen, found, quiet=common.quiet)
            if found.changes and not common.quiet:
                output.say_wrapped("Nothing was changed. mlsync bucket apply does this.")
    left = [step for step in found.open if check or not step.is_change]
    if left:
        names = ", ".join(dict.fromkeys(step.name for step in left))
        raise BucketDiffers(f"{output.count(len(left), 'setting')} not as asked for: {names}", where=wanted.bucket)


@bucket_command.command("apply", cls=Command, short_help="Set the bucket up.", epilog=_APPLY_EXAMPLES)
@_wanting
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def apply_command(common: Common, url: str | None, *, yes: bool, **given: Any) -> None:
    """Show what changes, ask, change it, and look whether it holds. A second time changes nothing.

    What no option names stays as it is, or gets the default (--tier: STANDARD_IA:30 and GLACIER_IR:90). What fails is
    named, the rest goes on, and the end is 104.
    """
    config = _configuration(common, url)
    wanted = _wanted(config, given)
    with _opened(wanted, config) as setup:
        found = setup.plan()
        assert setup.seen is not None
        found = _with_findings(found, setup)
        if not common.as_json:
            print_plan(setup.seen, found, quiet=common.quiet)
        applied, after = None, found
        if found.changes:
            if not yes:
                _confirm(as_json=common.as_json)
            applied = setup.carry_out(found)
            after = setup.plan()
        if common.as_json:
            common.emit(bucket_plan_json(setup.seen, found, applied, after))
        else:
            print_done(applied, after, quiet=common.quiet)
    _refuse(wanted, applied, after)


@bucket_command.command("show", cls=Command, short_help="Show what a bucket is set to.", epilog=_SHOW_EXAMPLES)
@click.argument("url", required=False)
@common_options
def show_command(common: Common, url: str | None) -> None:
    """Show what the bucket is set to, and what is wrong with that; changes nothing.

    Would a rule delete or hide versions? Is it public? Is the lock shorter than the grace? Does the key work? Does the
    copy arrive? Ends with 103 if something is grave, as mlsync doctor does.
    """
    from mlsync.bucket.facts import look  # late, with what asks S3
    from mlsync.bucket.providers import provider_of
    from mlsync.doctor.bucket import checks_of_bucket
    from mlsync.store.s3.inspection import BucketInspection
    from mlsync.store.s3.settings import BucketSettings

    config = _configuration(common, url)
    options = store_options(config)
    settings = BucketSettings(config.repository, options)
    inspection = BucketInspection(config.repository, options)
    try:
        facts, provider = look(settings, lambda server: provider_of(options.endpoint_url, server))
        if not facts.exists:
            advice = "mlsync bucket apply makes it"
            raise StoreLocationInvalid("there is no such bucket", where=config.repository, advice=advice)
        findings = examine(list(checks_of_bucket(lambda: inspection, longest_grace_s(config))))
    finally:
        settings.close()
        inspection.close()
    if common.as_json:
        common.emit(bucket_show_json(facts, provider, findings))
    else:
        print_shown(facts, provider)
        output.say()
        print_findings(findings, quiet=common.quiet)
    grave = sum(1 for one in findings if one.grade is Grade.GRAVE)
    if grave:
        raise GraveFound(output.count(grave, "grave finding"), where=config.repository)


def _configuration(common: Common, url: str | None) -> Config:
    """Return the configuration, of the bucket that the command names or of the configured repository."""
    if url is not None and common.repo is not None and url != common.repo:
        raise ConfigInvalid("two buckets were named", where=f"{url}, {common.repo}", advice="give one of them")
    config = (common if url is None else dataclasses.replace(common, repo=url)).configuration()
    if not config.repository.startswith("s3:"):
        raise ConfigInvalid("a directory has no bucket", where=config.repository, advice="give s3://BUCKET/PREFIX")
    return config


def _wanted(config: Config, given: dict[str, Any]) -> Wanted:
    """Return what the options ask for; raise ``ConfigInvalid`` for what makes no sense."""
    from mlsync.bucket.wanted import DefaultLock, Wanted, second_of, tiers_of
    from mlsync.store.location import bucket_and_prefix
    from mlsync.store.s3.settings import Setting

    bucket, prefix = bucket_and_prefix(config.repository)
    lock = None
    if given["lock_days"] is not None:
        lock = DefaultLock(given["lock_days"], (given["lock_mode"] or _MODES[0]).upper())
    elif given["lock_mode"] is not None:
        raise ConfigInvalid("--lock-mode is about a lock", advice="say for how long: --lock-days")
    return Wanted(
        bucket,
        prefix,
        tiers=tiers_of(given["tiers"]),
        noncurrent_days=given["noncurrent_days"],
        abort_days=given["abort_uploads_days"],
        kms_key=given["sse_kms_key"] or _own_key(config, replicates=given["replicate_to"] is not None),
        lock=lock,
        second=second_of(given["replicate_to"], given["second_region"], given["second_kms_key"], prefix),
        skip=frozenset(Setting[SKIPPED[name]] for name in given["skipped"]),
        grace_s=longest_grace_s(config),
    )


def _with_findings(found: BucketPlan, setup: BucketSetup) -> BucketPlan:
    """Add to the notes of a plan what rules of others in the lifecycle, which stay, do to the repository."""
    from mlsync.doctor.bucket import lifecycle_found
    from mlsync.store.s3.inspection import lifecycle_rules
    from mlsync.store.s3.settings import Setting

    assert setup.seen is not None
    rules = lifecycle_rules(setup.seen.first.answer(Setting.LIFECYCLE).document)
    hurts = [one for one in lifecycle_found(rules, setup.prefix) if one.grade is not Grade.FINE]
    notes = tuple(f"{one.what}: {one.means} ({one.advice})" for one in hurts)
    return dataclasses.replace(found, notes=(*found.notes, *notes))


def _own_key(config: Config, *, replicates: bool) -> str | None:
    """Return the key by which mlsync itself has new objects encrypted, if the configuration names one by its ARN."""
    key = config.s3.kms_key_id if (config.s3.sse or "").startswith("aws:kms") else None
    if key is not None and key.startswith("arn:") and ":key/" in key:
        return key
    if replicates and (config.s3.sse or "").startswith("aws:kms"):
        what = "objects are encrypted by sse under [s3], and replication needs the key's ARN"
        raise ConfigInvalid(what, advice="set kms_key_id to it, or give --sse-kms-key")
    return None


@contextmanager
def _opened(wanted: Wanted, config: Config) -> Iterator[BucketSetup]:
    from mlsync.bucket.setup import BucketSetup

    setup = BucketSetup(wanted, store_options(config))
    try:
        yield setup
    finally:
        setup.close()


def _print_documents(wanted: Wanted, config: Config, *, terraform: bool, cloudformation: bool) -> None:
    from mlsync.bucket import cloudformation as as_template
    from mlsync.bucket import terraform as as_hcl
    from mlsync.bucket.setup import as_asked

    if terraform and cloudformation:
        raise ConfigInvalid("--terraform and --cloudformation are two documents", advice="give one of them")
    seen = as_asked(wanted, store_options(config))
    for line in (as_hcl.document(wanted, seen) if terraform else as_template.document(wanted, seen)).splitlines():
        output.say_line(line)


def _confirm(*, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise BucketUnconfirmed("nothing was changed: there is no terminal to ask on")
    if not click.confirm("Do this?", err=True):
        raise BucketUnconfirmed("nothing was changed")


def _refuse(wanted: Wanted, applied: BucketApplied | None, after: BucketPlan) -> None:
    """Raise ``BucketDiffers`` if the bucket is not as it was asked for."""
    failed = [] if applied is None else [step.name for step, _ in applied.failed]
    names = list(dict.fromkeys([*failed, *(step.name for step in after.open)]))
    if names:
        what = f"{output.count(len(names), 'setting')} not as asked for: {', '.join(names)}"
        raise BucketDiffers(what, where=wanted.bucket)
