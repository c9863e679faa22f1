"""``mlsync export``: plain copies of files of a version, for those who have no mlsync."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mlsync.app.flow_options import store_options
from mlsync.app.second_copy import is_within
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.limits import limit_download_option, limit_upload_option, limited
from mlsync.cli.arguments.options import VERSION_WORDS, Common, checked_version, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.reports.json import export_json
from mlsync.cli.terminal import output
from mlsync.cold.find import refuse_cold
from mlsync.config.model import Config
from mlsync.courtesy.timetable import Timetable
from mlsync.errors import ConfigInvalid, Stopped
from mlsync.monitor import Monitor
from mlsync.publish.export import CopyPlace, ExportOptions, chosen_files, export
from mlsync.versions.proof_status import manifest_of
from mlsync.versions.select import find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync export best weights/best.pt --to /srv/models/yolo
  mlsync export 12 'checkpoint-500/*' --to s3://models/llm
"""


@click.command(
    "export", cls=Command, short_help="Write plain copies of files, each with its SHA-256.", epilog=_EXAMPLES
)
@click.argument("version", callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@run_option
@click.option(
    "--to", "target", required=True, metavar="DIR|S3-URL", help="Where to: a directory, or s3://bucket/prefix."
)
@click.option("--force", is_flag=True, help="Replace files there that are others.")
@accept_rollback_option
@limit_upload_option
@limit_download_option
@common_options
def export_command(
    common: Common,
    version: str,
    paths: tuple[str, ...],
    run: str | None,
    target: str,
    force: bool,
    accept_rollback: bool,
    limit_upload: Timetable | None,
    limit_download: Timetable | None,
) -> None:
    """Write plain copies of files of VERSION: decrypted and checked, under their paths in it.

    PATH is a file, a directory, or a pattern in quotes; without one it is the version's one checkpoint, or best.*.
    Beside each copy is a file for sha256sum -c. What is there and the same is left alone, so an export that was killed
    goes on; anything else is not overwritten.
    """
    if target.startswith("hf:"):
        what = "mlsync exports to directories and buckets, and not to a hub"
        raise ConfigInvalid(what, advice="export to a directory, then: hf upload REPOSITORY DIR")
    config, monitor = common.configuration(), common.monitor()
    config = limited(config, upload=limit_upload, download=limit_download)
    with common.session(config, monitor, reads_mirrors=True) as session, stopping() as stop:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        repository = session.repository
        stored = find_version(repository, find_run(repository, run), version)
        manifest = manifest_of(repository, stored)
        files = chosen_files(manifest, map(os.fsencode, paths))
        refuse_cold(repository, manifest, files)

        def refuse_stopped() -> None:
            if stop.is_set():
                raise Stopped("the export was asked to stop")

        with _place(target, config, monitor) as place:
            done = export(repository, files, place, ExportOptions(force=force, stop=refuse_stopped), monitor)
    if common.as_json:
        common.emit(export_json(stored, done))
    elif not common.quiet:
        for one in done:
            output.say_line(f"{one.where}  {output.size(one.size_bytes)}{'' if one.is_new else '  was there'}")


@contextmanager
def _place(target: str, config: Config, monitor: Monitor) -> Iterator[CopyPlace]:
    """Yield where copies go; raise ``ConfigInvalid`` for a place inside the repository, and for what is no place."""
    if is_within(target, config):
        what = "the target is inside the repository, which holds nothing but what mlsync makes"
        raise ConfigInvalid(what, where=target, advice="give another --to")
    if target.startswith("s3:"):
        from mlsync.publish.to_bucket import BucketPlace  # late, as the client
        from mlsync.store.retry import RetryingStore
        from mlsync.store.s3.plain import PlainS3Store

        def report(call: str, error: Exception, wait_s: float) -> None:
            monitor.notice("info", f"{call} failed, trying again in {wait_s:.1f} s: {error}")

        store = RetryingStore(PlainS3Store(target, store_options(config)), on_wait=report)
        try:
            yield BucketPlace(store)
        finally:
            store.close()
        return
    if "://" in target and not target.startswith("file://"):
        raise ConfigInvalid(
            f"no place for an export: {target.partition('://')[0]}://…", advice="a directory, or s3://bucket/prefix"
        )
    from mlsync.publish.to_directory import DirectoryPlace

    with DirectoryPlace(Path(os.path.abspath(target.removeprefix("file://")))) as place:
        yield place
