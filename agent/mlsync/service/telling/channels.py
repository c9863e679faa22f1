"""The channels that the configuration names, with what is secret of them read from where it lies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlsync.app.secrets import read_secret_line
from mlsync.config.model import NotifySettings
from mlsync.errors import ConfigInvalid, Error
from mlsync.tell.event import NoticeEvent
from mlsync.tell.letter import Letter, Receipt, send


def letter_for(
    channel: NotifySettings, events: Sequence[NoticeEvent], environ: Mapping[str, str] = os.environ
) -> Letter:
    """Return the letter that tells *channel* of some events; raise an ``Error`` if its address is not to be had."""
    url = _secret(channel, channel.url_file, channel.url_variable, f"mlsync-notify-{channel.name}", environ)
    if not url:
        advice = "set url_file or url_variable, or give systemd a credential mlsync-notify-" + channel.name
        raise ConfigInvalid(f"no address for the channel {channel.name} in [[notify]]", advice=advice)
    credential = f"mlsync-notify-{channel.name}-secret"
    secret = _secret(channel, channel.secret_file, channel.secret_variable, credential, environ)
    return Letter(channel.channel, url, secret, channel.language, tuple(events))


def tell(channel: NotifySettings, events: Sequence[NoticeEvent]) -> Receipt:
    """Tell a channel of some events, by a process of its own; never raises."""
    try:
        letter = letter_for(channel, events)
    except Error as error:
        return Receipt(is_taken=False, said=str(error), was_reached=False)
    return send(letter)


def _secret(
    channel: NotifySettings, file: Path | None, variable: str | None, credential: str, environ: Mapping[str, str]
) -> str:
    """Return a secret of a channel from its file, its variable or systemd's credential; empty if there is none."""
    if file is not None:
        return _text(read_secret_line(file), channel)
    if variable is not None:
        if not environ.get(variable):
            what = f"the environment has no {variable}, which [[notify]] names for the channel {channel.name}"
            raise ConfigInvalid(what, advice="set it where the agent starts")
        return environ[variable].strip()
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        place = Path(directory) / credential
        if place.is_file():
            # systemd made it for this service alone, readable by its group too.
            with place.open("rb") as stream:
                return _text(stream.readline(65_536).strip(), channel)
    return ""


def _text(line: bytes, channel: NotifySettings) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ConfigInvalid(f"the address or secret of the channel {channel.name} is no text") from None
