"""Train, evaluate and compare a recommender: python run_recbole_think.py --model=OneRecThink --dataset=ml-100k."""

import sys

if sys.version_info[:2] != (3, 11):
    sys.stderr.write("RecBole-Think needs Python 3.11 (RecBole 1.2.1 pins ray 2.6.3, which has wheels up to 3.11)\n")
    sys.exit(2)

from recbole_think.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
