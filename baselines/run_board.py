"""Make a leaderboard: python baselines/run_board.py baselines/beauty.yaml --data_path=<folder that holds beauty/>."""

import sys

from recbole_think.leaderboard.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
