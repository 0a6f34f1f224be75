"""``python -m convatlas VERB``, for launchers that start modules."""

import sys

from convatlas.cli import main

sys.exit(main())
