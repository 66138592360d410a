"""`scripts/bench RIG …`: finds the rig and runs it, or all of them. `bench.py TARGET RIG WORD…`; without a rig, says which there
are."""

import importlib
import sys
from pathlib import Path

import every
import rig

RIGS = Path(__file__).with_name("rigs")


def main(target, name=None, *words):
    names = sorted(path.stem for path in RIGS.glob("*.py"))
    if name == "all":
        return every.main(Path(target), words)
    if name not in names:
        print(f"  {'all':8} {every.WHAT}")
        for known in names:
            print(f"  {known:8} {importlib.import_module(f'rigs.{known}').WHAT}")
        return 2
    return rig.main(name, importlib.import_module(f"rigs.{name}"), Path(target), words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
