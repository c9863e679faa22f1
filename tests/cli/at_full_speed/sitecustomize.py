"""Python runs this at its start if ``PYTHONPATH`` names the directory: mlsync keeps its priority, whatever it asks for.

For tests of commands that cannot be told ``--quickly``; a gentle one would wait until all other tests have ended.
"""

import os

os.nice = lambda _increment: 0
os.sched_setscheduler = lambda _pid, _policy, _param: None
