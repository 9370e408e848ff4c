"""Without the package of an extra, its part says in one line what to install; everything else works."""

from __future__ import annotations

import pickle
import subprocess
import sys

from dd_core.errors import NotInstalled, UserError

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Blocked())
for statement in sys.argv[2:]:
    try:
        exec(statement)
        print("fine")
    except ImportError as error:
        print(type(error).__name__, error)
"""
MEMORY = "from dd_apps.continual import DistilledBuffer"
LINE = "NotInstalled continual learning needs Avalanche{}; install the extra: pip install 'dd-apps[continual]'"


def without(packages: str, *statements: str) -> list[str]:
    """What each statement says in a process that has none of these packages."""
    command = [sys.executable, "-W", "ignore", "-c", BLOCKED, packages, *statements]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_without_avalanche_a_memory_says_what_to_install():
    again = "from dd_apps.continual.plug import use_buffer"
    work = "from dd_apps.continual.experiment import work; work(None)"
    light = "from dd_apps.continual import ContinualScenario, run"
    assert without("avalanche", MEMORY, MEMORY, again, work, light) == [LINE.format("")] * 4 + ["fine"]


def test_without_nni_a_space_and_a_proxy_say_what_to_install():
    spaces, proxies = "from dd_apps.nas.spaces import ConvNetSpace", "from dd_apps.nas.proxies import DistilledProxy"
    line = "NotInstalled architecture search needs NNI; install the extra: pip install 'dd-apps[nas]'"
    others = "import dd_apps.nas.kit", "import dd_apps.nas.ranking"
    assert without("nni", spaces, proxies, *others) == [line] * 3 + ["fine"]


def test_without_a_package_that_avalanche_imports_it_is_named():
    assert without("torchmetrics", MEMORY) == [LINE.format(" (without torchmetrics it cannot be imported)")]


def test_the_engine_needs_no_extra():
    engine = "import dd_core; dd_core.distill('average', dd_core.load_data('digits'), 1)"
    apps = "import dd_apps.cli, dd_apps.transfer, dd_apps.study"
    assert without("avalanche,nni,pytorch_lightning,timm,ray,dask,distributed", engine, apps) == ["fine", "fine"]


def test_a_missing_package_is_a_users_error_in_a_worker_too():
    error = pickle.loads(pickle.dumps(NotInstalled("install it")))
    assert isinstance(error, UserError)
    assert isinstance(error, ImportError)
    assert (str(error), error.exit_code) == ("install it", 2)
