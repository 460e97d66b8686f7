"""The explorer's state, its background thread, and the code that it writes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from explorer_fixtures import capture_of
from preloaded import PYTHON

from spectral_toolkit._explorer.code import as_code
from spectral_toolkit._explorer.session import Session, questions
from spectral_toolkit._explorer.state import State, checked
from spectral_toolkit._explorer.views import VIEWS
from spectral_toolkit._explorer.worker import CancelledError, Worker
from spectral_toolkit.errors import SpectralToolkitError


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(capture_of(), "cpu")


def test_a_state_survives_json(session: Session) -> None:
    state = checked(State(affinity="vv", weights={"block.1": 0.5}, patch=(2, 3), n_segments=4), session.facts)
    assert State.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_a_state_survives_a_link(session: Session) -> None:
    state = checked(State(affinity="vv", weights={"block.1": 0.5}, patch=(2, 3), n_segments=4), session.facts)
    assert State.from_link(state.to_link(session.facts.layers)) == state
    first = checked(State(), session.facts)
    assert first.to_link(session.facts.layers) == "{}", "what is as at first takes no room"
    assert checked(State.from_link("{}"), session.facts) == first
    many = tuple((0, y, x) for y in range(15) for x in range(15))
    assert "selection" not in replace(state, selection=many).to_link()
    assert State.from_link(replace(state, selection=many[:9]).to_link()).selection == many[:9]


@pytest.mark.parametrize("link", ["", '{"affinity":"v', "[1]", "null", "3"])
def test_a_link_that_was_cut_off_is_refused(link: str) -> None:
    with pytest.raises(SpectralToolkitError, match=r"cannot be read: copy it once more"):
        State.from_link(link)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(SpectralToolkitError, match="The state has no 'colour': its fields are image, scope, affinity"):
        State.from_dict({"colour": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": 3}, "image=3 is out of range: expected a whole number from 0 to 2"),
        ({"affinity": "qv"}, "affinity='qv' is not offered"),
        ({"affinity": "vv", "kernel": "softmax"}, "kernel='softmax' works on qk only"),
        ({"other_affinity": None}, "other_affinity=None is not offered"),
        ({"other_layers": "none"}, "other_layers='none' is not offered"),
        ({"weights": {"block.9": 1}}, "weights name 'block.9', which is not a layer"),
        ({"weights": {"block.1": -1}}, "The weight of 'block.1' is -1: expected a number from 0 to 2"),
        ({"weights": {"block.1": float("nan")}}, "is nan: expected a number"),
        ({"weights": {"block.1": 0}}, "No layer has a weight above 0"),
        ({"weights": {}}, "No layer has a weight above 0"),
        ({"n_eigenvectors": 0}, "n_eigenvectors=0 is out of range"),
        ({"n_eigenvectors": 25}, "n_eigenvectors=25 is out of range"),
        ({"component": 11}, "component=11 is out of range: expected a whole number from 1 to 10"),
        ({"component": True}, "component=True is out of range"),
        ({"three": (1, 2)}, "three=\\(1, 2\\) is not understood"),
        ({"n_segments": 1}, "n_segments=1 is out of range"),
        ({"opacity": 1.5}, "opacity=1.5 is out of range"),
        ({"opacity": "much"}, "opacity='much' is out of range"),
        ({"view": "film"}, "view='film' is not offered"),
        ({"compare": 1}, "compare=1 is neither True nor False"),
        ({"patch": (6, 0)}, "patch row=6 is out of range"),
        ({"patch": (0, 8)}, "patch column=8 is out of range"),
        ({"patch": (1,)}, "patch=\\(1,\\) is not understood"),
    ],
)
def test_what_is_out_of_range_is_refused(session: Session, changes: dict, message: str) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        checked(replace(State(), **changes), session.facts)


def test_presets_are_thirds_of_the_layers(session: Session) -> None:
    facts = session.facts
    every = list(facts.layers)
    assert list(facts.preset("all", {})) == every
    assert list(facts.preset("early", {})) == every[:2]
    assert list(facts.preset("middle", {})) == every[1:3]
    assert list(facts.preset("late", {})) == every[2:]
    assert list(facts.preset("invert", {every[0]: 1.0})) == every[1:]
    assert list(facts.preset("invert", dict.fromkeys(every, 1.0))) == every


def test_the_newest_request_wins_and_the_older_is_cancelled() -> None:
    events: list[str] = []
    started = threading.Event()

    def compute(request: str, check) -> str:
        if request == "slow":
            started.set()
            try:
                while True:
                    check()
            except CancelledError:
                events.append("slow was cancelled")
                raise
        return request.upper()

    async def play() -> None:
        delivered = asyncio.Event()

        def deliver(request, answer, error) -> None:
            events.append(f"{request} {answer} {error} {threading.current_thread() is threading.main_thread()}")
            delivered.set()

        worker = Worker(compute, deliver)
        worker.ask("slow")
        assert await asyncio.to_thread(started.wait, 10)
        worker.ask("quick")
        await asyncio.wait_for(delivered.wait(), 10)
        worker.close()

    asyncio.run(play())
    assert events == ["slow was cancelled", "quick QUICK None True"]
    assert "spectral_toolkit explorer" not in [thread.name for thread in threading.enumerate()]


def test_an_answer_that_comes_after_a_newer_request_is_not_delivered() -> None:
    delivered: list[str] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        worker: Worker[str, str] = Worker(lambda request, check: request, lambda *outcome: delivered.append(outcome[0]))
        worker.ask("first")
        # The answer waits for the loop, which is kept from running until there is a newer request.
        for _ in range(200):
            if worker._waiting is None:
                break
            threading.Event().wait(0.01)
        threading.Event().wait(0.05)
        worker.ask("second")
        await asyncio.sleep(0.2)
        worker.cancel()
        worker.close()
        assert loop.is_running()

    asyncio.run(play())
    assert delivered == ["second"]


def test_an_answer_within_the_patience_is_delivered_before_asking_returns_and_only_once() -> None:
    delivered: list[str] = []

    async def play() -> None:
        worker: Worker[str, str] = Worker(lambda request, check: request, lambda *outcome: delivered.append(outcome[0]))
        for number in range(5):  # as a slider that is dragged
            worker.ask(str(number), patience=10)
            assert delivered[-1] == str(number)
        await asyncio.sleep(0.05)
        worker.close()

    asyncio.run(play())
    assert delivered == ["0", "1", "2", "3", "4"]


def test_what_takes_longer_than_the_patience_is_delivered_later_and_reports_how_far_it_is() -> None:
    delivered: list[str] = []
    reported: list[float] = []
    go = threading.Event()

    def compute(request: str, check) -> str:
        while not go.wait(0.005):
            check(0.25)
        return request

    async def play() -> None:
        worker: Worker[str, str] = Worker(
            compute, lambda *outcome: delivered.append(outcome[0]), report=reported.append
        )
        worker.ask("slow", patience=0.01)
        assert delivered == []
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if reported:
                go.set()
            if delivered:
                break
        worker.close()

    asyncio.run(play())
    assert delivered == ["slow"]
    assert set(reported) == {0.25}


def test_errors_are_delivered_and_not_lost() -> None:
    outcomes = []

    def fail(request, check):
        raise ValueError(request)

    worker = Worker(fail, lambda *outcome: outcomes.append(outcome), synchronous=True)
    worker.ask("bad")
    ((request, answer, error),) = outcomes
    assert (request, answer, str(error)) == ("bad", None, "bad")


def test_only_what_changed_is_computed_again(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_toolkit._explorer import session as module

    solved: list[str] = []
    real = module.solve
    monkeypatch.setattr(
        module, "solve", lambda graph, *rest, **more: solved.append(graph.recipe.kind) or real(graph, *rest, **more)
    )
    fresh = Session(session.activations, "cpu")
    state = checked(State(compare=False), fresh.facts)
    fresh.answer(state, _nothing)
    assert fresh.kept(checked(replace(state, opacity=0.1, component=3, view="grid"), fresh.facts)) is not None
    compared = checked(replace(state, compare=True), fresh.facts)
    assert fresh.kept(compared) is None
    fresh.answer(compared, _nothing)
    assert solved == ["qk", "vv"]
    graph = fresh.graph(questions(state, fresh.facts)[0])
    operators = set(map(id, graph._cache.values()))
    fresh.answer(checked(replace(state, weights={"block.0": 0.5, "block.1": 1.0}), fresh.facts), _nothing)
    again = fresh.graph(questions(state, fresh.facts)[0])
    assert set(map(id, again._cache.values())) == operators


def test_a_cancelled_solve_leaves_nothing_behind(session: Session) -> None:
    fresh = Session(session.activations, "cpu")
    state = checked(State(), fresh.facts)

    def stop(*_: object) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        fresh.answer(state, stop)
    assert fresh.kept(state) is None
    assert fresh.answer(state, _nothing).sides[0].eig.sizes["component"] == 10


def random_state(seed: int, session: Session) -> State:
    random = np.random.default_rng(seed)
    kinds = session.facts.kinds
    layers = [name for name in session.facts.layers[1:] if random.random() < 0.7]
    chosen = {name: round(float(random.uniform(0.1, 2)), 2) for name in ["block.0", *layers]}
    other = {"cosine", "rbf", "shifted_cosine"}
    n = int(random.integers(2, 9))
    return checked(
        State(
            image=int(random.integers(3)),
            affinity=str(random.choice(kinds)),
            kernel=None if random.random() < 0.5 else str(random.choice(sorted(other))),
            weights=chosen,
            n_eigenvectors=n,
            component=int(random.integers(1, n + 1)),
            view=str(
                random.choice([view for view in VIEWS if view not in ("segments", "instances", "exchange", "labels")])
            ),
            compare=bool(random.random() < 0.5),
            other_affinity=str(random.choice(kinds)),
            other_layers=str(random.choice(["same", "early", "late"])),
            patch=(int(random.integers(6)), int(random.integers(8))) if random.random() < 0.7 else None,
            mask_outliers=bool(random.random() < 0.3),
            smooth=bool(random.random() < 0.3),
        ),
        session.facts,
    )


RUNNER = """
import json, sys
import numpy as np
for place, code in enumerate(json.load(open("programs.json"))):
    names = {}
    exec(code, names)
    found = {}
    for suffix in ("", "_other"):
        if "eig" + suffix in names:
            eig = names["eig" + suffix]
            found["eigenvector" + suffix] = eig.eigenvector.values
            found["eigenvalue" + suffix] = eig.eigenvalue.values
        if "joint" + suffix in names:
            found["joint" + suffix] = names["joint" + suffix].values
    assert type(names["view"]).__module__.startswith("holoviews")
    np.savez(f"found-{place}.npz", **found)
"""


def test_copied_code_gives_the_same_numbers_in_a_fresh_kernel(session: Session, tmp_path: Path) -> None:
    """Ten random states, one process that knows nothing of the explorer."""
    states = [random_state(seed, session) for seed in range(10)]
    programs = [as_code(state, session.facts, {}, None) for state in states]
    session.activations.to_zarr(tmp_path / "activations.zarr", consolidated=False)
    (tmp_path / "programs.json").write_text(json.dumps(programs))
    done = subprocess.run([*PYTHON, "-c", RUNNER], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for place, state in enumerate(states):
        found = np.load(tmp_path / f"found-{place}.npz")
        sides = session.answer(state, _nothing).sides
        assert len(sides) == (2 if state.compare else 1)
        for side, suffix in zip(sides, ("", "_other"), strict=False):
            np.testing.assert_allclose(found["eigenvalue" + suffix], side.eig.eigenvalue.values, atol=1e-9)
            np.testing.assert_allclose(found["eigenvector" + suffix], side.eig.eigenvector.values, atol=1e-6)
            if state.patch is not None:
                assert side.joint_row is not None
                np.testing.assert_allclose(found["joint" + suffix], side.joint_row, atol=1e-9)
    assert len({json.dumps(state.to_dict()) for state in states}) == 10


def test_code_names_the_model_and_the_pictures_where_they_are_known(session: Session) -> None:
    state = checked(State(mask_outliers=True, weights={"block.1": 0.5}), session.facts)
    attrs = {"model": "scenes", "weights_sha256": "0" * 64, "quantities": json.dumps(["query"])}
    code = as_code(state, session.facts, attrs, "'photos/*.jpg'")
    compile(code, "copied", "exec")
    assert "model = st.load_model('scenes')" in code
    assert "images = st.load_images('photos/*.jpg')" in code
    assert "mask=mask" in code
    assert ".reweight({'block.1': 0.5})" in code


def test_names_cannot_leave_the_comment_they_stand_in(session: Session) -> None:
    hostile = "x\nraise SystemExit  # "
    facts = replace(session.facts, images=(hostile, "b", "c"))
    code = as_code(checked(State(), facts), facts, {}, None)
    compile(code, "copied", "exec")
    assert "\nraise SystemExit" not in code


def test_every_field_is_documented() -> None:
    text = State.__doc__ or ""
    assert [field.name for field in fields(State) if field.name not in text] == []


def test_activations_without_pictures_or_quantities_are_refused() -> None:
    tree = capture_of()
    with pytest.raises(SpectralToolkitError, match="The activations hold no images"):
        Session(xr.DataTree(children=dict(tree.children)), "cpu")


def _nothing(*_: object) -> None:
    return None
