"""What Hydra asks of every launcher, asked of `hydra/launcher=workers`."""

import types

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.version import Version, VersionBase

from hydra_plugins.cnn_sweeps.launchers import WorkersLauncher


@pytest.fixture(autouse=True)
def _as_if_hydra_came_first():
    """The suites expect the defaults of Hydra 1.1, which another test may have set aside for the whole process."""
    VersionBase.instance().setbase(Version("1.1"))


def test_hydra_finds_the_launcher():
    assert WorkersLauncher.__name__ in [launcher.__name__ for launcher in Plugins.instance().discover(Launcher)]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("workers", [])])
class TestWorkersLauncher(LauncherTestSuite):
    pass


def in_last_case(test):
    """Give a test of the suite with the last of its cases: others differ in what Hydra composes."""
    (mark,) = test.pytestmark
    names, cases = mark.args
    copied = types.FunctionType(test.__code__, test.__globals__, test.__name__)
    return pytest.mark.parametrize(names, cases[-1:])(copied)


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/job_logging=hydra_debug", "hydra/job_logging=disabled", "hydra/launcher=workers"])],
)
class TestWorkersLauncherIntegration(IntegrationTestSuite):
    test_custom_task_name = in_last_case(IntegrationTestSuite.test_custom_task_name)
    test_custom_sweeper_run_workdir = in_last_case(IntegrationTestSuite.test_custom_sweeper_run_workdir)
