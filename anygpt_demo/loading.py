"""Reading the models of a family while the page is already served: how far it has come, and what went wrong.

    language model --there--> messages are answered --parts--> codecs --done

Whoever wants to be answered waits in the line (visitors.Line) until the language model is there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anygpt_demo.chat import OUT_OF_MEMORY, fault
from anygpt_demo.errors import UserError

if TYPE_CHECKING:
    from anygpt_demo.checkpoints import Family

COPIES = "llm_"  # roles of the language model in fewer bits: one of them may be read in the place of `llm`
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """What is being read now. checked: it is right, and taken into memory; else it is compared with its hash.

    number: of the file, from 1, among `files`; done, total: bytes of all files that have been checked, or taken into memory, and
    all there are; share: of all the work, 0 to 1.
    """

    name: str
    checked: bool
    number: int
    files: int
    done: int
    total: int
    share: float


class Loading:
    """The reading of a family. there: the language model can answer; done: nothing is being read any more."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], tuple[int, int]] = {}  # role and name to number and bytes
        self.total = 0
        self.there, self.done = threading.Event(), threading.Event()
        self.error: UserError | None = None
        self.moment: Moment | None = None
        self._counts: dict[tuple[str, str, bool], int] = {}
        self._steps: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()

    @classmethod
    def over(cls) -> Loading:
        """Of a family that is there."""
        loading = cls()
        loading.there.set()
        loading.done.set()
        return loading

    def plan(self, home: Family, quantize: str, parts: bool) -> None:
        """Say which files will be read. quantize: in which bits the language model is wanted; parts: the codecs as well."""
        small = f"{COPIES}{quantize}"
        model = small if home.has(small) else "llm"
        roles = [role for role in home.manifest["components"] if parts and role != "llm" and not role.startswith(COPIES)]
        found = [(role, home.component(role)) for role in (model, *roles)]
        self.expect([(role, name, int(part.files[name]["bytes"])) for role, part in found for name in part.shards()])

    def expect(self, files: Sequence[tuple[str, str, int]]) -> None:
        """Role, name and bytes of each file that will be read, in order."""
        self.files = {(role, name): (number, size) for number, (role, name, size) in enumerate(files, 1)}
        self.total = sum(size for _, _, size in files)

    def watch(self, role: str, name: str, checked: bool, count: int) -> None:
        """As checkpoints.Watch: `count` bytes of a file are checked, or taken into memory."""
        if self.done.is_set() or (role, name) not in self.files:
            return
        number, size = self.files[role, name]
        with self._lock:
            self._counts[role, name, checked] = min(count, size)
            passes = [sum(count for (_, _, kind), count in self._counts.items() if kind is wanted) for wanted in (False, True)]
        share = sum(passes) / max(1, 2 * self.total)
        self.moment = Moment(f"{role}/{name}", checked, number, len(self.files), passes[checked], self.total, share)

    def ready(self) -> bool:
        """Whether the language model can answer. Raises UserError if it could not be read."""
        if self.error is not None:
            raise self.error
        return self.there.is_set()

    def begin(self, model: Callable[[], None], parts: Callable[[], None]) -> None:
        """Read the language model, then the other parts, in a thread of its own."""
        self._steps = (model, parts)
        threading.Thread(target=self._read, daemon=True).start()

    def again(self) -> None:
        """Begin anew after a failure; nothing if there was none."""
        with self._lock:
            if self.error is None or not self._steps:
                return
            self.error, self.moment, self._counts = None, None, {}
            self.done.clear()
        self.begin(*self._steps)

    def _read(self) -> None:
        model, parts = self._steps
        try:
            model()
        except UserError as error:
            self._fail(error)
        except Exception as error:  # the border to the models: the page must stay up and say so
            log.exception("the language model cannot be read")
            failure = fault("The language model could not be read.", error)
            remedy = OUT_OF_MEMORY if failure.remedy == OUT_OF_MEMORY else "Read them again; the terminal says more."
            self._fail(UserError(failure.problem, failure.cause, remedy))
        else:
            self.there.set()
            parts()
            self.done.set()

    def _fail(self, error: UserError) -> None:
        log.warning("%s", error)
        with self._lock:
            self.error = error
            self.done.set()
