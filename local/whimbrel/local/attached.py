"""Tells the warden this process's id, then becomes the command: there is no instant at which the warden misses it.

Run by its path, with the standard library alone: `python -I -S attached.py DESCRIPTOR COMMAND...`.
"""

import os
import sys

if __name__ == "__main__":
    descriptor, command = int(sys.argv[1]), sys.argv[2:]
    os.write(descriptor, b"+%d\n" % os.getpid())
    os.close(descriptor)
    os.execv(command[0], command)  # noqa: S606 - the engine's own command, without a shell
