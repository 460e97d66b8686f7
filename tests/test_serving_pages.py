"""When the kernel of a page ends, and how many pages may be open, on a clock that is turned by hand."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spectral_toolkit.cli.app import pages as module
from spectral_toolkit.cli.app.pages import Pages, is_own_origin


class Kernels:
    """Jupyter's manager of kernels, as far as it is asked."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}

    def start(self, name: str) -> str:
        self.models[name] = {"connections": 0, "execution_state": "idle", "last_activity": stamp(0)}
        return name

    def list_kernel_ids(self) -> list[str]:
        return list(self.models)

    def kernel_model(self, name: str) -> dict[str, Any]:
        return self.models[name]

    async def shutdown_kernel(self, name: str, now: bool) -> None:
        del self.models[name]


def stamp(minutes_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat().replace("+00:00", "Z")


class Room:
    """Pages on a clock turned by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        monkeypatch.setattr(module, "_ROOM_SECONDS", 0.0)
        self.time = 0.0
        self.kernels = Kernels()
        self.pages = Pages(self.kernels, clock=lambda: self.time, **settings)

    def open(self, name: str, *, connected: bool = True) -> None:
        assert asyncio.run(self.pages.admit(name))
        self.pages.started(name, self.kernels.start(name))
        self.pages.sent(name)
        self.kernels.models[name]["connections"] = int(connected)
        self.tidy()

    def tidy(self, after: float = 0.0) -> list[str]:
        """The kernels that are left."""
        self.time += after
        asyncio.run(self.pages.tidy())
        return self.kernels.list_kernel_ids()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(monkeypatch, most=2, idle_minutes=30)


def test_a_page_that_is_open_keeps_its_kernel(room: Room) -> None:
    room.open("a")
    assert room.tidy(after=10_000) == ["a"]
    assert room.pages.why_ended("a") is None


def test_a_closed_page_loses_its_kernel_within_a_minute(room: Room) -> None:
    room.open("a")
    room.kernels.models["a"]["connections"] = 0
    assert room.tidy(after=5) == ["a"], "it may only have been cut off"
    room.kernels.models["a"]["connections"] = 1
    assert room.tidy(after=5) == ["a"]
    room.kernels.models["a"]["connections"] = 0
    assert room.tidy(after=15) == ["a"]
    assert room.tidy(after=10) == []
    assert "was closed" in str(room.pages.why_ended("a"))


def test_a_page_that_says_goodbye_loses_it_at_once_unless_it_stays(room: Room) -> None:
    room.open("a")
    room.open("b")
    room.pages.leaving("a")
    assert room.pages.n_open() == 1, "there is room for the page that a reload asks for"
    assert room.tidy() == ["a", "b"]
    assert room.tidy(after=11) == ["a", "b"], "it is still there: the user stayed"
    assert room.pages.n_open() == 2
    room.pages.leaving("a")
    room.kernels.models["a"]["connections"] = 0
    assert room.tidy() == ["b"]
    room.pages.leaving("nobody's")


def test_a_page_that_never_came_loses_it_too(room: Room) -> None:
    room.open("a", connected=False)
    assert room.tidy(after=35) == ["a"]
    assert room.tidy(after=10) == []
    # Closed while it was sent, with a kernel or before there was one.
    for early in (False, True):
        assert asyncio.run(room.pages.admit("b"))
        if early:
            room.pages.abandoned("b")
        room.pages.started("b", room.kernels.start("b"))
        room.pages.abandoned("b")
        assert room.pages.n_open() == 0
        assert room.tidy() == []


def test_an_unused_page_loses_it_after_the_time_that_is_told(room: Room) -> None:
    room.open("a")
    room.kernels.models["a"]["last_activity"] = stamp(29)
    assert room.tidy() == ["a"]
    room.kernels.models["a"].update(last_activity=stamp(31), execution_state="busy")
    assert room.tidy() == ["a"], "long work is no idleness"
    room.kernels.models["a"]["execution_state"] = "idle"
    assert room.tidy() == []
    assert "not used for 30 minutes" in str(room.pages.why_ended("a"))
    assert "reload" in str(room.pages.why_ended("unheard of"))


def test_the_number_of_pages_is_bounded(room: Room) -> None:
    room.open("a")
    assert asyncio.run(room.pages.admit("b"))
    assert not asyncio.run(room.pages.admit("c")), "one that is only being made counts"
    room.pages.sent("b")  # it failed, without a kernel
    room.open("c")
    assert not asyncio.run(room.pages.admit("d"))
    assert room.pages.full.startswith("2 pages of the explorer are open already")


def test_a_new_page_waits_for_one_that_goes(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROOM_SECONDS", 3.0)
    room.open("a")
    room.open("b")

    async def reload() -> bool:
        asked = asyncio.ensure_future(room.pages.admit("a again"))
        await asyncio.sleep(0)
        room.pages.leaving("a")
        return await asked

    assert asyncio.run(reload())


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        (None, True),
        ("http://127.0.0.1:8866", True),
        ("HTTP://LOCALHOST:8866", False),
        ("http://127.0.0.1", False),
        ("http://127.0.0.1:8867", False),
        ("http://127.0.0.1:8866.evil.example", False),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_only_this_servers_own_pages_are_its_own(origin: str | None, own: bool) -> None:
    assert is_own_origin(origin, "127.0.0.1:8866") is own
