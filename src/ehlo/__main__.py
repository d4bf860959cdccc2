"""`python -m ehlo` is the command `ehlo`."""

import sys

from ehlo.cli import main

sys.exit(main())
