"""``python -m eproxy_jax`` is the command ``eproxy``."""

import sys

from eproxy_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
