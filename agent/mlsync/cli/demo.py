"""``mlsync demo``: a real training, lost and brought back, in a minute."""

from __future__ import annotations

import click


@click.command("demo")
def demo_command() -> None:
    """Show a real training run backed up, killed, deleted, restored and resumed."""
    raise click.ClickException("not built yet")
