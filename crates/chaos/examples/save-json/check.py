"""What was acknowledged is in the file, and at most one save more.

Ends with 0 when that holds, and with 1 when it does not. 3 says that the check
itself failed: Python's own exit code for an error is 1, too.
"""

import json
import os
import sys


def broken():
    """What is wrong, or None."""
    acked = int(os.environ["CHAOS_LAST_ACK"] or 0)
    try:
        with open(sys.argv[1]) as file:
            found = json.load(file)["count"]
    except FileNotFoundError:
        found = 0
    except ValueError as error:
        return f"{acked} was acknowledged, and the file is no JSON: {error}"
    if not acked <= found <= acked + 1:
        return f"{acked} was acknowledged, {found} is in the file"
    return None


try:
    reason = broken()
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(3)
if reason:
    print(reason)
    sys.exit(1)
