"""A Buildbot master with its own worker; its builder echoes its input, fails or takes time on request.

Its builds are reported to CALLBACK, with the default configuration.
"""

import subprocess
import sys
from pathlib import Path

from buildbot.scripts import runner

CONFIGURATION = """
import os
from buildbot.plugins import reporters, schedulers, steps, util, worker

BuildmasterConfig = {
    "workers": [worker.LocalWorker("local", max_builds=4)],
    "builders": [util.BuilderConfig("builder", workernames=["local"], collapseRequests=False, factory=util.BuildFactory([
        steps.SetProperties(properties={"output": util.Interpolate("done: %(prop:text)s")}),
        steps.MasterShellCommand(command=["sleep", util.Property("seconds")]),
        steps.Assert(util.Property("fail") != "yes", name="told to fail"),
    ]))],
    "schedulers": [schedulers.ForceScheduler("force", builderNames=["builder"], properties=[
        util.StringParameter(name=name, default=default)
        for name, default in {"corr": "", "text": "", "seconds": "0", "fail": "no"}.items()
    ])],
    "services": [reporters.HttpStatusPush(os.environ["CALLBACK"])],
    "www": {"port": f"tcp:{os.environ['PORT']}:interface=127.0.0.1"},
    "db": {"db_url": "sqlite:///state.sqlite"},
    "protocols": {"pb": {"port": "tcp:0:interface=127.0.0.1"}},
    "buildbotNetUsageData": None,
}
"""


# Each of buildbot's commands runs Twisted's reactor, which can run only once in a process.
creation = "from buildbot.scripts import runner; runner.run()"
subprocess.run([sys.executable, "-c", creation, "create-master", "--quiet", "."], check=True)
Path("master.cfg").write_text(CONFIGURATION, encoding="utf-8")
sys.argv = ["buildbot", "start", "--nodaemon", "."]
runner.run()
