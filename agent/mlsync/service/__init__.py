"""What stays resident and decides when: configuration, secrets, watching, schedule, systemd.

It may import the flows and everything below them; only the commands import it.
"""
