"""Runs the checks; see scripts/deploy-check.sh."""

import argparse
import json
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import container
import kubernetes
import monitoring
from breaks import BREAKS
from program import Program

CHECKS = {**container.CHECKS, **kubernetes.CHECKS, **monitoring.CHECKS}
# What any check reads, for the copies that are broken.
READ = [
    ".ci",
    ".dockerignore",
    ".github",
    "Cargo.toml",
    "Cargo.lock",
    "Dockerfile",
    "README.md",
    "configs",
    "db",
    "deploy",
    "docker-compose.yml",
    "scripts",
    "src",
]


def problems_of(name, root):
    """None where the check cannot be made here. What a check stumbles over is a problem too."""
    try:
        found = CHECKS[name][0](Program(root))
        return None if found is None else list(found)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return [f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"]


def check(root):
    failed = 0
    for name, (_, meaning) in CHECKS.items():
        problems = problems_of(name, root)
        failed += bool(problems)
        print("NOT CHECKED" if problems is None else "FAILED" if problems else "ok", meaning, sep="\t", flush=True)
        for problem in problems or []:
            print(f"\t\t{problem}")
    return failed


def prove(root):
    """Breaks one thing at a time in a copy: its check must find what it did not find before."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in READ:
            copy = shutil.copytree if (root / path).is_dir() else shutil.copy
            copy(root / path, Path(folder, path))
        clean = {name: problems_of(name, folder) for name in CHECKS}
        for name, file, old, new in BREAKS:
            place = Path(folder, file)
            text = place.read_text()
            if clean[name] is None:
                print("NOT CHECKED", name, sep="\t")
                continue
            place.write_text(text.replace(old, new, 1))
            problems = problems_of(name, folder)
            place.write_text(text)
            new_problems = [problem for problem in problems if problem not in clean[name]]
            sound = text.count(old) > 0 and new_problems
            failed += not sound
            found = new_problems[0] if new_problems else "nothing is found"
            print(
                "ok" if sound else "FAILED",
                f"{name}: {file}: {old.strip()!r} as {new.strip()!r}: {found}",
                sep="\t",
                flush=True,
            )
        for name in CHECKS.keys() - {name for name, *_ in BREAKS}:
            failed += 1
            print("FAILED", f"{name}: nothing shows that it can fail", sep="\t")
    return failed


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=Path, required=True)
    arguments.add_argument("--promtool", required=True)
    arguments.add_argument("--prove", action="store_true")
    arguments.add_argument("--queries", action="store_true")
    options = arguments.parse_args()
    monitoring.promtool = options.promtool
    if options.queries:
        found = monitoring.queries(Program(options.root))
        print(json.dumps([{"where": where, "query": query} for where, query in found], indent=1))
        return 0
    return 1 if (prove if options.prove else check)(options.root) else 0


sys.exit(main())
