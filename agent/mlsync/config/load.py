"""Find the configuration file and read it, with the file and line of whatever is wrong in it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from mlsync.config.environment import Said, read_environment
from mlsync.config.keys import Key, keys_of
from mlsync.config.model import (
    TABLES,
    TOP,
    AgentSettings,
    BackupSettings,
    Config,
    EvaluateSettings,
    HookSettings,
    KeySettings,
    LimitSettings,
    MirrorSettings,
    MlflowSettings,
    NotifySettings,
    PreemptionSettings,
    ProofSettings,
    RetentionSettings,
    S3Settings,
    WatchSettings,
    shown,
)
from mlsync.config.places import FILE_NAME, default_state_directory, usual_places
from mlsync.config.run_name import default_run_name
from mlsync.config.toml_lines import KeyPath, line_of
from mlsync.config.trust import refuse_untrusted
from mlsync.errors import ConfigInvalid, RunNameInvalid
from mlsync.values import Level

# The tables in [[watch]].
_INNER = ("retention", "evaluate")
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
# Only the first one takes bucket keys.
_BY_KMS = ("aws:kms", "aws:kms:dsse")
_WITH_KMS = 'set sse = "aws:kms"'
_SECRETS = ("passphrase_file", "key_file", "kms_key", "write_only_key_file")


def find_config(explicit: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration file to use; ``ConfigInvalid`` names every place where none was."""
    for said, by in ((explicit, "--config"), (environ.get("MLSYNC_CONFIG"), "MLSYNC_CONFIG")):
        if said:
            # Another file never silently replaces the one that was named.
            if os.path.isfile(said):
                return Path(said)
            is_directory = os.path.isdir(said)
            raise ConfigInvalid(
                f"{'a directory and no' if is_directory else 'no'} configuration file at the place that {by} names",
                where=os.fspath(said),
                advice=f"name the file: {said}/{FILE_NAME}"
                if is_directory
                else "mlsync init URL --watch DIR makes it there",
            )
    places = usual_places(environ)
    for place in places:
        if place.is_file():
            return place
    raise ConfigInvalid(
        "no configuration file",
        where="looked for --config, MLSYNC_CONFIG, " + ", ".join(map(str, places)),
        advice="make one with: mlsync init URL --watch DIR; or name a repository with --repo URL",
    )


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Return what the file says; raise ``ConfigInvalid`` with file and line for an unknown key or a wrong value.

    Root gets ``Untrusted`` for a file that others can change: it names programs that would run as root.
    """
    file = Path(os.path.abspath(path))
    refuse_untrusted(file, "a configuration")
    return _Reader(file, _read_text(file)).config(environ)


def load_with(
    path: str | os.PathLike[str] | None,
    *,
    repository: str | None = None,
    watches: Sequence[Path] = (),
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Return what the file says, if there is one, overridden by the environment, *repository* and *watches*.

    A directory of *watches* that the file watches too keeps what is said of it there.
    """
    said = read_environment(environ)
    file = None if path is None else Path(os.path.abspath(path))
    if file is not None:
        refuse_untrusted(file, "a configuration")
    top = dict(said.of(""))
    if repository is not None:
        top["repository"] = Config.for_repository(repository, environ).repository
    said = Said({**said.values, "": top}, said.variables)
    return _Reader(file, "" if file is None else _read_text(file), said, watches).config(environ)


def says_repository(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment names the repository, so that no file is needed."""
    return bool(environ.get("MLSYNC_REPOSITORY"))


def _read_text(file: Path) -> str:
    try:
        # Editors of other systems begin a file with a byte-order mark.
        return file.read_text(encoding="utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise ConfigInvalid(f"the configuration cannot be read: {error.strerror}", where=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid("the configuration is not UTF-8 text", where=str(file)) from error


class _Reader:
    """Reads one file, or none; keeps its text so that each error can name a line.

    What is *said* otherwise counts before it, as do *watches*, directories on the command line.
    """

    def __init__(self, file: Path | None, text: str, said: Said | None = None, watches: Sequence[Path] = ()) -> None:
        self._file = file
        self._text = text
        self._said = said or Said()
        self._asked = tuple(watches)
        try:
            self._tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _not_toml(Path() if file is None else file, str(error)) from error
        self._tree["watch"] = self._watched_tables(self._tree.get("watch", []))

    def config(self, environ: Mapping[str, str]) -> Config:
        plain = {key: value for key, value in self._tree.items() if key not in TABLES}
        of_file = self._table((), plain, TOP)
        top = of_file | dict(self._said.of(""))
        if "repository" not in top:
            advice = 'repository = "s3://bucket/prefix" or "/path", above the first table'
            where = None if self._file is None else str(self._file)
            raise ConfigInvalid("the configuration names no repository", where=where, advice=advice)
        config = Config(
            repository=top["repository"],
            state_directory=top.get("state_directory") or default_state_directory(environ),
            s3=S3Settings(**self._section("s3")),
            mirrors=self._mirrors(is_files=top["repository"] == of_file.get("repository")),
            key=KeySettings(**self._section("key")),
            watches=self._watches(),
            agent=AgentSettings(**self._section("agent")),
            backup=BackupSettings(**self._section("backup")),
            limits=LimitSettings(**self._section("limits")),
            preemption=PreemptionSettings(**self._section("preemption")),
            proof=ProofSettings(**self._section("proof")),
            channels=self._channels(),
            hooks=HookSettings(**self._section("hooks")),
            mlflow=MlflowSettings(**self._section("mlflow")),
            retention=RetentionSettings(**self._section("retention")),
            evaluate=EvaluateSettings(**self._evaluated()),
            path=self._file,
        )
        self._check_together(config)
        return config

    def _section(self, name: str) -> dict[str, Any]:
        given = self._tree.get(name, {})
        if not isinstance(given, dict):
            self._refuse((name,), f"{name} must be a table", f"write [{name}] on a line of its own")
        values = self._table((name,), given, TABLES[name])
        said = self._said.of(name)
        if name == "key" and any(one in said for one in _SECRETS):
            # Another secret, and not one more.
            values = {field: value for field, value in values.items() if field not in _SECRETS}
        return values | dict(said)

    def _watched_tables(self, given: Any) -> Any:
        """Return the tables of the watched directories: those of the file, unless others were named."""
        said = self._said.of("watch")
        asked = self._asked or ((said["directory"],) if "directory" in said else ())
        if not asked:
            return given
        own = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        tables = []
        for directory in map(os.path.abspath, asked):
            of_file = (one for one in own if self._is_at(one, directory))
            tables.append({**next(of_file, {}), "directory": os.fsdecode(directory)})
        return tables

    def _is_at(self, table: dict[str, Any], directory: str) -> bool:
        named = table.get("directory")
        return isinstance(named, str) and str(TABLES["watch"]["directory"].parse(named, self._base)) == directory

    @property
    def _base(self) -> Path:
        return Path() if self._file is None else self._file.parent

    def _watches(self) -> tuple[WatchSettings, ...]:
        given = self._tree.get("watch", [])
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            self._refuse(("watch",), "watch must be a list of tables", "write [[watch]] above each directory")
        return tuple(self._watch(("watch", index), item) for index, item in enumerate(given))

    def _watch(self, at: KeyPath, given: dict[str, Any]) -> WatchSettings:
        values = self._table(at, {name: value for name, value in given.items() if name not in _INNER}, TABLES["watch"])
        said = {field: value for field, value in self._said.of("watch").items() if field != "directory"}
        if "run" in said and len(self._tree["watch"]) > 1:
            self._refuse(
                (*at[:1], "run"),
                "one run's name for several watched directories",
                "name the directories' runs in a file",
            )
        values |= said
        if "directory" not in values:
            self._refuse(at, "a [[watch]] without directory", None)
        if "run" not in values:
            try:
                values["run"] = default_run_name(values["directory"])
            except RunNameInvalid as error:
                self._refuse((*at, "directory"), f"this directory's name gives no run name: {error.where}", "set run")
        retention = self._retention((*at, "retention"), given.get("retention", {}))
        return WatchSettings(
            **values, retention=retention, evaluate=self._evaluate((*at, "evaluate"), given.get("evaluate", {}))
        )

    def _channels(self) -> tuple[NotifySettings, ...]:
        """Return the channels that are told; a channel that the environment names is the only one."""
        given, said = self._tree.get("notify", []), self._said.of("notify")
        if "channel" in said:
            given = [{}]
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            self._refuse(("notify",), "notify must be a list of tables", "write [[notify]] above each channel")
        found: dict[str, NotifySettings] = {}
        for index, item in enumerate(given):
            at: KeyPath = ("notify", index)
            values = self._table(at, item, TABLES["notify"]) | dict(said)
            if "channel" not in values:
                self._refuse(at, "a [[notify]] without channel", 'channel = "wecom"')
            values.setdefault("name", values["channel"])
            for one in ("url", "secret"):
                if f"{one}_file" in values and f"{one}_variable" in values:
                    what = f"both {one}_file and {one}_variable in [[notify]]"
                    self._refuse((*at, f"{one}_variable"), what, "keep one of them")
            if values["name"] in found:
                self._refuse(at, f"a second channel named {values['name']!r}", "set name")
            found[values["name"]] = NotifySettings(**values)
        return tuple(found.values())

    def _mirrors(self, *, is_files: bool) -> tuple[MirrorSettings, ...]:
        """Return the mirrors; one that the environment names is the only one.

        Those of the file are of the repository that it names: they count only if the repository *is_files*.
        """
        given, said = self._tree.get("mirror", []), self._said.of("mirror")
        if "url" in said:
            given = [{}]
        elif not is_files:
            return ()
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            self._refuse(("mirror",), "mirror must be a list of tables", "write [[mirror]] above each second copy")
        of_server = {key.field for key in keys_of(S3Settings).values()}
        found: dict[str, MirrorSettings] = {}
        for index, item in enumerate(given):
            at: KeyPath = ("mirror", index)
            values = self._table(at, item, TABLES["mirror"]) | dict(said)
            if "url" not in values:
                self._refuse(at, "a [[mirror]] without url", 'url = "s3://bucket/prefix"')
            server = {name: values.pop(name) for name in of_server & values.keys()}
            mirror = MirrorSettings(**values, s3=S3Settings(**server))
            if mirror.name in found:
                self._refuse(at, f"a second mirror named {mirror.name!r}", "set name")
            found[mirror.name] = mirror
        return tuple(found.values())

    def _check_mirrors(self, config: Config) -> None:
        """Refuse a mirror that is the repository, or lies in it, and another mirror's place."""
        places = {_place_of(config.repository, config.s3): "the repository"}
        for index, mirror in enumerate(config.mirrors):
            at: KeyPath = ("mirror", index, "url")
            place = _place_of(mirror.url, mirror.s3)
            taken = next((what for other, what in places.items() if _overlaps(place, other)), None)
            if taken is not None:
                what = f"the mirror {mirror.name!r} and {taken} are at the same place, or one inside the other"
                self._refuse(at, what, "a second copy protects only where the first is not")
            places[place] = f"the mirror {mirror.name!r}"
            self._check_runs(at, mirror, config)
        if config.agent.safe == "mirror" and not config.mirrors:
            self._refuse(("agent", "safe"), 'safe = "mirror" in [agent] needs a [[mirror]]', None)

    def _check_runs(self, at: KeyPath, mirror: MirrorSettings, config: Config) -> None:
        """Refuse a mirror of a run that is not watched, where runs are: mostly a name that was mistyped."""
        watched = [watch.run for watch in config.watches]
        for run in mirror.runs if watched and self._file is not None else ():
            if run not in watched:
                import difflib  # late, as below: only for what is wrong

                close = difflib.get_close_matches(run, watched, n=1)
                advice = f"did you mean {close[0]}?" if close else f"watched here: {', '.join(watched)}"
                self._refuse((*at[:-1], "runs"), f"no run named {run!r} is watched", advice)

    def _retention(self, at: KeyPath, given: object) -> RetentionSettings:
        """Return what holds for one run: what it says itself, and the rest from the table for all runs."""
        if not isinstance(given, dict):
            self._refuse(at, "retention in [[watch]] must be a table", "write [watch.retention] on a line below it")
        if "prune" in given:
            # A pack may be of many runs, so there is one prune for all of them.
            self._refuse((*at, "prune"), "prune in [watch.retention] cannot be for one run", "write it in [retention]")
        return RetentionSettings(**self._section("retention") | self._table(at, given, TABLES["retention"]))

    def _evaluated(self) -> dict[str, Any]:
        """Return how all runs are evaluated, unless they say it themselves."""
        values = self._section("evaluate")
        if values.get("command") and values.get("builtin"):
            self._refuse(("evaluate", "builtin"), "both command and builtin in [evaluate]", "keep one of them")
        return values

    def _evaluate(self, at: KeyPath, given: object) -> EvaluateSettings:
        """Return how one run is evaluated: what it says itself, and the rest from the table for all runs."""
        if not isinstance(given, dict):
            self._refuse(at, "evaluate in [[watch]] must be a table", "write [watch.evaluate] on a line below it")
        own, common = self._table(at, given, TABLES["evaluate"]), self._evaluated()
        if "command" in own or "builtin" in own:
            # Another one, and not one more.
            common = {name: value for name, value in common.items() if name not in ("command", "builtin")}
        if (own | common).get("command") and (own | common).get("builtin"):
            self._refuse((*at, "builtin"), f"both command and builtin{_in(at)}", "keep one of them")
        return EvaluateSettings(**common | own)

    def _table(self, at: KeyPath, given: dict[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
        """Return the values of one table by the names of their fields."""
        values = {}
        for name, value in given.items():
            if name not in keys:
                self._refuse_unknown(at, name, keys)
            try:
                values[keys[name].field] = keys[name].parse(value, self._base)
            except ValueError as allowed:
                self._refuse((*at, name), f"{name}{_in(at)} must be {allowed}, not {shown(value)}", None)
        return values

    def _refuse_unknown(self, at: KeyPath, name: str, keys: Mapping[str, Key]) -> NoReturn:
        homes = [table for table, known in TABLES.items() if name in known]
        candidates = [*keys, *TABLES] if not at else [*keys]
        import difflib

        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
        if close:
            advice = f"did you mean {close[0]}?"
        elif homes:
            advice = f"it belongs under [{homes[0]}]"
        else:
            advice = "known here: " + ", ".join(candidates)
        kind = "table" if not at and isinstance(self._tree[name], dict) else "key"
        self._refuse((*at, name), f"unknown {kind} {name}{_in(at)}", advice)

    def _check_together(self, config: Config) -> None:
        """Refuse what is allowed key by key and wrong as a whole."""
        if config.key.passphrase_file and config.key.key_file:
            self._refuse(("key", "key_file"), "both passphrase_file and key_file in [key]", "keep one of them")
        if config.key.kms_key and (config.key.passphrase_file or config.key.key_file):
            self._refuse(("key", "kms_key"), "both kms_key and a secret's file in [key]", "keep one of them")
        if config.key.write_only_key_file and (config.key.passphrase_file or config.key.key_file or config.key.kms_key):
            what = "write_only_key_file in [key] beside a key that also reads"
            self._refuse(("key", "write_only_key_file"), what, "keep one of them")
        if config.agent.settle_max_s < config.agent.settle_s:
            self._refuse(("agent", "settle_max"), "settle_max in [agent] is less than settle", None)
        self._check_waits(config)
        self._check_loading(config.proof)
        self._check_new_objects(config)
        if (config.mlflow.username is None) != (config.mlflow.password_file is None):
            self._refuse(("mlflow", "username"), "username and password_file in [mlflow] need each other", None)
        self._check_mirrors(config)
        if config.mlflow.username and config.mlflow.token_file:
            self._refuse(("mlflow", "token_file"), "both username and token_file in [mlflow]", "keep one of them")
        first: dict[str, int] = {}
        for index, watch in enumerate(config.watches):
            if watch.run in first:
                at: KeyPath = ("watch", index, "run" if "run" in self._tree["watch"][index] else "directory")
                other = line_of(self._text, ("watch", first[watch.run]))
                advice = f"the first one is at line {other}; set run" if self._file else "name their runs in a file"
                self._refuse(at, f"a second run named {watch.run!r}", advice)
            first[watch.run] = index
            self._check_apart(index, watch, config)

    def _check_new_objects(self, config: Config) -> None:
        """Refuse what no server could do with new objects, and a lock that ends before prune would look again."""
        grace_s = max((config.retention.grace_s, *(watch.retention.grace_s for watch in config.watches)))
        places: list[tuple[KeyPath, S3Settings]] = [(("s3",), config.s3)]
        places += [(("mirror", index), mirror.s3) for index, mirror in enumerate(config.mirrors)]
        for at, s3 in places:
            if s3.kms_key_id and s3.sse not in _BY_KMS:
                self._refuse((*at, "kms_key_id"), f"kms_key_id{_in(at)} without encryption by KMS", _WITH_KMS)
            if s3.bucket_key is not None and s3.sse != _BY_KMS[0]:
                self._refuse((*at, "bucket_key"), f"bucket_key{_in(at)} without encryption by KMS", _WITH_KMS)
            if s3.object_lock is not None and s3.object_lock.period_s < grace_s:
                what = f"object_lock{_in(at)} is for less than the grace in [retention], {grace_s / 86400:g} days"
                advice = (
                    "what is forgotten stays that long, and could be destroyed before; lock for longer, or set grace"
                )
                self._refuse((*at, "object_lock"), what, advice)

    def _check_waits(self, config: Config) -> None:
        """Refuse to wait for proofs that are left to later."""
        left_to_later = {
            ("proof", "read_back"): 'read_back = "none"' if config.proof.read_back == "none" else None,
            ("s3", "reuse_cold"): "reuse_cold = true" if config.s3.reuse_cold else None,
        }
        for place, setting in left_to_later.items():
            if setting is not None and config.proof.waits:
                what = f"{setting} in [{place[0]}] leaves proofs to later, and no version could wait for one"
                self._refuse(place, what, 'set on_unavailable = "commit"')

    def _check_loading(self, proof: ProofSettings) -> None:
        """Refuse a level 5 that contradicts itself, or that no checkpoint could reach."""
        if proof.command and proof.framework:
            self._refuse(("proof", "framework"), "both command and framework in [proof]", "keep one of them")
        if (proof.model is not None) != (proof.framework == "state_dict"):
            key = "framework" if proof.model is None else "model"
            self._refuse(("proof", key), 'model in [proof] and framework = "state_dict" need each other', None)
        self._check_patterns(proof)
        if proof.loads and proof.device == "none":
            advice = "level 5 comes after the levels that need a device"
            self._refuse(("proof", "device"), 'device = "none" in [proof], and a command or framework', advice)
        if proof.require == Level.FRAMEWORK and not proof.loads:
            self._refuse(("proof", "require"), "require = 5 in [proof], and no command or framework", None)

    def _check_patterns(self, proof: ProofSettings) -> None:
        """Refuse patterns for directories where only files are loaded, and the other way round."""
        takes = {"ultralytics": "files", "transformers": "directories"}.get(proof.framework or "")
        odd = [one for one in proof.command_for if one.endswith("/") != (takes == "directories")]
        if takes is not None and odd:
            what = f'framework = "{proof.framework}" in [proof] loads {takes}, and command_for has {shown(odd[0])}'
            self._refuse(("proof", "command_for"), what, "patterns that end in a slash are for directories")

    def _check_apart(self, index: int, watch: WatchSettings, config: Config) -> None:
        """Refuse to watch what mlsync itself writes: each backup would cause the next one, for ever."""
        own = {"the state directory": config.state_directory}
        if config.repository_directory is not None:
            own["the repository"] = config.repository_directory
        own |= {f"the mirror {one.name!r}": one.directory for one in config.mirrors if one.directory is not None}
        watched = os.path.realpath(watch.directory)
        for what, place in own.items():
            if os.path.commonpath((watched, os.path.realpath(place))) == watched:
                at = ("watch", index, "directory")
                self._refuse(at, f"{what} is inside a watched directory", f"move {place} elsewhere")

    def _refuse(self, at: KeyPath, what: str, advice: str | None) -> NoReturn:
        raise ConfigInvalid(what, where=self._place(at), advice=advice) from None

    def _place(self, at: KeyPath) -> str | None:
        """Return where a key was set: a variable, or a line of the file."""
        table, key = (str(at[0]), str(at[-1])) if len(at) > 1 else ("", str(at[-1]))
        variable = self._said.variables.get((table, key))
        if variable is not None:
            return variable
        return None if self._file is None else f"{self._file}:{line_of(self._text, at)}"


def _place_of(url: str, s3: S3Settings) -> tuple[str, str]:
    """Return on which server, or on this machine, a place is, and its path there, which ends in a slash."""
    if url.startswith("s3://"):
        return f"s3 {(s3.endpoint_url or '').rstrip('/')}", url.removeprefix("s3://").rstrip("/") + "/"
    return "file", os.path.realpath(unquote(urlsplit(url).path, errors="surrogateescape")).rstrip("/") + "/"


def _overlaps(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Return whether two places are the same, or one is inside the other."""
    return one[0] == other[0] and (one[1].startswith(other[1]) or other[1].startswith(one[1]))


def _not_toml(file: Path, said: str) -> ConfigInvalid:
    """Return the error of a text that is no TOML, with the line if *said* has one."""
    found = _AT_LINE.search(said)
    where = str(file) if found is None else f"{file}:{found[1]}"
    advice = "write what has a backslash in single quotes" if "\\" in said else None
    return ConfigInvalid(f"the configuration is not TOML: {_AT_LINE.sub('', said)}", where=where, advice=advice)


def _in(at: KeyPath) -> str:
    if not at:
        return ""
    names = [part for part in at if isinstance(part, str)]
    return f" in [[{names[0]}]]" if len(at) > len(names) == 1 else f" in [{'.'.join(names)}]"
