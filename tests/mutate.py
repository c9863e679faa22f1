"""Mutation tests: change one comparison, number or condition of a module at a time, and name what no test notices.

    python tests/mutate.py agent/mlsync/repository/encoding/validation.py …

It works on a copy of the tree. ``tests/mutation.toml`` says which tests stand for a module, and which mutants are
equivalent, with the reason. Exits with 1 if a mutant survives that is not in that list.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").with_stem("mutation").read_text())
# What a hundred variants of one arithmetic operator tell, one of them tells too.
CONFIG = """
[cosmic-ray]
module-path = "{module}"
timeout = 300.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = {excluded}
"""


def main() -> int:
    """Try all mutants of the modules that are named."""
    survivors = 0
    for module in sys.argv[1:]:
        with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
            copy = Path(directory) / "tree"
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache"))
            survivors += report(module, results(module, copy))
    return 1 if survivors else 0


def results(module: str, copy: Path) -> list[tuple[dict, dict]]:
    """What became of each mutant of *module*, made one after the other in *copy*."""
    folder = Path(module).relative_to("agent/mlsync").parts[0]
    tests = SETTINGS["tests"].get(module, [f"tests/{folder}"])
    config, session = copy.parent / "config.toml", copy.parent / "session.sqlite"
    config.write_text(
        CONFIG.format(module=module, python=sys.executable, tests=" ".join(tests), excluded=SETTINGS["excluded"])
    )
    # Before the tree that is installed in this environment.
    environment = {**os.environ, "PYTHONPATH": str(copy / "agent")}

    def run(*command: str) -> str:
        beside_python = Path(sys.executable).with_name(command[0])
        words = [beside_python, *command[1:]]
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    # Unchanged code has to pass, or every mutant would seem to be found.
    run("python", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)
    run("cosmic-ray", "init", str(config), str(session))
    run("cr-filter-operators", str(session), str(config))
    run("cosmic-ray", "exec", str(config), str(session))
    return [json.loads(line) for line in run("cosmic-ray", "dump", str(session)).splitlines()]


def report(module: str, tried: list[tuple[dict, dict]]) -> int:
    """Print the survivors that nobody has judged, and return how many they are."""
    judged = {(one["was"], one["is"]) for one in SETTINGS["equivalent"] if one["module"] == module}
    killed = count = 0
    for _, result in tried:
        if result is None or result["worker_outcome"] == "skipped":
            continue
        killed += result["test_outcome"] == "killed"
        if result["test_outcome"] == "survived" and changed(result["diff"]) not in judged:
            count += 1
            print(module, *changed(result["diff"]), sep="\n    ", flush=True)
    print(f"{module}: {killed} mutants found, {count} survived and are not judged", flush=True)
    return count


def changed(diff: str) -> tuple[str, str]:
    """The line that was changed, before and after."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    return tuple(" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")


if __name__ == "__main__":
    sys.exit(main())
