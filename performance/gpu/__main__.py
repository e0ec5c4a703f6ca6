"""python -m performance.gpu: measures the scorer on a GPU; see `performance.gpu.run`."""

import sys

from performance.gpu.run import main

if __name__ == "__main__":
    sys.exit(main())
