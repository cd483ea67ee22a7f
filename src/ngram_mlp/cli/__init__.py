"""The commands behind `scripts/`, one file each, and what they share; only here is known how an option is typed.

Machinery: a new model, callback or corpus needs no change here, since its arguments become options by themselves.
"""

import logging

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a missing home as it is imported
