"""How far a version's checkpoints load: judged before a commit, proved later, verified again."""
