"""Find what opens the repository: in a file, the environment, a systemd credential, or by a prompt."""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from mlsync.app.privacy import PASSPHRASE_VARIABLE
from mlsync.app.wording import count
from mlsync.config.model import KeySettings
from mlsync.config.trust import refuse_untrusted
from mlsync.errors import ConfigInvalid, PassphraseMissing, PassphraseWeak, WrongPassphrase
from mlsync.repository.keys import recovery_key
from mlsync.repository.keys.keyslot import KeyFile, KmsKey, Passphrase, RecoveryKey, Unlock
from mlsync.repository.keys.write_only_file import decode, is_write_only_file

CREDENTIAL_PASSPHRASE = "mlsync-passphrase"  # noqa: S105 - the name of a credential, not the secret
CREDENTIAL_KEY = "mlsync-key"
# No secret: whoever knows a key's name can do nothing with it.
KMS_KEY_VARIABLE = "MLSYNC_KMS_KEY"
SECRET_BYTES_MAX = 64 * 1024
# Shorter ones can be guessed, however slow each guess is made.
PASSPHRASE_CHARS_MIN = 8
_SUGGESTED_GROUPS, _SUGGESTED_GROUP_CHARS = 5, 4
_SUGGESTED_FROM = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 characters that nobody confuses: 100 bits in all

Prompt = Callable[[str], str]


def find_secret(
    configured: KeySettings,
    asked: KeySettings | None = None,
    *,
    passphrase: str | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
    prompt: Prompt | None = None,
    confirm: bool = False,
    check: Callable[[Unlock], None] = lambda _secret: None,
    before_prompt: Callable[[], object] = lambda: None,
) -> Unlock:
    """Return the secret from the first place that has one.

    The places are *asked* (options), the environment (*passphrase* was taken out of it at the start), *configured*,
    systemd's credentials, and a person, who is asked only at a terminal or through *prompt*, twice with *confirm*.
    *profile* has the credentials for a key of KMS if none of these says another one. *before_prompt* is called before a
    person is asked, and can raise what makes asking useless. *check* is called with what was found, or typed the first
    time, and can raise what is wrong with it.
    """
    asked = asked or KeySettings()
    reached = asked.over(configured).over(KeySettings(kms_profile=profile))
    secret = _from_settings(asked, reached) or _from_environment(passphrase, environ, reached)
    secret = secret or _from_settings(configured, reached) or _from_credentials(environ)
    if secret is not None:
        check(secret)
        return secret
    prompt = prompt or _at_terminal()
    if prompt is None:
        raise _missing()
    before_prompt()
    return _from_person(prompt, "Passphrase", confirm=confirm, check=check)


def find_new_secret(
    asked: KeySettings,
    *,
    profile: str | None = None,
    prompt: Prompt | None = None,
    check: Callable[[Unlock], None] = lambda _secret: None,
) -> Unlock:
    """Return a secret for another key slot: what was *asked* for, or typed twice by a person.

    *profile* and *check* are as in ``find_secret``.
    """
    secret = _from_settings(asked, asked.over(KeySettings(kms_profile=profile)))
    if secret is not None:
        check(secret)
        return secret
    prompt = prompt or _at_terminal()
    if prompt is None:
        advice = "give --new-passphrase-file, --new-key-file, --new-kms or --recovery, or run it at a terminal"
        raise PassphraseMissing("no new passphrase and no new key file", advice=advice)
    return _from_person(prompt, "New passphrase", confirm=True, check=check)


def _from_settings(settings: KeySettings, reached: KeySettings) -> Unlock | None:
    """Return what *settings* name; *reached* says how KMS is reached."""
    if settings.passphrase_file and settings.key_file:
        raise ConfigInvalid("both a passphrase file and a key file were given", advice="keep one of them")
    if settings.kms_key and (settings.passphrase_file or settings.key_file):
        raise ConfigInvalid("both a key of AWS KMS and a secret's file were given", advice="keep one of them")
    if settings.write_only_key_file:
        place = settings.write_only_key_file
        return decode(_read(place), str(place))
    if settings.kms_key:
        return _kms_key(settings.kms_key, reached)
    if settings.key_file:
        secret = _not_empty(_read(settings.key_file), str(settings.key_file))
        if is_write_only_file(secret):
            advice = "it goes under [key] in the configuration: write_only_key_file"
            raise ConfigInvalid(
                "this is a write-only key, and no key file", where=str(settings.key_file), advice=advice
            )
        return KeyFile(secret)
    if settings.passphrase_file:
        return _passphrase(_line(_read(settings.passphrase_file)), str(settings.passphrase_file))
    return None


def _from_environment(passphrase: str | None, environ: Mapping[str, str], reached: KeySettings) -> Unlock | None:
    name = environ.get(KMS_KEY_VARIABLE)
    if name and passphrase is not None:
        raise ConfigInvalid(f"both {PASSPHRASE_VARIABLE} and {KMS_KEY_VARIABLE} are set", advice="keep one of them")
    if name:
        return _kms_key(name, reached)
    return None if passphrase is None else _passphrase(os.fsencode(passphrase), PASSPHRASE_VARIABLE)


def _kms_key(name: str, reached: KeySettings) -> KmsKey:
    from mlsync.kms.key import AwsKey  # late: most machines have a secret of their own

    return KmsKey(AwsKey(name, reached.kms_region, reached.kms_endpoint_url, reached.kms_profile))


def _from_credentials(environ: Mapping[str, str]) -> Unlock | None:
    """Return the credential that systemd gave this service, from a directory that systemd protects."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    passphrase, key = Path(directory) / CREDENTIAL_PASSPHRASE, Path(directory) / CREDENTIAL_KEY
    # The modes are not checked: systemd uses an access list, which looks like a group's right to read.
    if passphrase.exists():
        return _passphrase(_line(_read(passphrase, guarded=True)), str(passphrase))
    if key.exists():
        return KeyFile(_not_empty(_read(key, guarded=True), str(key)))
    return None


def _at_terminal() -> Prompt | None:
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    from getpass import getpass  # late: machines have the secret in a file

    return getpass


def _from_person(prompt: Prompt, what: str, *, confirm: bool, check: Callable[[Unlock], None]) -> Unlock:
    try:
        typed = os.fsencode(prompt(f"{what}: "))
        secret = _passphrase(typed, "the prompt")
        check(secret)
        if confirm and os.fsencode(prompt(f"{what} again: ")) != typed:
            raise PassphraseMissing("the two passphrases differ; nothing was done")
    except EOFError:
        raise _missing() from None
    return secret


def read_secret_line(file: Path) -> bytes:
    """Return the first line of a secret's file; raise an ``Error`` for one that others can read."""
    lines = _read(file).splitlines()
    return lines[0].strip() if lines else b""


def _read(file: Path, *, guarded: bool = False) -> bytes:
    """Return the bytes of a secret's file; refuse one that others can read or, as root, one that others can change."""
    if not guarded:
        refuse_untrusted(file, "a secret's file")
    try:
        with file.open("rb") as stream:
            info = os.fstat(stream.fileno())
            # The mode of a pipe, as of a shell's <(command), says nothing.
            if not guarded and stat.S_ISREG(info.st_mode) and info.st_mode & 0o077:
                mode = f"{stat.S_IMODE(info.st_mode):04o}"
                raise PassphraseMissing(
                    f"other users may read this secret, its mode is {mode}", where=str(file), advice=f"chmod 600 {file}"
                )
            secret = stream.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise PassphraseMissing(f"the secret cannot be read: {error.strerror}", where=str(file)) from error
    if len(secret) > SECRET_BYTES_MAX:
        raise PassphraseMissing(f"a secret of more than {SECRET_BYTES_MAX} bytes", where=str(file))
    return secret


def _line(secret: bytes) -> bytes:
    """Return the secret without the line end that editors and ``echo`` add."""
    return secret.removesuffix(b"\n").removesuffix(b"\r")


def _passphrase(given: bytes, where: str) -> Passphrase | RecoveryKey:
    """Return a passphrase in the form of ``docs/format.md``: text in NFC and UTF-8, other bytes unchanged.

    Keyboards and systems send the same letters composed or decomposed, and both have to open the same repository. A
    recovery key is typed wherever a passphrase is.
    """
    with suppress(UnicodeDecodeError):
        text = given.decode()
        typed = recovery_key.read(text)
        if typed is not None:
            return _recovery_key(*typed, where)
        given = unicodedata.normalize("NFC", text).encode()
    return Passphrase(_not_empty(given, where))


def _recovery_key(secret: bytes, wrong_groups: list[int], where: str) -> RecoveryKey:
    if wrong_groups:
        groups = " and ".join(map(str, wrong_groups))
        what = f"the recovery key has a mistake in group {groups} of 13"
        raise WrongPassphrase(what, where=where, advice="compare each letter with the paper")
    return RecoveryKey(secret)


def accept_all(_new: Unlock) -> None:
    """Accept a passphrase that can be guessed, as ``--allow-weak`` asks."""


def refuse_weak(new: Unlock) -> None:
    """Raise ``PassphraseWeak``, with a suggestion, for a new passphrase that can be guessed."""
    if not isinstance(new, Passphrase):
        return
    chars = len(new.secret.decode(errors="surrogateescape"))
    if chars < PASSPHRASE_CHARS_MIN:
        raise PassphraseWeak(
            f"a passphrase of {count(chars, 'character')} can be guessed; the minimum is {PASSPHRASE_CHARS_MIN}",
            advice=f"take a longer one, such as {_suggested()}, made just now, or give --allow-weak",
        )


def _suggested() -> str:
    """Return a new random passphrase."""
    from secrets import choice

    groups = ("".join(choice(_SUGGESTED_FROM) for _ in range(_SUGGESTED_GROUP_CHARS)) for _ in range(_SUGGESTED_GROUPS))
    return "-".join(groups)


def _not_empty(secret: bytes, where: str) -> bytes:
    if not secret:
        raise PassphraseMissing("the secret is empty", where=where)
    return secret


def _missing() -> PassphraseMissing:
    return PassphraseMissing(
        "no passphrase and no key file",
        advice=f"give --passphrase-file, --key-file, --kms, {PASSPHRASE_VARIABLE}, [key] in the configuration, a "
        f"systemd credential named {CREDENTIAL_PASSPHRASE} or {CREDENTIAL_KEY}, or run it at a terminal",
    )
