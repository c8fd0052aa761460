"""coopmpi's command line on a simulated GPU: ARGUMENTS, or several runs `ARGUMENTS then ARGUMENTS then ...`."""

import sys
from itertools import groupby

from coopmpi.cli import main
from tests.guarded import simulated

if __name__ == "__main__":
    runs = [list(words) for then, words in groupby(sys.argv[1:], lambda word: word == "then") if not then]
    with simulated():
        for sys.argv[1:] in runs:
            try:
                main()
            except SystemExit as ended:
                if ended.code:
                    raise
