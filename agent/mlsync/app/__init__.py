"""What every command needs: an open session, secrets, the run's lock, one pass over a run, texts for people."""
