"""`python -m benchmarks [SECTION ...]`: see `benchmarks`."""

import sys

import benchmarks
from grlib.errors import GrlibError

try:
    sys.exit(benchmarks.main())
except GrlibError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
