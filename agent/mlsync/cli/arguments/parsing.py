"""How commands take their words: options that all commands have, before or after the command, and their help."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click
from click.core import ParameterSource

from mlsync.cli.arguments import candidates

if TYPE_CHECKING:
    from pathlib import Path

F = TypeVar("F", bound=Callable[..., Any])


class _FilePath(click.Path):
    """A path that becomes a ``Path``, which a call without one does not import."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path as a ``Path``."""
        from pathlib import Path

        return Path(os.fsdecode(super().convert(value, param, ctx)))


_PATH: Final = _FilePath()


class CommonOption(click.Option):
    """An option that all commands have."""


class _S3Option(CommonOption):
    """One that a user of S3 sets once, in the configuration: mlsync's own help only names it."""


class _KmsOption(CommonOption):
    """One for keys of AWS KMS, which mlsync's own help only names as well."""


class _ShortHelp(click.Command):
    """Help on one screen: options that all commands have are listed once, by the command that all are below of."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands of a group, then the options."""
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            # The text explains the arguments.
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                (common if isinstance(parameter, CommonOption) else own).append(record)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        if ctx.parent is None:
            self._format_all_options(ctx, formatter)
            return
        _write_list(formatter, "Options", own)
        if common:
            formatter.write_paragraph()
            formatter.write_text(f"Common options: see {ctx.find_root().command_path} --help")

    def _format_all_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each option that all commands have, the rare ones by name only, and on one line those that exit."""
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        named = {one: record for one in options if (record := one.get_help_record(ctx))}
        common = [record for one, record in named.items() if type(one) is CommonOption]
        exiting = ", ".join(term for one, (term, _) in named.items() if not isinstance(one, CommonOption))
        of_s3, of_kms = (
            ", ".join(one.opts[0] for one in named if isinstance(one, kind)) for kind in (_S3Option, _KmsOption)
        )
        with formatter.section("Options before or behind any command (its own: mlsync COMMAND --help)"):
            formatter.write_dl([*common, (exiting, "Show the version, or this message, and exit.")])
            lines = textwrap.wrap(f"S3: {of_s3}; KMS: {of_kms} (see docs)", formatter.width - 2, break_on_hyphens=False)
            formatter.write(textwrap.indent("\n".join(lines) + "\n", "  "))


class Command(_ShortHelp):
    """A command that opens a repository."""


class Group(_ShortHelp, click.Group):
    """A group whose options count as if they stood behind the command, where the same option overrides them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of that name; refuse an unknown one, and options that it does not have."""
        if not ctx.resilient_parsing:
            self._refuse_unknown(ctx, args[0])
        name, command, words = super().resolve_command(ctx, args)
        if name is not None:
            given = {key: value for key, value in ctx.params.items() if _is_given(ctx, key)}
            before = {**(ctx.default_map or {}), **given}
            if not isinstance(command, click.Group) and not ctx.resilient_parsing:
                _refuse_options(ctx, command, name, before)
            # What click takes as the defaults of the command.
            ctx.default_map = {name: before}
        return name, command, words

    def _refuse_unknown(self, ctx: click.Context, name: str) -> None:
        # Words that begin with a dash are left to click.
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            import difflib  # late: no command that exists needs it

            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            question = f" Did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"No such command '{name}'.{question}", ctx)


def with_common_options(function: F) -> F:
    """Give a command or group the options that all commands have, as arguments one by one."""
    command: Callable[..., Any] = function
    for option in reversed(_OPTIONS):
        command = option(command)
    return cast("F", command)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse_options(ctx: click.Context, command: click.Command | None, name: str, before: dict[str, Any]) -> None:
    """Refuse options that were given before a command that would ignore them."""
    taken = {parameter.name for parameter in command.params} if command else set()
    for option in ctx.find_root().command.params:
        if option.name in before and option.name not in taken:
            raise click.UsageError(f"{ctx.command_path} {name} has no option {option.opts[-1]}.", ctx)


def _write_list(formatter: click.HelpFormatter, title: str, records: list[tuple[str, str]]) -> None:
    if records:
        with formatter.section(title):
            formatter.write_dl(records)


_OPTIONS: Final = (
    click.option(
        "--config",
        cls=CommonOption,
        type=_PATH,
        metavar="FILE",
        help="Configuration; default: MLSYNC_CONFIG, else init's.",
    ),
    click.option(
        "--repo",
        cls=CommonOption,
        shell_complete=candidates.directories,
        metavar="URL",
        help="Repository: /path, file:///path, s3://bucket/prefix.",
    ),
    click.option(
        "--endpoint-url",
        cls=_S3Option,
        metavar="URL",
        help="S3 server that is not AWS's (MinIO, Ceph, R2 ...).",
    ),
    click.option("--region", cls=_S3Option, metavar="NAME", help="S3 region."),
    click.option("--profile", cls=_S3Option, metavar="NAME", help="Profile in ~/.aws with the S3 keys."),
    click.option(
        "--addressing",
        cls=_S3Option,
        type=click.Choice(("auto", "path", "virtual")),
        metavar="FORM",
        help="Bucket's name in the path, virtual (host), or auto.",
    ),
    click.option(
        "--ca-file", cls=_S3Option, type=_PATH, metavar="FILE", help="Certificate authority of a private S3 server."
    ),
    click.option(
        "--payload-signing",
        cls=_S3Option,
        type=click.Choice(("auto", "always", "never")),
        metavar="WHEN",
        help="Sign the bodies of S3 requests: auto, never or always.",
    ),
    click.option(
        "--passphrase-file",
        cls=CommonOption,
        type=_PATH,
        metavar="FILE",
        help="Passphrase; default: MLSYNC_PASSPHRASE or a prompt.",
    ),
    click.option(
        "--key-file",
        cls=CommonOption,
        type=_PATH,
        metavar="FILE",
        help="Key, instead of a passphrase.",
    ),
    click.option(
        "--kms",
        cls=_KmsOption,
        metavar="KEY",
        help="Key of AWS KMS, instead of a passphrase: ARN, id or alias/NAME.",
    ),
    click.option("--kms-region", cls=_KmsOption, metavar="NAME", help="The KMS key's Region, if KEY is no ARN."),
    click.option("--kms-endpoint-url", cls=_KmsOption, metavar="URL", help="Address of AWS KMS in a private network."),
    click.option(
        "--json",
        "as_json",
        cls=CommonOption,
        is_flag=True,
        help="Print one JSON value on stdout, for errors too.",
    ),
    click.option(
        "-q",
        "--quiet",
        cls=CommonOption,
        is_flag=True,
        help="Print only the result and errors.",
    ),
    click.option(
        "-v",
        "--verbose",
        cls=CommonOption,
        count=True,
        help="Also print what mlsync does; -vv logs each step.",
    ),
)
