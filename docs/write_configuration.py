"""Writes ``docs/configuration.md`` out of the keys of the configuration: ``python docs/write_configuration.py``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from mlsync.config.every import INTERVAL_MIN_S
from mlsync.config.keys import Key
from mlsync.config.model import TABLES, TOP

PAGE: Final = Path(__file__).with_name("configuration.md")
_COLUMNS: Final = 120
_HEAD: Final = """\
<!-- Written by docs/write_configuration.py out of the keys in mlsync/config/model.py. Change those, and run it. -->

# The configuration

A configuration says what mlsync watches, where it keeps the versions, and how it proves them. `mlsync init` writes one
with every key in it. This page lists all keys.

A small one is enough:

```toml
repository = "/mnt/backup/runs"     # or "s3://bucket/runs"

[[watch]]
directory = "~/yolo/runs/train"

[key]
passphrase_file = "/etc/mlsync/passphrase"
```

## The file

- **Format:** [TOML](https://toml.io), in UTF-8.
- **Place:** the file that `--config` names, else the one that `MLSYNC_CONFIG` names, else
  `~/.config/mlsync/mlsync.toml` (or below `XDG_CONFIG_HOME`), else `/etc/mlsync/mlsync.toml`. mlsync never takes
  another file for one that was named.
- **Mistakes:** an unknown key, a wrong value or a contradiction ends every command with status 2. The message names the
  file, the line, and the nearest key.
- **Root** refuses a configuration that others can change (status 4).
  [commands.md](commands.md#which-repository-which-secret) says why.
- **Changes** take effect with the next command. Restart the agent after a change.
- **Options** such as `--repo` and `--endpoint-url` override the file for one command.

## Without a file

Each key is an environment variable too: `MLSYNC_`, the table, the key, in capitals. `repository` is
`MLSYNC_REPOSITORY`, and `every` under `[agent]` is `MLSYNC_AGENT_EVERY`. So a container needs no file:

```sh
export MLSYNC_REPOSITORY=s3://bucket/yolo MLSYNC_WATCH_DIRECTORY=/workspace/runs MLSYNC_PROOF_DEVICE=cpu
mlsync run -- python train.py
```

- A variable counts before the file; an option counts before both. An empty variable counts as not set.
- Text needs no quotes here. A list is words with commas between them, or as TOML writes it.
- `MLSYNC_WATCH_DIRECTORY` and `--watch DIR` replace the file's directories. A directory that the file watches too keeps
  its run and patterns. The other variables of `[[watch]]` hold for each watched directory.
- An unknown variable that begins with `MLSYNC_` ends every command with status 2, with the nearest name.
- A passphrase has a variable of its own, `MLSYNC_PASSPHRASE`, which is no key of the file
  ([commands.md](commands.md#which-repository-which-secret)).

## Values

| type | how it is written |
|---|---|
| text | `"in quotes"`; `'in single quotes'` if it has a backslash |
| a path | absolute, relative to the directory that the configuration is in, or from `~`, your home directory |
| a length of time | numbers with a unit: `ms`, `s`, `m` (minutes), `h`, `d` or `w`. Several add up: `"1h30m"` |
| an amount of memory | a number with a unit: `MiB`, `GiB`, `MB` or `GB` |
| a rate | a number with `KiB/s`, `MiB/s`, `GiB/s`, `kB/s`, `MB/s`, `GB/s`, `kbit/s`, `Mbit/s`, `Gbit/s` |
| a cron line | minute, hour, day, month, weekday, in local time: `"30 3 * * 0"` is Sunday at 3:30 |
| a share | in percent: `"50%"` |
| a list | `["one", "two"]` |
| a table of texts | `{ name = "value", "other name" = "value" }`, as a variable `name=value,other=value` too |
| patterns | [exclude.md](exclude.md) describes them |
"""
# What precedes the keys of a table.
_TABLES: Final[Mapping[str, str]] = {
    "": """\
## Above all tables

These two keys stand before the first line with a bracket.
""",
    "watch": """\
## [[watch]]

One table for each training directory. **Only these keys, and those of [`[watch.retention]`](#retention) and
[`[watch.evaluate]`](#evaluate), can differ from run to run;** all other keys of the configuration hold for every run.
`mlsync backup` and `mlsync agent` need at least one table. Other commands need none.
""",
    "key": """\
## [key]

Where the secret is that opens the repository. At most one of `passphrase_file`, `key_file` and `kms_key` may be set.
Options, `MLSYNC_PASSPHRASE` and `MLSYNC_KMS_KEY` come before them
([commands.md](commands.md#which-repository-which-secret)).
""",
    "agent": """\
## [agent]

When [the agent](commands.md#agent) backs up. Other commands do not read this table.
""",
    "backup": """\
## [backup]

How changed tensors are stored. [operating.md](operating.md#differences) says what that saves, and
what it costs.
""",
    "limits": """\
## [limits]

How much of line and machine mlsync takes in ordinary times. Of several lines the first whose hours it is counts; where
none does, there is no limit. So this is 20 MiB/s by day on workdays, half of it while backups of others run at night,
and no limit otherwise:

```toml
[limits]
upload = ["20 MiB/s 08:00-20:00 Mon-Fri", "10 MiB/s 01:00-04:00"]
```

`"unlimited"` is a rate too, and the least other one is 64 KiB/s. Hours (`08:00-20:00`) and days (`Mon-Fri`, `Sat,Sun`)
may follow it. Hours are those of the local clock, and change what is under way: an upload that begins at 19:59 goes on
faster a minute later. When clocks change, they count as the clock shows them. Hours past midnight (`22:00-06:00 Fri`)
belong to the day on which they begin. [commands.md](commands.md#behind-the-trainer) says how mlsync gives way besides.
""",
    "preemption": """\
## [preemption]

How the agent hears that the machine is about to go away. [preemption.md](preemption.md) says what it does then.
""",
    "proof": """\
## [proof]

How far checkpoints are proved, and where. [checkpoints.md](checkpoints.md) explains the levels.
""",
    "notify": """\
## [[notify]]

One table for each channel that the agent tells of events. [notifications.md](notifications.md) lists services and
events. By environment variables there is one channel: `MLSYNC_NOTIFY_CHANNEL` stands for all tables of the file.
""",
    "hooks": """\
## [hooks]

Commands of your own that the agent starts after events, with its own rights.
[notifications.md](notifications.md#hooks) says more.
""",
    "evaluate": """\
## [evaluate]

How checkpoints are measured after their proof, by a command of yours. [evaluation.md](evaluation.md) says what it gets
and what it may say. The same keys may stand in `[watch.evaluate]` below a `[[watch]]`, for its run alone: a key that is
not there is taken from `[evaluate]`.
""",
    "s3": """\
## [s3]

How an S3 server is reached. Credentials do not belong here: they come from the environment or from `~/.aws`
([s3.md](s3.md)). A repository in a directory does not use this table.
""",
    "mlflow": """\
## [mlflow]

Where versions are registered as versions of a model, and what the agent registers by itself. Credentials that are not
here come from the variables of MLflow's own client. [mlflow.md](mlflow.md) explains all of it.
""",
    "retention": """\
## [retention]

Which versions `mlsync forget` keeps, and when what is forgotten goes. [retention.md](retention.md) explains the rules.
The same keys except `prune` may stand in `[watch.retention]` below a `[[watch]]`, for its run alone: a key that is not
there is taken from `[retention]`.
""",
    "mirror": """\
## [[mirror]]

One table for each second copy of the repository, which the agent keeps up to date, and from which reading commands take
what the first lacks. [mirrors.md](mirrors.md) explains it. `[s3]` holds for the repository alone: what a mirror's S3
server needs stands here. By environment variables there is one mirror: `MLSYNC_MIRROR_URL` stands for all tables of
the file.
""",
}
# What is worth a word besides what the template says.
_MORE: Final[Mapping[str, str]] = {
    "repository": "A path may be relative to this file. A place without `s3://` or `file://` is always a path. A URL "
    "may not hold a user's name or password.",
    "state_directory": "A restore and the backups after it need the same state directory ([runs.md](runs.md)).",
    "directory": "It may not contain the repository or the state directory.",
    "run": "No two tables may have the same run. [commands.md](commands.md#runs-and-versions) says which names are "
    "common ones.",
    "exclude": "[exclude.md](exclude.md) describes the patterns. What is excluded never reaches the repository, and "
    "`restore --delete` leaves it alone.",
    "keep_temporary": "[commands.md](commands.md#backup) says more. `mlsync backup -v` lists what was left out.",
    "not_models": '`["*"]` is for all files. The patterns are those of `exclude`. The files are stored all the same.',
    "key_file": "The file holds 32 random bytes or more.",
    "kms_key": "An id, or an alias such as `alias/training`, works too. An alias that is moved to another key opens "
    "nothing any more. [keys.md](keys.md#aws-kms) has the rights that it takes.",
    "remember": "At most `24h`. A key file, a recovery key and a key of AWS KMS are not stretched, so nothing is "
    "remembered of them. [keys.md](keys.md#remember-a-stretched-passphrase) says what this is good for, and what it "
    "costs.",
    "kms_endpoint_url": "It must be an `https://` address, since the secret of the key slot is in the answers.",
    "every": f"At least {INTERVAL_MIN_S:g} second. A cron line names days of the month or days of the week, not both.",
    "settle_max": "It may not be less than `settle`.",
    "device": '`"none"` proves only what needs no device. It cannot be combined with `framework` or `command`.',
    "python": "Under root it must be a program that only root and the directory's owner can change.",
    "require": "Level 5 needs `framework` or `command`.",
    "read_back": '`"none"` cannot be combined with `on_unavailable = "wait"`, nor with `require` alone.',
    "framework": "Not together with `command`. [frameworks.md](frameworks.md) explains level 5.",
    "model": 'It goes with `framework = "state_dict"` only, and has to be set there.',
    "command": "Not together with `framework`. A word may name a file beside the configuration. "
    "[frameworks.md](frameworks.md) explains level 5.",
    "command_for": "Here a `*` also matches slashes, and a pattern without a slash in it means the name alone. For "
    '`framework = "ultralytics"` all are for files, for `"transformers"` all for directories.',
    "command_environment": "A name takes the value of mlsync's own environment. Names that begin with `MLSYNC_` or "
    "`AWS_` are refused: they may hold secrets.",
    "keep": "[retention.md](retention.md) lists the rules. An empty list is refused.",
    "prune": "[operating.md](operating.md#pruning-and-compaction) says what it does, and where better not.",
    "floor": "[checkpoints.md](checkpoints.md) explains the levels.",
    "payload_signing": "[s3.md](s3.md) says which stores need it.",
    "addressing": "[s3.md](s3.md) explains both forms.",
    "sse": "[s3.md](s3.md#what-new-objects-get) says more of this and the keys below.",
    "kms_key_id": "It goes with KMS only.",
    "bucket_key": 'It goes with `sse = "aws:kms"` only.',
    "storage_class": "It must be a class whose objects can be read at once.",
    "storage_class_others": "It must be a class whose objects can be read at once.",
    "tags": "At most eight of your own.",
    "object_lock": "It is from `3d` to 100 years, and not shorter than `grace` under `[retention]`.",
}


def page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD]
    for name, introduction in _TABLES.items():
        parts += [introduction, *_keys(name)]
    return "\n".join(parts).rstrip("\n") + "\n"


def heading(table: str, name: str) -> str:
    """Return the heading of a key, which other pages can link to: with its table if an earlier one has the name too."""
    earlier = list(_TABLES)[: list(_TABLES).index(table)]
    is_taken = any(name in (TABLES[other] if other else TOP) for other in earlier)
    return f"{table}.{name}" if is_taken else name


def _keys(table: str) -> Iterator[str]:
    for name, key in (TABLES[table] if table else TOP).items():
        shown = heading(table, name)
        yield f"### {shown}\n"
        yield _wrapped(f"{key.why} {_MORE.get(shown, '')}") + "\n"
        yield "| type | default | example |"
        yield "|---|---|---|"
        yield f"| {_cell(_type(key))} | {_cell(_default(key))} | `{name} = {key.example}` |\n"


def _type(key: Key) -> str:
    return re.sub(r'"[^"]+"', lambda word: f"`{word[0]}`", key.kind.words)


def _default(key: Key) -> str:
    if key.default is not None:
        return f"`{key.default}`"
    return key.unset or "none; the key is required"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _COLUMNS, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
