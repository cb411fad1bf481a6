"""``python -m companion``: the experiments of the book, from the command line."""

import sys

from companion.experiments.command import main

if __name__ == "__main__":  # a process that joblib starts imports this file again
    sys.exit(main())
