"""The app's peak of memory, in a process of its own: `python -m anygpt_demo.eval.bench_memory FAMILY` prints what it had (MB).

Two numbers: with the libraries, before the first weight; and after the page is built, everything is loaded and one turn of each kind
is made.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_mb(status: Path = STATUS) -> float:
    """Most memory (MB) that this program has had. getrusage() also counts what the process had before it became this program."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    if found:
        return found[0] / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def app_memory(folder: str) -> tuple[float, float]:
    """Peaks (MB) of this process, which should be a fresh one: before the first weight, and after one turn of each kind."""
    import numpy as np
    import torch

    from anygpt_demo import ui
    from anygpt_demo.chat import Chat, Message, Settings
    from anygpt_demo.checkpoints import Family
    from anygpt_demo.conversation import Conversation
    from anygpt_demo.media import Audio, Picture

    libraries = peak_mb()
    torch.set_num_threads(1)
    chat = Chat.open(Family.open(Path(folder)))
    with tempfile.TemporaryDirectory() as folder_of_chats:
        ui.build(chat, "mini", root=Path(folder_of_chats))
    talk = Conversation()
    for name in ("text", *chat.modalities):
        media: tuple[tuple[str, Audio | Picture], ...] = ()
        if name != "text":
            facts = chat.vocabulary.ranges[name].modality
            noise = np.random.default_rng(0).normal(0, 0.1, 3 * (facts.sample_rate_hz or 1)).astype(np.float32)
            given = Picture(np.full((512, 512, 3), 99, np.uint8)) if facts.kind == "image" else Audio(noise, facts.sample_rate_hz or 1)
            media = ((name, given),)
        for _ in chat.reply(talk, Message("Hello", media), settings=Settings(output=name, lead=4, limits={"music": 125}, max_new=640)):
            pass
    return libraries, peak_mb()


if __name__ == "__main__":
    print(*app_memory(sys.argv[1]))
