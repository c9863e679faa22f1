"""How the process for passes begins: it stands back first, for its start alone takes a second of a busy processor."""

from __future__ import annotations

from importlib import import_module

from mlsync.courtesy.priority import follow


def main() -> None:
    """Stand back if the agent does, and serve it."""
    follow()
    import_module("mlsync.service.pass_child").main()


if __name__ == "__main__":
    main()
