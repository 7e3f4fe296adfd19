"""Records of runs whose processes are not this one."""

import json
import subprocess
import sys

from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.tracking.record.entry import RECORD_FILE


def dead_owner():
    """Give the tags of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    return owner_tags() | {"owner.pid": str(ended.pid), "owner.word": "its own"}


def change_owner(folder, owner):
    """Have the record in a folder be that of another process."""
    first, *others = (folder / RECORD_FILE).read_text().splitlines(keepends=True)
    begin = json.loads(first)
    begin["tags"] |= owner
    (folder / RECORD_FILE).write_text("".join([json.dumps(begin) + "\n", *others]))
