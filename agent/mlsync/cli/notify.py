"""``mlsync notify``: try the channels of the configuration."""

from __future__ import annotations

import socket
import time

import click

from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command, Group
from mlsync.cli.reports.json import notify_json
from mlsync.cli.terminal import output
from mlsync.config.model import Config, NotifySettings
from mlsync.errors import ConfigInvalid, NoticeRefused, NoticeUndelivered
from mlsync.service.telling.channels import letter_for
from mlsync.tell.event import NoticeEvent
from mlsync.tell.letter import Receipt, send

_TEST_EXAMPLES = """\b
Examples:
  mlsync notify test
  mlsync notify test wecom --json
"""
_EXAMPLES = """\b
Examples:
  mlsync notify test
  mlsync notify test dingtalk
"""


@click.group("notify", cls=Group, short_help="Try the channels that are told of events.", epilog=_EXAMPLES)
def notify_command() -> None:
    """Try the channels of [[notify]]: bots of WeCom, DingTalk, Feishu and Slack, webhooks.

    The agent tells them of new best checkpoints, broken ones, a store that is away and more.
    """


@notify_command.command(
    "test", cls=Command, short_help="Send a test and say what each answered.", epilog=_TEST_EXAMPLES
)
@click.argument("name", metavar="[CHANNEL]", required=False)
@common_options
def test_command(common: Common, name: str | None) -> None:
    """Send a test to each channel of the configuration, or to CHANNEL, and say what the service answered.

    Ends with 106 if a service refused the test, and with 107 if one was not reached.
    """
    config = common.configuration()
    event = NoticeEvent("test", at_s=time.time(), host=socket.gethostname())
    answers = [(channel, send(letter_for(channel, [event]))) for channel in _picked(config, name)]
    if common.as_json:
        common.emit(notify_json(answers))
    elif not common.quiet:
        for channel, answer in answers:
            output.say_wrapped(
                f"{channel.name}: {'taken' if answer.is_taken else 'NOT TAKEN'}: {answer.said}", rest="  "
            )
    _raise(answers)


def _picked(config: Config, name: str | None) -> list[NotifySettings]:
    where = None if config.path is None else str(config.path)
    if not config.channels:
        raise ConfigInvalid("no channel is configured", where=where, advice="docs/notifications.md shows a [[notify]]")
    picked = [one for one in config.channels if name in (None, one.name)]
    if not picked:
        known = ", ".join(one.name for one in config.channels)
        raise ConfigInvalid(f"no channel named {name!r}", where=where, advice=f"there are: {known}")
    return picked


def _raise(answers: list[tuple[NotifySettings, Receipt]]) -> None:
    away = [channel.name for channel, answer in answers if not answer.was_reached]
    refused = [channel.name for channel, answer in answers if answer.was_reached and not answer.is_taken]
    if refused:
        raise NoticeRefused("a channel did not take the test", where=", ".join(refused))
    if away:
        raise NoticeUndelivered("a channel was not reached", where=", ".join(away))
