"""Deaths of an edge in the middle of its work."""

import inspect
import itertools


class Killed(BaseException):
    pass


async def killed(*_, **__):
    raise Killed


def raise_killed(*_, **__):
    raise Killed


def killed_at(what, nth, *, done):
    """`what`, whose nth call is a kill: before it, or once it is done."""
    calls = itertools.count(1)

    def call(*args, **kwargs):
        deadly = next(calls) == nth
        if deadly and not done:
            raise Killed
        result = what(*args, **kwargs)
        if deadly:
            raise Killed
        return result

    async def call_async(*args, **kwargs):
        deadly = next(calls) == nth
        if deadly and not done:
            raise Killed
        result = await what(*args, **kwargs)
        if deadly:
            raise Killed
        return result

    return call_async if inspect.iscoroutinefunction(what) else call
