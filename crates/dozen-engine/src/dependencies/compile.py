"""Compiles each file of a list, each in a process forked for it.

What marshal writes depends on how often an object is referenced, in the whole process. A process that has compiled other files before
would write other bytes for the same source; a fresh one always writes the same.
"""

import os
import py_compile
import sys


def compile_one(tree, name):
    py_compile.compile(
        os.path.join(tree, name),
        dfile="/app/" + name,
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def main(tree, listing, jobs):
    running = 0
    with open(listing, encoding="utf-8") as lines:
        for line in lines:
            if running == jobs:
                os.wait()
                running -= 1
            if os.fork() == 0:
                try:
                    compile_one(tree, line.rstrip("\n"))
                except BaseException:
                    # Packages carry templates, and tests for other versions, that are no code of this one.
                    pass
                finally:
                    os._exit(0)
            running += 1
    while running:
        os.wait()
        running -= 1


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
