"""`python -m cli` is `rapport`."""

import sys

from cli.app import main

sys.exit(main(sys.argv[1:]))
