"""What the agent tells people and programs: ``news`` finds what is one, ``telling`` sends it in the background."""
