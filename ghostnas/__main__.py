"""``python -m ghostnas`` is ``ghostnas``."""

import sys

from ghostnas.cli.main import main

sys.exit(main())
