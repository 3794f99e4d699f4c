"""Every science workflow's benchmark, one after the other.

    python benchmarks/science.py [--fast] [--only NAME ...]

Each part is a script of its own beside this one (`science_<name>.py`) and prints its own table. Exits with 1 where a
bar of any part is missed, with 2 where the data of a part is absent and nothing was missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def parts() -> dict[str, Path]:
    """Name to script."""
    return {path.stem.removeprefix("science_"): path for path in sorted(FOLDER.glob("science_*.py"))}


def main() -> int:
    """Run the parts and say which passed."""
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="the short form of every part")
    parser.add_argument("--only", nargs="+", choices=known, default=list(known))
    arguments = parser.parse_args()
    codes = {}
    for name in arguments.only:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, str(known[name]), *(["--fast"] if arguments.fast else [])]
        codes[name] = subprocess.run(command, check=False).returncode
    words = {0: "reached", 1: "bar missed", 2: "data absent"}
    print()
    for name, code in codes.items():
        print(f"{name:14} {words.get(code, f'failed with exit code {code}')}")
    failed = [code for code in codes.values() if code not in (0, 2)]
    return 1 if failed else max(codes.values(), default=0)


if __name__ == "__main__":
    sys.exit(main())
