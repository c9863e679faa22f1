"""What the agent does after a pass, or instead of one: late proofs, evaluations, registrations, the daily prune."""
