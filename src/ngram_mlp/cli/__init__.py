"""The commands behind `scripts/`, one file each, and their shared code; only this package knows option syntax.

Internals: a new model, callback or corpus needs no change here, because its arguments become options automatically.
"""

import logging

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # hides a warning about a missing home directory
