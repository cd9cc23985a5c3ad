"""A reply is written in one thread and read in another: the model goes on while its pictures and sounds are decoded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anygpt_demo.engine import Generation


class Halt(threading.Event):
    """A stop flag that is also set when another one is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self.other = other

    def is_set(self) -> bool:
        """Whether either is set."""
        return super().is_set() or self.other.is_set()


class Ahead:
    """Runs a generation in a thread of its own: the model writes on while its reader decodes what is there.

    halt: the stop flag that the generation was given; it is set when the reader leaves, who then waits for the end of the thread.
    """

    def __init__(self, generation: Generation, halt: Halt) -> None:
        self.generation, self.halt = generation, halt
        self._queue: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()

    def _work(self) -> None:
        try:
            for number in self.generation:
                self._queue.put(number)
            self._queue.put(None)
        except BaseException as error:  # raised again in the reader's thread
            self._queue.put(error)

    def ids(self) -> Generator[int, None, None]:
        """The ids. Raises what the generation raises."""
        thread = threading.Thread(target=copy_context().run, args=(self._work,), name="writer", daemon=True)  # who asked is known there too
        thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.halt.set()
            thread.join()
