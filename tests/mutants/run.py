"""Breaks the product on purpose, one promise at a time, and checks that the named test notices.

Each mutant of `mutants.py` is a change of one file. The committed tree is copied, and the tests that are meant to notice must
pass there. Then each mutant is applied by itself, the program is built, and its test must fail. `make mutants` runs all;
names as arguments run some.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutants"
COPY = WORK / "tree"
ENV = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "target"), "RUST_BACKTRACE": "0"}


def fresh_copy() -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(COPY)], input=archive.stdout, check=True)


def cargo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cargo", *arguments], cwd=COPY, env=ENV, capture_output=True, text=True)


def failed(where: str, names: list[str]) -> list[str]:
    """Builds, runs these tests, and says which of them fail."""
    if where.endswith("/src"):
        chosen = ["-p", f"flowforge-{where.removesuffix('/src')}", "--lib"]
    else:
        chosen = ["-p", "flowforge-server", "-p", "flowforge-tests", "--test", where]
        # The program that the tests start, in the same build, so that nothing is compiled twice.
        built = cargo("build", "--quiet", *chosen, "--bins")
        if built.returncode:
            sys.exit(f"it does not build\n{built.stderr}")
    done = cargo("test", "--quiet", *chosen, "--", "--exact", *names)
    broken = [name for name in names if f"---- {name} " in done.stdout]
    if f"{len(names) - len(broken)} passed; {len(broken)} failed" not in done.stdout:
        sys.exit(f"{', '.join(names)}: did not run\n{done.stdout}\n{done.stderr}")
    for line in done.stdout.splitlines():
        if line.startswith(("Error: ", "assertion ")):
            print(f"    {line}"[:160])
    return broken


def check_unbroken(chosen: list[Mutant]) -> None:
    print("unbroken: the tests that are to notice pass", flush=True)
    for where in sorted({mutant.caught_by[0] for mutant in chosen}):
        names = sorted({mutant.caught_by[1] for mutant in chosen if mutant.caught_by[0] == where})
        if broken := failed(where, names):
            sys.exit(f"without any mutant these fail: {', '.join(broken)}")


def is_caught(mutant: Mutant) -> bool:
    path = COPY / mutant.file
    good = path.read_text()
    if good.count(mutant.find) != 1:
        sys.exit(f"{mutant.name}: its place in {mutant.file} has changed; update tests/mutants/mutants.py")
    path.write_text(good.replace(mutant.find, mutant.replace))
    try:
        where, name = mutant.caught_by
        return bool(failed(where, [name]))
    finally:
        path.write_text(good)


def main() -> int:
    wanted = sys.argv[1:]
    if unknown := set(wanted) - {mutant.name for mutant in MUTANTS}:
        sys.exit(f"no mutant is called {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in MUTANTS)}")
    chosen = [mutant for mutant in MUTANTS if not wanted or mutant.name in wanted]
    fresh_copy()
    check_unbroken(chosen)
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        started = time.monotonic()
        print(f"{number} of {len(chosen)}, {mutant.name}: breaks «{mutant.breaks}»", flush=True)
        caught = is_caught(mutant)
        if not caught:
            survivors.append(mutant.name)
        verdict = "caught" if caught else "SURVIVED"
        print(f"    {verdict} by {mutant.caught_by[1]} after {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
