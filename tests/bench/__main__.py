"""Run the benchmarks: `python3 noxfile.py -s bench [-- --rounds N --seconds S --only NAME ... --profile NAME]`.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import postgres
import programs
from bench import report
from bench.load import ServerFailed
from bench.side_by_side import Comparison, compare
from bench.workloads import WORKLOADS, bulk_frames, small_frames

def main() -> int:
    only = sys.argv[1:]
    with postgres.workspace() as scratch:
        small = small_frames()
        bulk = bulk_frames()
        cs = []
        for w in WORKLOADS:
            if only and w.name not in only: continue
            cs.append(compare(w, bulk if w.is_bulk else small, rounds=3, seconds=1.0, scratch=scratch))
            print(report.micro_table(cs))
    return 0

if __name__ == "__main__":
    sys.exit(main())
