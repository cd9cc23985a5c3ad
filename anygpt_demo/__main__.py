"""`python -m anygpt_demo COMMAND`: see cli.py."""

import sys

from anygpt_demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
