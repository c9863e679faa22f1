"""The entry of the pass process: its start takes a second of a busy processor, so it lowers its priority first."""

from __future__ import annotations

from importlib import import_module

from mlsync.courtesy.priority import follow


def main() -> None:
    """Lower the priority as far as the agent did, and serve the agent."""
    follow()
    import_module("mlsync.service.pass_child").main()


if __name__ == "__main__":
    main()
