"""``python -m ghostnas`` is ``ghostnas``."""

import sys

from ghostnas.cli import main

sys.exit(main())
