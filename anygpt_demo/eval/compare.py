"""What two measurements of the same family differ in: `python -m anygpt_demo.eval.compare BEFORE.json AFTER.json [--most POINTS]`.

Both are files of `eval mini`. Prints a Markdown table of the figures that have a gate, in points (hundredths), and exits with 1 if
one of them is worse by more than POINTS or in one file alone, or if there is none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anygpt_demo.eval.table import GATES

Found = Mapping[str, Mapping[str, Any]]


def drops(before: Found, after: Found) -> dict[str, float]:
    """By how many points each gated figure that is in both got worse; negative: better. A point is .01 of its unit."""
    found = {}
    for key, (_, _, more) in GATES.items():
        if key in before and key in after:
            change = 100 * (float(after[key]["value"]) - float(before[key]["value"]))
            found[key] = -change if more else change
    return found


def table(before: Found, after: Found, names: tuple[str, str] = ("before", "after")) -> str:
    """Markdown: both values with the interval of each, and what was lost; the largest loss first."""
    lines = [f"| figure | {names[0]} [95 %] | {names[1]} [95 %] | worse by, points | n |", "|---|---|---|---|---|"]
    for key, drop in sorted(drops(before, after).items(), key=lambda item: -item[1]):
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(item["value"], *item["ci95"]) for item in (before[key], after[key])]
        counts = dict.fromkeys(str(item["n"]) for item in (before[key], after[key]))
        lines.append(f"| `{key}` | {cells[0]} | {cells[1]} | {drop:+.1f} | {' / '.join(counts)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--most", type=float, metavar="POINTS", help="what a figure may lose")
    given = parser.parse_args(arguments)
    before, after = (json.loads(path.read_text(encoding="utf-8"))["figures"] for path in (given.before, given.after))
    print(table(before, after, (given.before.stem, given.after.stem)))
    alone = sorted({key for key in GATES if key in before} ^ {key for key in GATES if key in after})
    if alone:
        print(f"\nOnly in one of them: {', '.join(alone)}")
    found = drops(before, after)
    return int(not found or (given.most is not None and (bool(alone) or any(drop > given.most for drop in found.values()))))


if __name__ == "__main__":
    sys.exit(main())
