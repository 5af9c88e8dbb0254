"""Runs functions in forked processes."""

import multiprocessing

TIMEOUT = 300
"""Seconds for a child; one that waits for a thread of its parent would never end."""


def in_fork(function, *arguments, while_running=None):
    """Return what a function returns in a forked process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_send, args=(there, function, *arguments))
    child.start()
    there.close()
    try:
        if while_running is not None:
            while_running()
        assert here.poll(TIMEOUT), "the forked process hangs"
        result = here.recv()
    finally:
        child.join(1)
        child.kill()
        child.join()
        here.close()
    if isinstance(result, Exception):
        raise result
    return result


def _send(connection, function, *arguments):
    try:
        connection.send(function(*arguments))
    except Exception as error:
        connection.send(error)
