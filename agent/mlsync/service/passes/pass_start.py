"""The entry of the pass process: it takes over what its session needs of the agent's priority, and serves the agent."""

from __future__ import annotations

from importlib import import_module

from mlsync.courtesy.priority import follow


def main() -> None:
    """Lower the weight of the session if the agent has a low priority; the load of the program comes afterwards."""
    follow()
    import_module("mlsync.service.passes.pass_child").main()


if __name__ == "__main__":
    main()
