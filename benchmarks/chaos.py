"""Kills in the middle of runs: whatever dies, and whenever, the run that is taken up again writes the same pixels.

Each trial is drawn from its seed: who dies (a worker, the scheduler, the driver, the store), when, and where the
output lies (on disk, or on S3). The driver is the command line on two workers of a scheduler of its own. Afterwards
the same command runs until it is done; then `store_digest` must be that of an undisturbed run, and `verify` sound.

    uv run python -m benchmarks.chaos --work DIR --trials 50
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from ndvi_scale import load_plan, make_sandbox, open_store, store_digest
from ndvi_scale.verify import verify

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndvi_scale.store import Store

VICTIMS: Final = ("worker", "scheduler", "driver", "store")
PLACES: Final = ("disk", "s3")
MOST_RUNS: Final = 4
"""Runs until an output has to be done: nothing is killed after the first."""
LONGEST: Final = 2.0
"""Seconds after the first region is done in which somebody dies."""
AWAY: Final = 2.0
"""Seconds for which a killed store is away."""


@dataclass(frozen=True)
class Trial:
    """What is to happen."""

    seed: int
    victim: str
    place: str
    delay: float

    @classmethod
    def drawn(cls, seed: int) -> Trial:
        """Victims and places in turn, so that each pair comes up; the moment by chance."""
        chance = random.Random(seed)  # noqa: S311 - a moment, not a secret
        victim, place = VICTIMS[seed % len(VICTIMS)], PLACES[seed // len(VICTIMS) % len(PLACES)]
        return cls(seed, victim, place, chance.uniform(0, LONGEST))


@dataclass
class Cluster:
    """A scheduler and a nanny of two workers, as processes."""

    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, environment: dict[str, str]) -> None:
        """Scheduler and workers; the workers wait for it by themselves."""
        own = ["--host", "127.0.0.1", "--no-dashboard"]
        scheduler = ["distributed.cli.dask_scheduler", *own, "--port", str(self.port)]
        workers = ["distributed.cli.dask_worker", self.address, *own, "--nworkers", "2", "--nthreads", "1"]
        for name, arguments in (("scheduler", scheduler), ("workers", [*workers, "--death-timeout", "60"])):
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def kill_worker(self, chance: random.Random) -> None:
        """One of the two; their nanny starts another."""
        children = psutil.Process(self.processes["workers"].pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        chance.choice(sorted(workers, key=lambda child: child.pid)).kill()

    def kill(self) -> None:
        """All of it."""
        for process in self.processes.values():
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                child.kill()
            process.kill()
            process.wait()
        self.processes.clear()


@dataclass(frozen=True)
class Scene:
    """What the trials have in common."""

    folder: Path
    items: Path
    weed: services.MortalSeaweed
    digest: str

    @property
    def environment(self) -> dict[str, str]:
        """Of driver and workers: the store's keys, which are in no command and no graph."""
        return {**os.environ, **{key.upper(): value for key, value in self.weed.endpoint.options.items()}}

    def url(self, trial: Trial) -> str:
        """Where a trial writes."""
        name = f"chaos-{trial.seed}.zarr"
        return str(self.folder / name) if trial.place == "disk" else f"s3://{self.weed.endpoint.bucket}/{name}"

    def store(self, trial: Trial) -> Store:
        """The same for this process."""
        return open_store(self.url(trial), self.weed.endpoint.options if trial.place == "s3" else None)


def run_command(items: Path, url: str, *options: str) -> list[str]:
    """The command line of a run of some hundred regions."""
    given = ["--items", str(items), "--crs", "EPSG:32631", "--chunk", "64", "--out", url]
    return [sys.executable, "-m", "ndvi_scale", "run", *given, *options]


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """A sandbox, an undisturbed run, a store."""
    made = make_sandbox(folder / "sandbox", size=256, dates=5, seed=5)
    url = str(folder / "whole.zarr")
    subprocess.run(run_command(made.items, url), check=True, capture_output=True)
    (folder / "weed").mkdir()
    with services.mortal_seaweed(folder / "weed") as weed:
        yield Scene(folder, made.items, weed, store_digest(open_store(url)))


def attempt(scene: Scene, trial: Trial) -> int:
    """A trial; returns how many runs it took. Raises AssertionError where anything was lost."""
    cluster = Cluster(services.free_ports(1)[0])
    log = scene.folder / f"chaos-{trial.seed}.log"
    with ExitStack() as stack, log.open("wb") as told:
        cluster.start(scene.environment)
        stack.callback(cluster.kill)
        for number in range(1, MOST_RUNS + 1):
            command = run_command(scene.items, scene.url(trial), "--cluster", cluster.address)
            process = subprocess.Popen(command, env=scene.environment, stdout=told, stderr=told)
            stack.callback(process.kill)
            if number == 1:
                _strike(scene, trial, cluster, process)
            if process.wait(120) == 0:
                _check(scene, trial)
                return number
            damage_ledger(scene.store(trial), trial)
            if not cluster.processes:
                cluster.start(scene.environment)
    raise AssertionError(f"{trial}: not done after {MOST_RUNS} runs\n{log.read_text()[-3000:]}")


def _strike(scene: Scene, trial: Trial, cluster: Cluster, driver: subprocess.Popen[bytes]) -> None:
    """Wait for the first segment of the ledger, and a while; then somebody dies."""
    chance, store = random.Random(trial.seed), scene.store(trial)  # noqa: S311 - no secret
    while not store.state_names("ledger/") and driver.poll() is None:
        time.sleep(0.05)
    time.sleep(trial.delay)
    if trial.victim == "worker":
        cluster.kill_worker(chance)
    elif trial.victim == "scheduler":
        cluster.kill()
    elif trial.victim == "driver" or trial.place == "disk":
        driver.send_signal(signal.SIGKILL)
    else:
        scene.weed.kill()
        time.sleep(AWAY)
        scene.weed.start()


def damage_ledger(store: Store, trial: Trial) -> None:
    """Where a store on disk is the victim: its last segment is cut short, as by a machine that lost power."""
    names = store.state_names("ledger/")
    if (trial.victim, trial.place) != ("store", "disk") or not names:
        return
    path = Path(f"{store.url}.run") / names[-1]
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])


def _check(scene: Scene, trial: Trial) -> None:
    store = scene.store(trial)
    plan = load_plan(store)
    assert plan is not None
    assert store_digest(store) == scene.digest, trial
    found = verify(plan, store)
    assert found.sound, f"{trial}: {found}"


def main() -> None:
    """Run trials and print what was killed, and how many runs each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="An empty folder.")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="Seed of the first trial.")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs: Counter[tuple[str, str, int]] = Counter()
    with scene(arguments.work) as common:
        for seed in range(arguments.first, arguments.first + arguments.trials):
            trial = Trial.drawn(seed)
            started = time.monotonic()
            took = attempt(common, trial)
            runs[trial.victim, trial.place, took] += 1
            print(f"{trial}: the same digest after {took} runs, {time.monotonic() - started:.0f} s", flush=True)
    for (victim, place, took), count in sorted(runs.items()):
        print(f"{victim:9} {place:4} {count} trials done in {took} run(s)")


if __name__ == "__main__":
    main()
