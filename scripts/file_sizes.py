"""Refuse files that a clone should not carry: 1 MB a file, 48 MB for the embedded base and training checkpoints.

python scripts/file_sizes.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CAP_BYTES = 10**6
WEIGHT_CAP_BYTES = 48 * 10**6
WEIGHT_FOLDERS = ("trainer/bases/portrait_tiny/", "scripts/base/checkpoints/")


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, text=True).stdout
    files = [Path(name) for name in listed.split("\0") if name and Path(name).is_file()]
    too_large = [path for path in files if path.stat().st_size > cap(path)]
    for path in too_large:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, at most {cap(path) / 1e6:.0f} MB")
    return 1 if too_large else 0


def cap(path: Path) -> int:
    return WEIGHT_CAP_BYTES if path.as_posix().startswith(WEIGHT_FOLDERS) else CAP_BYTES


if __name__ == "__main__":
    sys.exit(main())
