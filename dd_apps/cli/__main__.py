"""`python -m dd_apps.cli` is `dd-apps`."""

from __future__ import annotations

import sys

from dd_apps.cli import main

sys.exit(main())
