"""Counts in a JSON file, and says so. Opening for writing empties the file first."""

import json
import sys

path, size = sys.argv[1], int(sys.argv[2])
for count in range(1, size + 1):
    with open(path, "w") as file:
        json.dump({"count": count}, file)
    print(f"ack {count}", flush=True)
