"""A function that runs inside a task, whatever kind of function it is.

A generator is inside the task for its whole life, but what its caller prints between two steps is the caller's: each
step is attributed by itself.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

S = TypeVar("S")


def attributed(
    function: Callable[..., Any],
    enter: Callable[[], AbstractContextManager[S]],
    here: Callable[[S], AbstractContextManager[None]],
) -> Callable[..., Any]:
    """Wrap the function: `enter` for each call, `here` for each piece of it that runs."""
    if inspect.isasyncgenfunction(function):
        return _async_generator(function, enter, here)
    if inspect.isgeneratorfunction(function):
        return _generator(function, enter, here)
    if inspect.iscoroutinefunction(function):

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with enter() as scope, here(scope):
                return await function(*args, **kwargs)

        return run_async

    def run(*args: Any, **kwargs: Any) -> Any:
        with enter() as scope, here(scope):
            return function(*args, **kwargs)

    return run


def _generator(
    function: Callable[..., Any],
    enter: Callable[[], AbstractContextManager[S]],
    here: Callable[[S], AbstractContextManager[None]],
) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = function(*args, **kwargs)
        with enter() as scope:
            step, value = generator.send, None
            while True:
                try:
                    with here(scope):
                        item = step(value)
                except StopIteration as end:
                    return end.value
                try:
                    step, value = generator.send, (yield item)
                except GeneratorExit:
                    with here(scope):
                        generator.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                    step, value = generator.throw, error

    return run


def _async_generator(
    function: Callable[..., Any],
    enter: Callable[[], AbstractContextManager[S]],
    here: Callable[[S], AbstractContextManager[None]],
) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = function(*args, **kwargs)
        with enter() as scope:
            step, value = generator.asend, None
            while True:
                try:
                    with here(scope):
                        item = await step(value)
                except StopAsyncIteration:
                    return
                try:
                    step, value = generator.asend, (yield item)
                except GeneratorExit:
                    with here(scope):
                        await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                    step, value = generator.athrow, error

    return run
