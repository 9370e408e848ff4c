"""What `kill_everything.py`'s server imports once: the command line with its heavy parts, by whoever uses them."""

import dd_apps.cli
import dd_apps.compare.running
import dd_apps.continual.experiment
import dd_apps.nas.search
import dd_apps.transfer.running
import dd_core.runner.loop

__all__ = ["dd_apps", "dd_core"]
