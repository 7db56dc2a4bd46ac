"""Threads with fake windows: who computes when, and what becomes of those that fail."""

import threading
import time

import pytest

from monailabel_app.errors import RequestError
from monailabel_app.models.turn import Priority, Turn

SECONDS = 10  # that a thread may take, to end a test that would hang


class Windows:
    """A fake inference in a thread of its own: it notes each of its windows, and computes until it may go on."""

    def __init__(self, turn: Turn, name: str, priority: Priority, log: list[str], count: int = 2) -> None:
        self.name, self.log, self.count = name, log, count
        self.waits = threading.Event()
        self.steps = threading.Semaphore(0)
        self.computes = threading.Semaphore(0)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(turn, priority), daemon=True)
        self._thread.start()
        assert self.waits.wait(SECONDS)

    def _run(self, turn: Turn, priority: Priority) -> None:
        try:
            with turn.line(priority) as my_turn:
                self.waits.set()
                for number in range(self.count):
                    with my_turn():
                        self.log.append(f"{self.name}{number}")
                        self.computes.release()
                        assert self.steps.acquire(timeout=SECONDS)
                        self.log.append("-")
        except BaseException as error:
            self.error = error

    def step(self) -> None:
        """End the window that computes."""
        assert self.computes.acquire(timeout=SECONDS)
        self.steps.release()

    def join(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive() and self.error is None


def run_to_their_end(*inferences: Windows) -> None:
    for inference in inferences:
        for _ in range(inference.count):
            inference.steps.release()
    for inference in inferences:
        inference.join()


@pytest.fixture
def turn():
    return Turn()


@pytest.fixture
def log():
    return []


def windows(log):
    """In their order; no two computed at once."""
    assert log[1::2] == ["-"] * (len(log) // 2)
    return log[::2]


def test_first_come_first_served(turn, log):
    first, second, third = (Windows(turn, name, Priority.SEGMENTATION, log) for name in "abc")
    run_to_their_end(third, second, first)
    assert windows(log) == ["a0", "a1", "b0", "b1", "c0", "c1"]


def test_the_most_urgent_first(turn, log):
    running = Windows(turn, "r", Priority.SCORING, log, count=1)
    names = {"s": Priority.SCORING, "b": Priority.BATCH, "u": Priority.SEGMENTATION, "c": Priority.CLICK}
    waiting = [Windows(turn, name, priority, log, count=1) for name, priority in names.items()]
    run_to_their_end(running, *waiting)
    assert windows(log) == ["r0", "c0", "u0", "b0", "s0"]


def test_a_click_comes_between_the_windows_of_others(turn, log):
    """And they wait between the click's own windows, too: it would else take twice as long."""
    scoring = Windows(turn, "s", Priority.SCORING, log, count=3)
    user = Windows(turn, "u", Priority.SEGMENTATION, log, count=3)
    scoring.step()
    user.step()
    assert user.computes.acquire(timeout=SECONDS)  # its second window
    click = Windows(turn, "c", Priority.CLICK, log, count=3)
    run_to_their_end(click, user, scoring)
    assert windows(log) == ["s0", "u0", "u1", "c0", "c1", "c2", "u2", "s1", "s2"]


def test_a_place_without_a_turn_holds_up_only_the_less_urgent(turn, log):
    with turn.line(Priority.SEGMENTATION):
        run_to_their_end(Windows(turn, "c", Priority.CLICK, log))
        later = Windows(turn, "b", Priority.BATCH, log)
        time.sleep(0.05)
        assert windows(log) == ["c0", "c1"]
    run_to_their_end(later)


def test_nothing_waits_for_a_holder_that_failed(turn, log):
    with pytest.raises(MemoryError), turn.line(Priority.CLICK) as my_turn, my_turn():
        raise MemoryError
    with pytest.raises(KeyboardInterrupt), turn.line(Priority.CLICK):
        raise KeyboardInterrupt
    run_to_their_end(Windows(turn, "s", Priority.SCORING, log))


def test_nothing_waits_for_one_that_gave_up_waiting(turn, log, monkeypatch):
    """An exception in the wait itself, such as an interrupt."""
    running = Windows(turn, "r", Priority.SEGMENTATION, log)

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), turn.line(Priority.CLICK) as my_turn:
        patch.setattr(turn._changed, "wait_for", interrupted)
        with my_turn():
            pass
    run_to_their_end(running)


def test_a_thread_that_ends_in_its_turn(turn, log):
    def end():
        with turn.line(Priority.CLICK) as my_turn, my_turn():
            raise SystemExit

    thread = threading.Thread(target=end)
    thread.start()
    thread.join(SECONDS)
    run_to_their_end(Windows(turn, "s", Priority.SCORING, log))


def test_many_threads(turn):
    """Each window is alone, and all come to their end."""
    inside, most = 0, 0

    def compute(priority):
        nonlocal inside, most
        with turn.line(priority) as my_turn:
            for _ in range(20):
                with my_turn():
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.0005)
                    inside -= 1

    threads = [threading.Thread(target=compute, args=(Priority(i % 4),)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert most == 1


def test_more_users_than_may_wait():
    turn = Turn(max_waiting=1)
    with turn.admit(), turn.admit():
        with (
            pytest.raises(RequestError, match="1 requests are waiting already, try again later") as error,
            turn.admit(),
        ):
            pass
        assert error.value.status == 503
    with pytest.raises(MemoryError), turn.admit():
        raise MemoryError
    with turn.admit(), turn.admit():
        pass
