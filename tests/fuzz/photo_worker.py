"""Looks at the albums whose paths come on stdin, one a line, and answers each with one JSON line; see test_photo_files.

Run as `python photo_worker.py HOME`: whatever Python opens for writing outside of HOME/runs is reported.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

from trainer.album import CACHE, read_album
from trainer.errors import PhotosError
from trainer.faces.base import get_detector, get_embedder
from trainer.prepare.looks import Look, Looks, Sight
from trainer.weights import cache_folder

RUNS = os.path.realpath(os.path.join(sys.argv[1], "runs"))
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
outside: list[str] = []


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: remember every path that is written to outside of the runs."""
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return
    if event not in CHANGES and event != "open":
        return
    for path in arguments[:2]:
        if isinstance(path, str | bytes) and len(path) > 1 and not (event == "open" and path is arguments[1]):
            place = os.path.realpath(os.fsdecode(path))
            if not (place + "/").startswith(RUNS + "/") and not place.startswith("/dev/"):
                outside.append(f"{event} {place}")


def answer(album: Path, sight: Sight) -> dict[str, object]:
    """How the album's pictures ended: `seen`, or the code of the refusal."""
    cache = Path(RUNS) / "alice" / CACHE
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    outside.clear()
    ends: list[str] = []
    try:
        found = read_album(album, cache)
        ends += [one.code for one in found.refused]
        for _, seen in Looks(sight, cache).through(found.photos):
            ends.append("seen" if isinstance(seen, Look) else seen.code)
    except PhotosError as error:
        ends.append(error.code)
    return {
        "ends": ends,
        "seconds": time.process_time() - started,
        "grown_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
        "outside": list(outside),
    }


def main() -> None:
    weights = cache_folder()
    sight = Sight(get_detector(weights), get_embedder("dlib", weights), 120_000_000)
    sys.addaudithook(watch)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(Path(line.rstrip("\n")), sight)), flush=True)


if __name__ == "__main__":
    main()
