"""The parent of worker processes: it forks them, replaces those that die, and tells all of them what it is told.

It is a loop of its own, without Trio: a process that forks must not have an event loop, threads, or anything else under
way. Parent and worker have a socket between them. The parent's words go through it, so that none can come too early or
twice, as signals can; and its end tells a worker that the parent is gone.
"""

import contextlib
import dataclasses
import enum
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Final

logger = logging.getLogger("engineio_trio")

SETTLED: Final = 5.0  # seconds: a worker that dies sooner has died at once
PAUSE: Final = 0.1  # seconds before the place of one that died at once is taken; doubled each time
LONGEST_PAUSE: Final = 10.0
GIVE_UP: Final = 5  # starts that failed, one after the other, with nobody left who serves
LAST_WORDS: Final = 5.0  # seconds to end in after "now"; then comes SIGKILL
READY: Final = b"+"
TERMINAL: Final = "/dev/tty"


class Order(enum.Enum):
    """What a process is told from outside."""

    STOP = b"s"  # end in good order
    NOW = b"n"  # end at once
    RELOAD = b"r"  # read again what can be read again


class WorkersFailed(Exception):
    """The workers could not be started, or did not end well.

    `code` is the exit code for it: that of a worker which ended by itself before it was ready (`told`: it has said why
    itself), else 1.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code or 1
        self.told = code > 0


class Signals:
    """What a signal means to a process that serves: SIGTERM and SIGINT stop it, the second one at once.

    SIGHUP means to read things again, as with any daemon; but if the process had a terminal, and it is gone, that is
    what the signal says, and the process ends. (Unless it was started by nohup.)
    """

    NUMBERS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self._stopping = False
        self._terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    def order(self, number: int) -> Order:
        """What this signal means now."""
        if number == signal.SIGHUP and not (self._terminal and not _has_terminal()):
            return Order.RELOAD
        again, self._stopping = self._stopping, True
        return Order.NOW if again else Order.STOP


def _has_terminal() -> bool:
    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"


class Phase(enum.Enum):
    """How far the workers are."""

    BEGINNING = "beginning"  # not all of them have been ready yet: a failure ends it
    SERVING = "serving"
    ENDING = "ending"


@dataclasses.dataclass(slots=True)
class Place:
    """One worker's place. `control` is there as long as its process is."""

    number: int
    control: socket.socket | None = None
    pid: int = 0
    born: float = 0.0
    ready: bool = False
    failures: int = 0  # in a row
    due: float = 0.0  # when the next one may start

    @property
    def serves(self) -> bool:
        """Is there a process that is ready?"""
        return self.ready and self.control is not None


class Supervisor:
    """`count` processes that run `work(number, control)` and exit with what it returns.

    A worker says `READY` through `control`, and hears Orders from it. `buried(number)` is called when one has died.
    When told to stop, they have `patience` seconds.
    """

    def __init__(
        self,
        work: Callable[[int, socket.socket], int],
        count: int,
        *,
        patience: float,
        begun: Callable[[], object],
        buried: Callable[[int], None],
    ) -> None:
        self._work = work
        self._places = [Place(number) for number in range(1, count + 1)]
        self._patience = patience
        self._begun = begun
        self._buried = buried
        self._phase = Phase.BEGINNING
        self._deadlines: list[tuple[float, Callable[[], None]]] = []
        self._failure: WorkersFailed | None = None
        self._spoilt = 0  # workers that did not end well after being told to
        self._late = 0  # workers that did not end in time
        self._alarm: tuple[socket.socket, socket.socket]

    def run(self) -> None:
        """Return when all have ended well after a signal. Raises WorkersFailed. Call it in the main thread."""
        meaning = Signals()
        with self._listening():
            try:
                self._supervise(meaning)
            except BaseException:
                self._obey(Order.STOP, "")  # nobody is left behind
                self._supervise(meaning)
                raise
        if self._failure is not None:
            raise self._failure
        if self._late:
            raise WorkersFailed(f"{self._late} of {len(self._places)} workers did not end within {self._patience:g} s")
        if self._spoilt:
            raise WorkersFailed(f"{self._spoilt} of {len(self._places)} workers did not end well")

    def _supervise(self, meaning: Signals) -> None:
        while self._phase is not Phase.ENDING or any(place.control for place in self._places):
            self._start_those_due()
            for number in self._wait():
                if number in Signals.NUMBERS:
                    self._obey(meaning.order(number), signal.Signals(number).name)
            self._bury()
            self._press()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals wake the loop."""
        self._alarm = socket.socketpair()
        for end in self._alarm:
            end.setblocking(False)
        numbers = (*Signals.NUMBERS, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        wakeup = signal.set_wakeup_fd(self._alarm[1].fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            for end in self._alarm:
                end.close()

    def _wait(self) -> bytes:
        """Wait for something to happen; the numbers of the signals that came. Who is ready is noted on the way."""
        poll = select.poll()
        alarm = self._alarm[0]
        poll.register(alarm, select.POLLIN)
        unready = [place for place in self._places if place.control is not None and not place.ready]
        for place in unready:
            poll.register(place.control or alarm, select.POLLIN)
        poll.poll(self._sleep())
        for place in unready:
            self._hear(place)
        try:
            return alarm.recv(1_000)
        except BlockingIOError:
            return b""

    def _sleep(self) -> int | None:
        """Milliseconds until there is something to do, if nothing happens."""
        moments = [moment for moment, _ in self._deadlines] + [place.due for place in self._vacant()]
        return max(0, round(1_000 * (min(moments) - time.monotonic())) + 1) if moments else None

    # Beginning.

    def _vacant(self) -> list[Place]:
        """The places to fill. The first one is alone until it is ready: what stops all is said once, not by each."""
        alone = self._phase is Phase.BEGINNING and not self._places[0].ready
        places = [] if self._phase is Phase.ENDING else self._places[:1] if alone else self._places
        return [place for place in places if place.control is None]

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for place in self._vacant():
            if place.due <= now:
                self._start(place)

    def _start(self, place: Place) -> None:
        try:
            self._fork(place)
        except OSError as error:  # there is no memory, or no process left to be had: perhaps later
            if self._phase is Phase.BEGINNING:
                raise
            place.failures += 1
            self._postpone(place, f"cannot be started: {error}")

    def _fork(self, place: Place) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or what it holds is written twice
        old = signal.pthread_sigmask(signal.SIG_BLOCK, Signals.NUMBERS)  # they are the parent's until the fork is over
        try:
            pid = os.fork()
            if pid == 0:
                os._exit(self._be_worker(place, theirs, [ours, *self._alarm]))
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
            theirs.close()
        place.control, place.pid, place.ready, place.born = ours, pid, False, time.monotonic()

    def _be_worker(self, place: Place, control: socket.socket, foreign: list[socket.socket]) -> int:
        """In the new process: forget the parent's things, work, and say how it ended. Never returns to the parent's."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGHUP):  # of a terminal to all; the parent says what they mean
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, Signals.NUMBERS)
            for end in [*foreign, *(other.control for other in self._places if other.control is not None)]:
                end.close()
            code = self._work(place.number, control)
        except BaseException as error:  # noqa: BLE001 - the end of a process: what is left is told, and it exits
            code = 1
            if isinstance(error, SystemExit) and isinstance(error.code, int | None):
                code = error.code or 0
            else:
                traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        return code

    def _hear(self, place: Place) -> None:
        assert place.control is not None
        try:
            if place.control.recv(1) != READY:
                return  # it has ended
        except (BlockingIOError, ConnectionError):
            return
        place.ready = True
        if self._phase is Phase.BEGINNING and all(other.serves for other in self._places):
            self._phase = Phase.SERVING
            self._begun()
        elif self._phase is Phase.SERVING:
            logger.info("worker %d serves again (process %d)", place.number, place.pid)

    # Ending, of one and of all.

    def _bury(self) -> None:
        for place in self._places:
            if place.control is None:
                continue
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if pid:
                place.control.close()
                place.control = None
                self._buried(place.number)
                self._mourn(place, os.waitstatus_to_exitcode(status))

    def _mourn(self, place: Place, code: int) -> None:
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if self._phase is Phase.ENDING:
            if code not in (0, -signal.SIGTERM) and self._failure is None:
                logger.warning("worker %d %s", place.number, how)
                self._spoilt += 1
            return
        now = time.monotonic()
        if place.ready and now - place.born >= SETTLED:
            place.failures = 0
        else:
            place.failures += 1
        hopeless = place.failures >= GIVE_UP and not any(other.serves for other in self._places)
        if not place.ready and (self._phase is Phase.BEGINNING or hopeless):
            self._fail(WorkersFailed(f"worker {place.number} {how} before it was ready", max(code, 0)))
            return
        self._postpone(place, f"(process {place.pid}) {how}")

    def _postpone(self, place: Place, why: str) -> None:
        pause = min(PAUSE * 2 ** (place.failures - 1), LONGEST_PAUSE) if place.failures else 0.0
        place.due = time.monotonic() + pause
        when = f"in {pause:g} s" if pause else "now"
        logger.warning("worker %d %s; another takes its place %s", place.number, why, when)

    def _fail(self, failure: WorkersFailed) -> None:
        self._failure = failure
        self._obey(Order.STOP, "")

    def _obey(self, order: Order, why: str) -> None:
        if why:
            logger.info("%s: telling %d workers", why, sum(place.control is not None for place in self._places))
        self._tell(order)
        if order is not Order.RELOAD:
            self._phase = Phase.ENDING
            now = time.monotonic()
            patience = self._patience if order is Order.STOP else 0.0
            self._deadlines = [(now + patience + LAST_WORDS, self._kill)]
            if order is Order.STOP:
                self._deadlines.append((now + patience, self._hurry))

    def _tell(self, order: Order) -> None:
        for place in self._places:
            if place.control is not None:
                with contextlib.suppress(OSError):  # it has ended already, or hears nothing: then SIGKILL comes
                    place.control.send(order.value)

    def _hurry(self) -> None:
        self._late = sum(place.control is not None for place in self._places)
        self._tell(Order.NOW)

    def _kill(self) -> None:
        for place in self._places:
            if place.control is not None:
                logger.error("worker %d (process %d) does not end: killing it", place.number, place.pid)
                os.kill(place.pid, signal.SIGKILL)

    def _press(self) -> None:
        """Do what the deadlines of the end say."""
        now = time.monotonic()
        due = [act for moment, act in self._deadlines if moment <= now]
        self._deadlines = [(moment, act) for moment, act in self._deadlines if moment > now]
        for act in due:
            act()
