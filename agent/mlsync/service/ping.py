"""Asks for the URL on stdin and says on stdout why that failed, if it did: a process, so that the agent stays small.

The URL is a secret: whoever knows it can keep an alarm silent. So nothing of it is in arguments or in what is said.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from typing import Final

from mlsync.courtesy.priority import stand_back

TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 4096


def ping(url: str, timeout_s: float = TIMEOUT_S) -> str:
    """Request *url*; return why that failed, empty if it did not."""
    if not url.startswith(("http://", "https://")):
        return "it is no URL with http or https"
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - http or https, see above
            answer.read(_ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
        return f"the server answered with status {status}"
    except urllib.error.URLError as error:
        return getattr(error.reason, "strerror", None) or type(error.reason).__name__
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the URL
        return type(error).__name__
    return ""


if __name__ == "__main__":
    # After each proved version, and nobody waits for it. What it loads came first: last in line that takes too long.
    stand_back()
    sys.stdout.write(ping(sys.stdin.readline().strip()))
