"""Injects faults into a sweep, one after another, and gives its command again until it has come to its end."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from faults import Fault
from invariants import violations
from sweep_under_test import EPOCHS, SweepUnderTest
from waiting import LONGEST_S


@dataclass(frozen=True)
class Moment:
    """When something is injected: up to `longest_delay_s` after the sweep is so far, or has no more trials to run.

    With `from_start` the delay is counted from the newest controller's start, not from when the moment is looked for.
    """

    name: str
    is_reached: Callable[[SweepUnderTest], bool]
    longest_delay_s: float
    from_start: bool = False


STARTING = Moment("starting", lambda _sweep: True, 12.0, from_start=True)
TRAINING = Moment("training", lambda sweep: any("record" in each.user_attrs for each in sweep.running()), 0.5)
TELLING = Moment("telling", lambda sweep: any(each.last_step == EPOCHS for each in sweep.running()), 0.8)
FINISHING = Moment("finishing", SweepUnderTest.is_told, 6.0)
MOMENTS = [STARTING, TRAINING, TELLING, FINISHING]


@dataclass(frozen=True)
class Injection:
    """One fault at one moment; `seed` draws the victim and the times."""

    seed: str
    fault: Fault
    moment: Moment


def plan_injections(faults: Sequence[Fault], number: int, seed: int) -> list[Injection]:
    """Draw injections in which each fault and each moment is as frequent as any other; those of the end come last."""
    draw = random.Random(seed)

    def shuffled(cards):
        return draw.sample(list(islice(cycle(cards), number)), number)

    drawn = zip(shuffled(faults), shuffled(MOMENTS), strict=True)
    ordered = sorted(drawn, key=lambda pair: pair[1] is FINISHING)
    return [Injection(f"{seed}.{index}", fault, moment) for index, (fault, moment) in enumerate(ordered)]


class Campaign:
    """What is injected into one sweep, and what turned out to be wrong."""

    def __init__(self, sweep: SweepUnderTest, say: Callable[[str], None]) -> None:
        self._sweep, self._say = sweep, say
        self._right_codes = {0}
        self._wrong: list[str] = []

    def run(self, injections: Sequence[Injection]) -> list[str]:
        """Inject all, bring the sweep to its end, and give what is wrong with it, one line each."""
        for injection in injections:
            self._inject(injection)
        self._finish()
        reasons = Counter(trial.user_attrs.get("error", "")[:60] for trial in self._sweep.trials())
        lost = "; ".join(f"{number} {reason}" for reason, number in reasons.most_common() if reason)
        self._say(f"trials tried again: {lost or 'none'}")
        return [*self._wrong, *violations(self._sweep)]

    def _inject(self, injection: Injection) -> None:
        sweep, fault, draw = self._sweep, injection.fault, random.Random(injection.seed)
        name = f"{injection.seed:>7s}  {fault.name} while {injection.moment.name}"
        victims = self._wait_for_victims(injection, draw)
        if not victims and sweep.is_told():  # a cluster has no processes for trials when there are none to run
            self._say(f"{name}: not injected, there was nothing left to hit")
            return
        if not victims:
            self._wrong.append(f"{name}: the moment did not come; {sweep.last_words()}")
            return
        before = sweep.describe()
        self._right_codes |= set(fault.ends_controllers_with)
        victim = draw.choice(victims)
        injected = fault.inject(victim)
        sweep.wait(lambda: False, draw.uniform(0.2, 1) * fault.lasts_s)
        fault.heal(injected)
        if fault.ends_victim and not sweep.wait(lambda: victim.poll() is not None, LONGEST_S):
            self._wrong.append(f"{name}: the controller did not end within {LONGEST_S} s")
            victim.kill()
        codes = self._take_leave()
        self._say(f"{name} ({before}): {'ended with ' + ', '.join(map(str, codes)) if codes else 'goes on'}")

    def _wait_for_victims(self, injection: Injection, draw: random.Random) -> list[object]:
        """Wait for the moment and then for something to hit, starting the command again if it ends meanwhile."""
        sweep, moment = self._sweep, injection.moment
        for _ in range(3):
            self._keep_running()
            is_reached = sweep.wait(lambda: moment.is_reached(sweep) or sweep.is_told(), LONGEST_S)
            delay_s = draw.uniform(0, moment.longest_delay_s)
            sweep.wait(lambda: False, delay_s - (sweep.age_s() if moment.from_start else 0))
            sweep.wait(lambda: injection.fault.victims(sweep), LONGEST_S)
            if is_reached and sweep.living() and (victims := injection.fault.victims(sweep)):
                return victims
        return []

    def _keep_running(self) -> None:
        """Give the command if no controller is left."""
        self._take_leave()
        if not self._sweep.controllers:
            self._right_codes = {0}
            self._sweep.start()

    def _take_leave(self) -> list[int]:
        codes = self._sweep.take_leave()
        for code in codes:
            if code not in self._right_codes:
                self._wrong.append(f"a controller ended with {code}; {self._sweep.last_words()}")
        return codes

    def _finish(self) -> None:
        """Let the sweep come to its end, undisturbed; where all controllers were ended, by the same command."""
        last_code = self._end_of_controllers()
        if last_code != 0:
            self._keep_running()
            self._end_of_controllers()

    def _end_of_controllers(self) -> int | None:
        self._sweep.wait(lambda: False, LONGEST_S + 5 * self._sweep.num_trials)
        if self._sweep.living():
            self._wrong.append(f"the sweep does not end; {self._sweep.last_words()}")
            self._sweep.end()
        codes = self._take_leave()
        return codes[-1] if codes else None
