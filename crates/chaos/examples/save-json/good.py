"""Counts in a JSON file, and says so. The file is always the old one or the new one."""

import json
import os
import sys


def save(path, state):
    beside = path + ".new"
    with open(beside, "w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(beside, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


path, size = sys.argv[1], int(sys.argv[2])
for count in range(1, size + 1):
    save(path, {"count": count})
    print(f"ack {count}", flush=True)
