"""The environment for the programs that Tulle starts: what the runtime gave us, nothing of ours.

A frozen executable has put its own libraries out of the environment before any of our code ran
(scripts/_frozen_environ.py); from source there was nothing to put out.
"""

import os


def for_children() -> dict[str, str]:
    """A copy to change and hand on."""
    return dict(os.environ)
