"""Both engines of the backend under the same requests of a guest that does what it likes.

See fuzzing.py for how to run this, and tests/engines/twins.py for the steps of a case and what has to be equal.
"""

import sys
from pathlib import Path

from fuzzing import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engines.cases import make
from engines.twins import check

if __name__ == "__main__":
    sys.exit(main(make, check))
