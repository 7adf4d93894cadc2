import asyncio
from itertools import pairwise

from serving.testing import ManualClock
from serving.turnstile import LEAST, TURN_S, Turnstile


async def enter(turnstile: Turnstile, entered: list[int], number: int, give_up_s: float) -> None:
    await turnstile.enter(give_up_s)
    entered.append(number)


def crowd(turnstile: Turnstile, entered: list[int], count: int, give_up_s: float = 100.0) -> list[asyncio.Task[None]]:
    return [asyncio.ensure_future(enter(turnstile, entered, number, give_up_s)) for number in range(count)]


async def test_a_few_enter_at_once_and_the_rest_in_order() -> None:
    entered: list[int] = []
    tasks = crowd(Turnstile(2, ManualClock()), entered, 7)
    await asyncio.sleep(0)
    assert entered == [0, 1]
    await asyncio.gather(*tasks)
    assert entered == [0, 1, 2, 3, 4, 5, 6]


async def test_other_work_gets_its_turn_between() -> None:
    entered: list[int] = []
    seen: list[int] = []
    loop = asyncio.get_running_loop()

    def look() -> None:
        seen.append(len(entered))
        if len(entered) < 8:
            loop.call_soon(look)

    tasks = crowd(Turnstile(2, ManualClock()), entered, 8)
    loop.call_soon(look)
    await asyncio.gather(*tasks)
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert max(steps) <= 2


async def test_it_is_open_again_after_a_burst() -> None:
    entered: list[int] = []
    turnstile = Turnstile(2, ManualClock())
    await asyncio.gather(*crowd(turnstile, entered, 5))
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.gather(*crowd(turnstile, entered, 2))
    assert len(entered) == 7


async def test_under_pressure_the_newest_goes_first() -> None:
    clock = ManualClock()
    turnstile = Turnstile(1, clock)
    entered: list[int] = []
    tasks = crowd(turnstile, entered, 4, give_up_s=10.0)
    await asyncio.sleep(0)
    clock.advance(6.0)  # more than half of everybody's time is gone
    await asyncio.gather(*tasks)
    assert entered == [0, 3, 2, 1]


async def test_who_waited_in_vain_is_let_through_to_be_told() -> None:
    clock = ManualClock()
    turnstile = Turnstile(1, clock)
    entered: list[int] = []
    tasks = crowd(turnstile, entered, 3, give_up_s=10.0)
    late = asyncio.ensure_future(enter(turnstile, entered, 9, 100.0))
    await asyncio.sleep(0)
    clock.advance(11.0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert 1 in entered
    await asyncio.gather(*tasks, late)
    assert sorted(entered) == [0, 1, 2, 9]


async def test_a_caller_who_left_takes_nobody_s_place() -> None:
    entered: list[int] = []
    tasks = crowd(Turnstile(1, ManualClock()), entered, 4)
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == [0, 2, 3]


async def turns_of(turnstile: Turnstile, clock: ManualClock, entry_s: float) -> list[int]:
    """How many enter in each turn, when each takes so long."""
    entered: list[int] = []
    turns = [0]

    async def parse(number: int) -> None:
        await turnstile.enter(1e6)
        clock.advance(entry_s)
        entered.append(number)

    loop = asyncio.get_running_loop()

    def look() -> None:
        turns.append(len(entered))
        if len(entered) < 600:
            loop.call_soon(look)

    tasks = [asyncio.ensure_future(parse(number)) for number in range(600)]
    loop.call_soon(look)
    await asyncio.gather(*tasks)
    return [after - before for before, after in pairwise(turns)]


async def test_a_turn_lets_in_as_many_as_it_has_time_for() -> None:
    clock = ManualClock()
    turnstile = Turnstile(32, clock)
    assert max((await turns_of(turnstile, clock, TURN_S / 100))[:-1]) == 32
    slow = await turns_of(turnstile, clock, TURN_S / 8)
    assert slow[len(slow) // 2] == 8
    stuck = await turns_of(turnstile, clock, TURN_S)
    assert stuck[len(stuck) // 2] == LEAST
    quick = await turns_of(turnstile, clock, TURN_S / 100)
    assert max(quick) == 32


async def test_a_turn_that_was_not_full_says_nothing_of_an_entry() -> None:
    """Most of it may be a batch in the event loop: the next burst must not meet a narrow gate for that."""
    clock = ManualClock()
    turnstile = Turnstile(32, clock)

    async def parse(number: int) -> None:
        await turnstile.enter(1e6)
        if number == 32:  # alone in the second turn
            clock.advance(10 * TURN_S)

    for _ in range(20):
        await asyncio.gather(*(parse(number) for number in range(33)))
        for _ in range(3):
            await asyncio.sleep(0)
    first = next(filter(None, await turns_of(turnstile, clock, TURN_S / 100)))
    assert first == 32
