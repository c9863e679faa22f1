"""The layers of the design: every import points down, heavy modules come late, errors and tests keep their form."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from mlsync import errors
from mlsync.cli.main import COMMANDS, module_of

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "agent"
MODULES = {
    ".".join(path.relative_to(AGENT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (AGENT / "mlsync").rglob("*.py")
}
COMMAND_MODULES = {f"mlsync.cli.{module_of(name)}" for name in COMMANDS}
LEAVES = {
    "errors",
    "monitor",
    "log_context",
    "buffers",
    "direct_io",
    "beneath",
    "courtesy",
    "values",
    "xattrs",
    "kernel_keyring",
}
FLOWS = {"backup", "restore", "proving", "upkeep", "diff", "publish", "mirror", "cold"}
BELOW = {"source", "proof", "repository", "retention"}
# What each layer may import besides the leaves and itself. Brothers do not know each other; what a flow wires
# together, it hands on as values.
ARROWS = {
    "cli": {
        "access",
        "kms",
        "doctor",
        "service",
        "app",
        "config",
        *FLOWS,
        "bucket",
        "versions",
        *BELOW,
        "codec",
        "store",
        "formats",
        "demo",
        "preemption",
        "tell",
        "registry",
    },
    # What MLflow's client loads: it opens a repository as a command does.
    "mlflow_plugin": {"app", "config", "versions", *BELOW, "registry"},
    "demo": {"service", "app", "config", *FLOWS, "versions", *BELOW, "store"},
    "service": {"app", "config", *FLOWS, *BELOW, "codec", "preemption", "tell"},
    # It looks at what the others work with, and does none of their work.
    "doctor": {"app", "config", "source", "proof", "repository", "store", "preemption"},
    "app": {"config", "kms", *FLOWS, *BELOW, "codec", "store", "registry"},
    "config": {"source", "kms", "retention", "preemption", "tell", "registry"},
    # A backup proves before it commits; and what level 5 loads is written as a restore writes it.
    "backup": {"proving", "versions", *BELOW, "codec", "formats"},
    "restore": {"target", "versions", *BELOW, "codec", "formats"},
    "upkeep": {"versions", *BELOW, "codec", "store"},
    "diff": {"versions", *BELOW, "formats"},
    "proving": {"target", "versions", *BELOW, "formats"},
    # What it hands on are the files that a restore would write.
    "publish": {"restore", "target", "versions", *BELOW, "codec", "formats", "store", "registry"},
    # Sealed objects as they are: it opens them only to know what belongs to a version.
    "mirror": {"versions", *BELOW, "codec", "store"},
    # What is in cold storage, what it costs to thaw, and the wait for it.
    "cold": {"repository", "store"},
    "target": {"versions", "source", "repository", "codec"},
    "versions": {*BELOW, "codec", "formats"},
    # It comes before any repository: of that it knows the names of objects alone.
    "bucket": {"repository", "store", "kms"},
    # Pure functions of plain facts, which others gather.
    "retention": set(),
    "source": {"formats"},
    "proof": {"formats"},
    "kms": {"repository", "store"},
    # Which rights a role needs: names of objects, and the words for them. It asks no store.
    "access": {"kms", "repository"},
    # Whether the machine goes away, asked of the platform: it knows nothing of runs and backups.
    "preemption": set(),
    # Which words and which services: it knows nothing of runs and backups either.
    "tell": set(),
    # Which models, and which server: it knows nothing of runs and backups either.
    "registry": set(),
    "repository": {"codec", "store"},
    "codec": set(),
    "store": set(),
    "formats": set(),
    "errors": set(),
    "monitor": set(),
    "log_context": set(),
    "buffers": set(),
    "direct_io": set(),
    "beneath": set(),
    "courtesy": set(),
    "values": set(),
    "xattrs": set(),
    "kernel_keyring": set(),
    # What programs in Python call; and what hangs it into their frameworks.
    "python": {"service", "config"},
    "integrations": {"python"},
    # The package itself: its version, what programs call, and the entry of ``python -m mlsync``.
    "": {"python"},
    "__main__": {"cli"},
}
# What each folder of the parsers may import besides itself and the modules beside the folders, which import none of
# them; ``containers`` and ``sniff`` choose between the parsers and import all.
FORMATS = {
    "zips": set(),
    "pickles": set(),
    "hdf5": set(),
    "libraries": set(),
    "logs": {"libraries"},
    "torch": {"zips", "pickles"},
    "archives": {"zips", "pickles", "torch"},
    "dcp": {"zips", "pickles", "torch", "libraries"},
    "groups": {"dcp", "libraries"},
}
# Where a large library may be mentioned at all: in the one place that wraps it.
HOMES = {
    "mlflow": r"mlsync\.mlflow_plugin\.artifacts",
    "onnxruntime": r"mlsync\.mlflow_plugin\.weights",
    "torch": r"mlsync\.(proof\.programs\.(device|evaluate_ultralytics|load_(state_dict|transformers|ultralytics))|"
    r"demo\.torch_.+|mlflow_plugin\.weights)",
    "boto3": r"mlsync\.store\.s3\..+",
    "botocore": r"mlsync\.(store\.s3\..+|kms\.requests)",
    "s3transfer": r"mlsync\.store\.s3\..+",
    "tenacity": r"mlsync\.store\.tries",
    "watchdog": r"mlsync\.service\.watching\.watch",
    "apscheduler": r"mlsync\.(service\.watching\.schedule|config\.every)",
    "rich": r"mlsync\.(cli\..+|app\.wrapping)",
    "click": r"mlsync\.cli\..+",
    "sqlite3": r"mlsync\.source\.(state|state_database)",
    "cryptography": r"mlsync\.(codec\..+|repository\.keys\.keyslot)",
    "blake3": r"mlsync\.codec\.digest",
    "PIL": r"mlsync\.cli\.reports\.metrics_picture",
    "zstandard": r"mlsync\.(codec\.frames|formats\.libraries\.ocdbt)",  # how we pack, and how others packed
    "crc32c": r"mlsync\.formats\.libraries\.crc32c",
    "pyfastcdc": r"mlsync\.source\..+",
    "numpy": r"mlsync\.(codec\.(planes|differences)|proof\..+|diff\.drift|demo\.(numpy_.+|safetensors_file)"
    r"|mlflow_plugin\.weights)",
}
# What costs tens of megabytes or of milliseconds, and is not needed by an agent that waits. (What every command needs,
# such as click and cryptography, may come at once.)
HEAVY = ("torch", "numpy", "boto3", "botocore", "watchdog", "apscheduler", "rich", "safetensors", "asyncio", "http")


@cache
def tree_of(module):
    """The module, parsed."""
    return ast.parse(MODULES[module].read_text())


@cache
def imports_of(module, *, whole):
    """The modules that a module imports: all of them, or (not *whole*) those that are imported with it."""
    return tuple(_imports_of(module, whole=whole))


def _imports_of(module, *, whole):
    nodes = ast.walk(tree_of(module)) if whole else _outside_functions(tree_of(module))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def _outside_functions(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _outside_functions(child)


def layer_of(module):
    """The layer of one of our modules."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    """A module imports its own layer, the leaves, and what lies below it: no brother, nothing above."""
    layer = layer_of(module)
    allowed = ARROWS[layer] | LEAVES | {layer, ""} if layer not in LEAVES else {layer}
    for imported in imports_of(module, whole=True):
        if imported.split(".")[0] == "mlsync":
            assert layer_of(imported) in allowed, f"{module} imports {imported}"


def folder_of(module):
    """The folder of a parser, empty for a module beside the folders."""
    return module.split(".")[2] if module.count(".") > 2 else ""


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("mlsync.formats.")))
def test_parsers_import_down(module):
    """A parser imports its own folder, what all parsers share, and the folders that its own may import."""
    if module in ("mlsync.formats.containers", "mlsync.formats.sniff"):
        return
    folder = folder_of(module)
    allowed = {"", folder} | FORMATS.get(folder, set())
    for imported in imports_of(module, whole=True):
        if imported.startswith("mlsync.formats."):
            assert folder_of(imported) in allowed, f"{module} imports {imported}"


def test_every_layer_is_known():
    """A new folder says where it stands, or this fails."""
    assert {layer_of(module) for module in MODULES} <= ARROWS.keys()


def test_arrows_make_no_circle():
    """The layers can be put in an order in which each knows only later ones."""
    seen = []

    def enter(layer, path):
        assert layer not in path, f"a circle: {path} {layer}"
        if layer not in seen:
            for below in ARROWS[layer]:
                if below in ARROWS:
                    enter(below, [*path, layer])
            seen.append(layer)

    for layer in ARROWS:
        enter(layer, [])


def test_modules_make_no_circle():
    """No module needs itself, by whatever way round, also where an import waits in a function."""
    below = {
        module: {name for name in imports_of(module, whole=True) if name in MODULES and name != module}
        for module in MODULES
    }
    done = set()

    def enter(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in below[module]:
                enter(name, [*path, module])
            done.add(module)

    for module in MODULES:
        enter(module, [])


@pytest.mark.parametrize("library", sorted(HOMES))
def test_libraries_stay_at_home(library):
    """Each large library is mentioned only where it is wrapped, so that it can be exchanged there."""
    for module in MODULES:
        if any(name.split(".")[0] == library for name in imports_of(module, whole=True)):
            assert re.fullmatch(HOMES[library], module), f"{module} imports {library}"


@pytest.mark.parametrize(
    ("program", "more"),
    [
        ("proof.programs.device", {"torch", "xxhash"}),
        ("courtesy.priority", set()),
        ("courtesy.waiting", set()),
        ("proof.programs.launch", set()),
        ("proof.programs.sandbox", set()),
        ("proof.programs.gpus", {"torch"}),
        ("proof.programs.cpu", {"numpy", "xxhash"}),
        ("proof.programs.nh", {"numpy"}),
        ("proof.programs.load_ultralytics", {"torch", "ultralytics"}),
        ("proof.programs.evaluate_ultralytics", {"torch", "ultralytics", "yaml"}),
        ("proof.programs.load_state_dict", {"torch", "safetensors"}),
        ("proof.programs.load_transformers", {"torch", "transformers"}),
    ],
)
def test_programs_for_the_trainers_python_need_little(program, more):
    """It may have nothing but the standard library and what the program is about, and may be old."""
    names = {name.split(".")[0] for name in imports_of(f"mlsync.{program}", whole=True)}
    assert names - more - {"__future__"} <= sys.stdlib_module_names
    ast.parse(MODULES[f"mlsync.{program}"].read_text(), feature_version=(3, 9))


def loaded_by(module):
    """The modules that are there after an import of *module*."""
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=AGENT)
    return set(done.stdout.split())


@cache
def loaded_by_commands():
    """The modules that are there after an import of each command, in a process forked from one with the command line.

    A Python of its own for each would import the command line again.
    """
    program = (
        "import importlib, os, sys, mlsync.cli.main\n"
        "for module in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"
        "        importlib.import_module(module)\n"
        "        print(module, *sys.modules, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    command = [sys.executable, "-c", program, "mlsync.cli.main", *sorted(COMMAND_MODULES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=AGENT)
    lines = (line.split() for line in done.stdout.splitlines())
    return {module: set(loaded) for module, *loaded in lines}


@pytest.mark.parametrize("module", ["mlsync.cli.main", *(f"mlsync.cli.{module_of(command)}" for command in COMMANDS)])
def test_heavy_modules_come_late(module):
    """Importing the command line or any command loads none of what only some of their work needs."""
    loaded = loaded_by_commands()[module]
    assert module in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_backup_that_finds_nothing_changed_starts_without_what_makes_a_version():
    """What reads, cuts, parses and proves comes late, and so do the other commands."""
    loaded = loaded_by("mlsync.cli.backup")
    # Of tries that follow others, of processes, prompts, terminals and other machines.
    assert loaded.isdisjoint({"tenacity", "subprocess", "getpass", "shutil", "socket"})
    ours = {name for name in loaded if name.startswith("mlsync.")}
    assert not {name for name in ours if layer_of(name) in ("proof", "formats", "demo")}
    assert ours.isdisjoint({"mlsync.backup.new_version", "mlsync.source.reading", "mlsync.source.chunker"})
    assert ours.isdisjoint(
        {"mlsync.repository.writer", "mlsync.repository.reader", "mlsync.repository.history.decisions"}
    )
    assert {name for name in ours if name.startswith("mlsync.cli.")} & COMMAND_MODULES == {"mlsync.cli.backup"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_do_not_import_each_other(command):
    """What several commands share, the shapes of their JSON above all, stands beside them and in none of them."""
    assert set(imports_of(f"mlsync.cli.{module_of(command)}", whole=True)).isdisjoint(COMMAND_MODULES)


# ---------------------------------------------------------------- errors


def _errors(above=errors.Error):
    yield above
    for error in above.__subclasses__():
        if error.__module__ == errors.__name__:
            yield from _errors(error)


def _leaves():
    return [error for error in _errors() if not _own(error)]


def _own(error):
    return [below for below in error.__subclasses__() if below.__module__ == errors.__name__]


def test_every_leaf_has_an_exit_status_of_its_own():
    """A script can tell each error from all others by the exit status, and from 1, which is anybody's."""
    statuses = Counter(error.exit_code for error in _leaves())
    assert set(statuses.values()) == {1}
    # Those two are a shell's, for the commands that mlsync run is asked to start.
    as_shells = {errors.CommandNotExecutable.exit_code, errors.CommandMissing.exit_code}
    assert as_shells == {126, 127}
    assert all(1 < status < 126 for status in set(statuses) - as_shells)
    assert all("exit_code" in vars(error) for error in _leaves())


def test_the_tree_of_errors_is_drawn_as_it_is():
    """The picture in the docstring of ``errors`` holds every error at its place, with its exit status."""
    drawn = errors.__doc__.partition("::\n\n")[2].partition("\n\nAnything")[0]
    rows = re.findall(r"^    ([ |`-]*)(\w+)(?: +(\d+))?", drawn, re.MULTILINE)
    assert [(len(indent) // 3, name, status) for indent, name, status in rows] == list(_rows(errors.Error, 0))


def _rows(error, depth):
    status = str(error.exit_code) if "exit_code" in vars(error) else ""
    yield depth, error.__name__, status
    for below in _own(error):
        yield from _rows(below, depth + 1)


def test_all_errors_stand_in_the_tree():
    """Errors that cross a border are made in one module; what others derive from ``Error`` stays private."""
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ClassDef) and module != "mlsync.errors" and not node.name.startswith("_"):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & {error.__name__ for error in _errors()}, f"{module}: {node.name}"


def named_types(module):
    """The public classes and aliases of types that a module defines."""
    for node in tree_of(module).body:
        if isinstance(node, ast.ClassDef):
            name = node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            name = target.id if isinstance(target, ast.Name) and not target.id.isupper() else ""
        else:
            continue
        if name[:1].isupper():
            yield name


def test_no_two_types_share_a_name():
    """Each public class or alias of a type has a name of its own in the whole package."""
    homes = defaultdict(set)
    for module in MODULES:
        for name in named_types(module):
            homes[name].add(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


# ---------------------------------------------------------------- form


def test_every_test_states_one_fact():
    """Every test function says in a sentence what is true."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                stated = ast.get_docstring(node)
                assert stated, f"{path.name}: {node.name}"
                assert stated.endswith((".", "?", "!")), f"{path.name}: {node.name}"


def test_every_folder_of_tests_is_run():
    """The test command names each folder that has tests, so that none is left out without a word."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    folders = {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in (ROOT / "tests").rglob("*/test_*.py")}
    assert folders <= set(settings["testpaths"])


def test_every_module_introduces_itself():
    """Every module of ours begins with what it is."""
    for module in MODULES:
        assert ast.get_docstring(tree_of(module)), module


def test_no_work_is_put_off():
    """No file of ours promises what is not there."""
    words = re.compile("TO" + "DO|FIX" + "ME|NotImplemented" + "Error")
    for path in [*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").glob("*.md")]:
        assert not words.search(path.read_text()), path
