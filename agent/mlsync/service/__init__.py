"""What stays resident and decides when to make passes: watching, schedule, workers, systemd.

It may import the flows and everything below them; only ``cli`` and ``demo`` import it.
"""
