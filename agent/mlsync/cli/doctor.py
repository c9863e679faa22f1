"""``mlsync doctor``: look at everything that backups depend on, and say what is wrong and what to do."""

from __future__ import annotations

import click

from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.reports.doctor_report import print_findings
from mlsync.cli.reports.json import doctor_json
from mlsync.cli.terminal import output
from mlsync.doctor.doctor import diagnose
from mlsync.doctor.findings import Grade
from mlsync.errors import GraveFound

_EXAMPLES = """\b
Examples:
  mlsync doctor
  mlsync doctor --json --no-write
"""


@click.command(
    "doctor",
    cls=Command,
    short_help="Look at disks, store, rights, clock and keys.",
    epilog=_EXAMPLES,
)
@click.option("--no-write", is_flag=True, help="Make no test object in the store.")
@common_options
def doctor_command(common: Common, *, no_write: bool) -> None:
    """Look at what backups depend on, say what each finding means, and what to do.

    Does a disk die with the machine? Does the store answer, what may these credentials do there, is it public, would
    its lifecycle delete versions? Is there a second key slot? Are clock, room, inotify, files and proofs fine?

    Asks for no passphrase. To try what is allowed it makes an object of one byte with a random name and removes it;
    --no-write leaves that out. Each check has five seconds. Ends with 103 if something grave was found.
    """
    config = common.configuration()
    found = diagnose(config, writes=not no_write)
    if common.as_json:
        common.emit(doctor_json(config.repository, found))
    else:
        print_findings(found, quiet=common.quiet)
    grave = sum(1 for one in found if one.grade is Grade.GRAVE)
    if grave:
        raise GraveFound(output.count(grave, "grave finding"), where=config.repository)
