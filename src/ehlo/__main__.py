"""Runs the command `ehlo` for `python -m ehlo`."""

import sys

from ehlo.cli import main

sys.exit(main())
