"""A graphics card that is lent for a while, as Hugging Face's ZeroGPU lends it: to a process that is forked when one is needed.

    the page's process                                 the process with the card
    LentEngine.generate, LentCodec.decode  --calls-->  a chat that is opened there, with its models
                                           <--ids, media--

All state stays with the page: its chats, journals, line and stop flags. Only calls and what they give cross over, through a socket in
a private folder, several at a time: a picture is decoded while the model writes on. The card goes back when nothing has been asked
for IDLE_S.
"""

from __future__ import annotations

import inspect
import logging
import secrets
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from contextvars import copy_context
from functools import partial
from importlib import import_module
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from anygpt_demo import codecs
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.errors import MissingProgram, ModelFault, UserError

if TYPE_CHECKING:
    from anygpt_demo.chat import Chat
    from anygpt_demo.checkpoints import Family
    from anygpt_demo.engine import Reason
    from anygpt_demo.grammar import Grammar

Work = Callable[[str, bytes], Iterator[str]]
IDLE_S = 3.0
LENT_S = 120  # for which a card is asked for; whoever lends it may take it back after that
POLL_S = 0.05  # how often a reader looks for its stop flag
log = logging.getLogger(__name__)


class Card:
    """Runs calls in a process with a card.

    lend: makes of work() what runs there, as `spaces.GPU` does; open_chat: opens the models there; idle_s: seconds after the last call
    until the card is given back.
    """

    def __init__(self, lend: Callable[[Work], Work], open_chat: Callable[[], Chat], idle_s: float = IDLE_S) -> None:
        self._open, self._idle_s = open_chat, idle_s
        self._lent = lend(self.work)
        self._chat: Chat | None = None  # in the process with the card
        self._lock = threading.Lock()  # of the page; whoever is forked finds it locked
        self._opening = threading.Lock()  # in the process with the card
        self._place: tuple[str, bytes] | None = None  # where it can be called, and the key
        self._calls = self._turn = 0  # that are under way; and how many there have been

    # in the page's process

    @contextmanager
    def call(self, *call: Any) -> Iterator[Connection]:
        """A line to the process with the card, where `call` has been asked for. Raises UserError if there is no card."""
        with self._lock:
            place = self._place = self._place or self._borrow()
            self._calls += 1
            self._turn += 1
        try:
            with self._line(place) as line:
                line.send(call)
                yield line
        finally:
            with self._lock:
                self._calls -= 1
                rest = threading.Timer(self._idle_s, self._give_back, [self._turn])
            rest.daemon = True
            rest.start()

    def _line(self, place: tuple[str, bytes]) -> Connection:
        """A line to the process with the card. If it was taken back and nobody has noticed yet, another one is asked for, once."""
        try:
            return Client(place[0], "AF_UNIX", authkey=place[1])
        except (EOFError, OSError):
            log.info("the card is gone: another one is asked for")
        with self._lock:
            if self._place == place:
                self._place = None
            place = self._place = self._place or self._borrow()
        with _told("There is no line to it any more."):
            return Client(place[0], "AF_UNIX", authkey=place[1])

    def ask(self, *call: Any) -> Any:
        """What a call gives. Raises UserError, and ModelFault for whatever else went wrong there."""
        with self.call(*call) as line:
            return take(line)[1]

    def each(self, *call: Any) -> Iterator[Any]:
        """What a call gives, one after the other."""
        with self.call(*call) as line:
            while (found := take(line))[0] == "item":
                yield found[1]

    def _borrow(self) -> tuple[str, bytes]:
        """Ask for a card and wait until its process answers."""
        key, answers = secrets.token_bytes(32), SimpleQueue[tuple[str, bytes] | Exception]()
        threading.Thread(target=copy_context().run, args=(self._hold, key, answers), name="card", daemon=True).start()
        found = answers.get()
        if isinstance(found, Exception):
            log.warning("no card is lent: %s", found)
            raise ModelFault("No graphics card is free.", "It is lent for a while, to many people.", "Try again in a minute.") from found
        return found

    def _hold(self, key: bytes, answers: SimpleQueue[tuple[str, bytes] | Exception]) -> None:
        """Keep a card until it is given back, or taken."""
        with tempfile.TemporaryDirectory(prefix="anygpt-card-") as folder:
            place = str(Path(folder) / "calls"), key
            try:
                for _ in self._lent(*place):
                    answers.put(place)
                answers.put(ConnectionError("it was taken back at once"))
            except Exception as error:  # the border to whoever lends it: all of it means that there is no card
                answers.put(error)
            finally:
                if self._place == place:
                    self._place = None

    def _give_back(self, turn: int) -> None:
        """Give the card back if nothing was asked for since."""
        with self._lock:
            place = self._place
            if self._calls or turn != self._turn or place is None:
                return
            self._place = None
        try:
            with Client(place[0], "AF_UNIX", authkey=place[1]) as line:
                line.send(None)
        except (EOFError, OSError):
            log.info("the card was gone already")

    # in the process with the card

    def work(self, address: str, key: bytes) -> Iterator[str]:
        """Answer calls at `address` until the card is given back. Yields once, when it can be called."""
        with Listener(address, "AF_UNIX", authkey=key) as listener:
            yield address
            while True:
                line = listener.accept()
                call = line.recv()
                if call is None:
                    line.close()
                    return
                threading.Thread(target=self._answer, args=(line, call), daemon=True).start()

    def _answer(self, line: Connection, call: tuple[Any, ...]) -> None:
        with line:
            try:
                line.send(("end", self._made(line, *call)))
            except UserError as error:
                _send(line, error)
            except (EOFError, OSError):
                return  # nobody listens any more
            except Exception as error:  # the border to the models, as in chat.py
                log.exception("a call failed on the card")
                _send(line, RuntimeError(f"{type(error).__name__}: {error}"))

    def _opened(self) -> Chat:
        with self._opening:
            if self._chat is None:
                self._chat = self._open()
            return self._chat

    def _made(self, line: Connection, kind: str, *given: Any) -> Any:
        """What a call gives at its end; what it gives before that is sent."""
        chat = self._opened()
        if kind == "generate":
            return _generate(line, chat, *given)
        name, rendering, method, arguments, options = given
        codec = codecs.tune(chat.codec(name), rendering)
        made = getattr(codec, method)(*arguments, **options)
        if kind == "each":
            with closing(made):
                for item in made:
                    line.send(("item", item))
            return None
        if kind == "streamer":
            while (step := line.recv()) is not None:
                line.send(("item", made.feed(step[0]) if step else made.finish()))
            return None
        return made


def _generate(
    line: Connection, chat: Chat, ids: Sequence[int], grammar: Grammar, seed: int, most: int
) -> tuple[Reason | None, list[float | None]]:
    stop = threading.Event()
    generation = chat.engine.generate(ids, grammar, seed=seed, stop=stop, max_new=most)
    try:
        for number in generation:
            line.send(("item", number))
    finally:
        stop.set()
    return generation.reason, list(getattr(generation, "shares", []))


def _send(line: Connection, error: Exception) -> None:
    try:
        line.send(("error", error))
    except OSError:
        log.info("nobody waits for the error")


@contextmanager
def _told(cause: str) -> Iterator[None]:
    """A line that breaks, as a person is told."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise ModelFault("The graphics card was taken back.", cause, "Try again: another one is asked for.") from error


def take(line: Connection) -> tuple[str, Any]:
    """The next answer: ("item" or "end", value). Raises what was raised there."""
    with _told("It is lent for a limited time."):
        kind, value = line.recv()
    if kind == "error":
        raise value
    return kind, value


class LentGeneration:
    """A reply that is written on the card, as engine.Generation."""

    def __init__(self, card: Card, ids: list[int], grammar: Grammar, seed: int, stop: threading.Event | None, most: int) -> None:
        self.card, self.ids, self.grammar, self.seed, self.stop, self.most = card, ids, grammar, seed, stop, most
        self.reason: Reason | None = None
        self.shares: list[float | None] = []

    def __iter__(self) -> Iterator[int]:
        """Yield ids; the grammar here is advanced as the one there."""
        with self.card.call("generate", self.ids, self.grammar, self.seed, self.most) as line:
            while True:
                while not line.poll(POLL_S):
                    if self.stop is not None and self.stop.is_set():
                        break
                if self.stop is not None and self.stop.is_set():
                    self.reason = "stop"
                    return
                kind, value = take(line)
                if kind == "end":
                    self.reason, self.shares = value
                    return
                self.grammar.advance(value)
                yield value


class LentEngine:
    """A language model on a card that is lent, as engine.Engine."""

    def __init__(self, card: Card, context: int) -> None:
        self.card, self.context = card, context

    def generate(
        self, ids: Sequence[int], grammar: Grammar, *, seed: int, stop: threading.Event | None = None, max_new: int
    ) -> LentGeneration:
        """See engine.Engine.generate(). What was read is not kept: every call may meet another process."""
        return LentGeneration(self.card, list(ids), grammar, seed, stop, max_new)


class LentStream:
    """A sound that is decoded on the card while its codes come: feed() and finish(), as those of codecs."""

    def __init__(self, card: Card, *call: Any) -> None:
        stack = ExitStack()
        self._line = stack.enter_context(card.call("streamer", *call))
        self._leave = weakref.finalize(self, stack.close)  # also when nobody finishes it

    def feed(self, frame: Any) -> Any:
        """One more frame of codes; the sounds that it completes."""
        return self._step((frame,))

    def finish(self) -> Any:
        """The rest."""
        try:
            return self._step(())
        finally:
            self._leave()

    def _step(self, step: tuple[Any, ...]) -> Any:
        with _told("It is lent for a limited time."):
            self._line.send(step)
        return take(self._line)[1]


class LentCodec:
    """A codec on a card that is lent: whatever methods its class has. kind: that class."""

    def __init__(self, card: Card, name: str, kind: type, rendering: Rendering = Rendering()) -> None:  # noqa: B008 - frozen
        self._card, self._name, self._kind, self._rendering = card, name, kind, rendering

    def __getattr__(self, method: str) -> Any:
        found = None if method.startswith("_") else getattr(self._kind, method, None)
        if not callable(found):
            raise AttributeError(method)
        if method == "tuned":
            return lambda rendering: LentCodec(self._card, self._name, self._kind, rendering)
        way = "streamer" if method == "streamer" else "each" if inspect.isgeneratorfunction(found) else "ask"
        return partial(self._call, way, method)

    def _call(self, way: str, method: str, *arguments: Any, **options: Any) -> Any:
        call = self._name, self._rendering, method, arguments, options
        if way == "streamer":
            return LentStream(self._card, *call)
        return self._card.each("each", *call) if way == "each" else self._card.ask("ask", *call)


def zero_gpu() -> Callable[[Work], Work]:
    """How a Space on ZeroGPU lends its card. Raises MissingProgram anywhere else."""
    try:
        import spaces  # is there on Spaces, and nowhere else
    except ImportError as error:
        remedy = "Use --device cpu or cuda here."
        raise MissingProgram("There is no card to be lent.", "The package spaces is not installed: this is no Space.", remedy) from error
    lend: Callable[[Work], Work] = spaces.GPU(duration=LENT_S)
    return lend


def open_lent(
    home: Family, lend: Callable[[Work], Work], quantize: str | None = None, device: str = "cuda", idle_s: float = IDLE_S
) -> Chat:
    """A chat whose models are opened on `device` by whoever gets a card. Raises BadCheckpoint."""
    from anygpt_demo.chat import Chat
    from anygpt_demo.models.llama import LlamaConfig

    card = Card(lend, partial(Chat.open, home, device, quantize), idle_s)

    def load(name: str) -> Any:
        module, _, kind = codecs.CODECS[name].partition(":")
        return LentCodec(card, name, getattr(import_module(module), kind))

    chat = Chat.elsewhere(home, load)
    chat.engine = LentEngine(card, LlamaConfig.from_json(home.component("llm").config).max_position_embeddings)
    return chat
