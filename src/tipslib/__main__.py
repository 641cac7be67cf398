"""`python -m tipslib` is the command `tipslib`; `torchrun -m tipslib` starts it in several processes."""

import sys

from tipslib.cli import main

if __name__ == "__main__":
    sys.exit(main())
