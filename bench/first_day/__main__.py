"""Plays the situations that are named, prints their table, and writes results/first_day.json."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import report

from first_day import __doc__ as story
from first_day import container, huggingface, outcome, service, yolo
from first_day.day import Day, day

SITUATIONS: dict[str, Callable[[Day], outcome.Outcome]] = {
    "yolo": yolo.play,
    "huggingface": huggingface.play,
    "service": service.play,
    "container": container.play,
}
# Those that need neither root nor Docker.
_EVERYWHERE = ["yolo", "huggingface"]


def main() -> None:
    """Play; end with 1 if a day took too many steps or a guess."""
    parser = report.parser(story or "")
    parser.add_argument(
        "situations", nargs="*", help=f"of {', '.join(SITUATIONS)}; default: {' and '.join(_EVERYWHERE)}"
    )
    parser.add_argument(
        "--trainer-python",
        type=Path,
        help="the Python of the trainer's environment, for one situation; default: an environment is made",
    )
    parser.add_argument("--transcript", type=Path, help="a file for what mlsync showed, row by row, to be read")
    arguments = parser.parse_args()
    names = arguments.situations or _EVERYWHERE
    if unknown := set(names) - set(SITUATIONS):
        parser.error(f"no such situation: {', '.join(sorted(unknown))}")
    if arguments.trainer_python and len(names) != 1:
        parser.error("--trainer-python is for one situation")
    # A user and machines were made, which are to go: end as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    played = {}
    for name in names:
        with day(name, arguments.directory, arguments.trainer_python) as stage:
            played[name] = SITUATIONS[name](stage)
    outcome.show(played.items())
    outcome.write(played, arguments.results or report.RESULTS)
    if arguments.transcript:
        arguments.transcript.write_text("\n".join(one.transcript() for one in played.values()))
    missed = [name for name, one in played.items() if not one.is_met]
    if missed:
        sys.exit(f"too many steps or a guess: {', '.join(missed)}")


if __name__ == "__main__":
    main()
