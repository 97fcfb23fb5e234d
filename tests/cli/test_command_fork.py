"""`loomc fork`: a new run from an old step."""

from __future__ import annotations

import json

import pytest


def new_run(outcome) -> str:
    """The id that `fork --json` gave."""
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)["run_id"]


def exported(here, folder, run):
    """A whole run as JSON."""
    return json.loads(here(folder, "export", run).out)


def test_a_fork_begins_with_the_state_of_the_step_and_leaves_the_old_run_alone(here, workshop):
    """The new run is paused at its beginning, names its origin, and has spent nothing."""
    before = exported(here, workshop, "climb")
    new = exported(here, workshop, new_run(here(workshop, "fork", "climb", "--step", "2", "--json")))
    assert new["initial_state"] == before["steps"][2]["state"] == {"n": 3, "text": "x"}
    assert (new["run"]["status"], new["run"]["forked_from"], new["run"]["cost_usd"]) == ("paused", "climb:2", 0.0)
    assert exported(here, workshop, "climb") == before


def test_fork_tells_how_to_go_on(here, workshop):
    """In words it is one line that ends with the next command, and that command works."""
    text = here(workshop, "fork", "climb", "--step", "3").out
    new = text.split()[1]
    assert text == f"run {new} begins at step 3 of climb: loomc resume {new}\n"
    assert here(workshop, "resume", new).out.startswith(f"run {new} completed after ")


def test_step_minus_one_is_the_initial_state(here, workshop):
    """A run can be begun again from where it began."""
    text = here(workshop, "fork", "climb", "--step", "-1").out
    assert "begins with the initial state of climb" in text
    assert exported(here, workshop, text.split()[1])["initial_state"] == {"n": 0, "text": "x"}


def test_fields_of_the_state_can_be_changed(here, workshop):
    """`--update` takes them as JSON, control characters and all."""
    outcome = here(workshop, "fork", "climb", "--step", "0", "--update", '{"text": "y\\u001b"}', "--json")
    assert exported(here, workshop, new_run(outcome))["initial_state"] == {"n": 1, "text": "y\x1b"}


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "Missing option '--step'."),
        (["--step", "x"], 2, "Invalid value for '--step': "),
        (["--step", "99"], 1, "run climb has no step 99; loomc show climb lists them (-1: initial state)"),
        (["--step", "-2"], 1, "run climb has no step -2; "),
        (["--step", "0", "--update", "{x"], 1, "--update '{x' is not JSON: "),
        (["--step", "0", "--update", "[1]"], 1, "--update '[1]': give an object such as '{\"text\": \"...\"}'"),
        (["--step", "0", "--update", '{"colour": 1}'], 1, "update names colour, but the state has n, text"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(here, workshop, options, status, message):
    """The message names the value, and no run is made."""
    outcome = here(workshop, "fork", "climb", *options)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith(f"loomc: {message}")
    assert len(outcome.err.splitlines()) == 1
    assert len(json.loads(here(workshop, "runs", "--json").out)) == 16


def test_a_changed_state_that_does_not_fit_is_refused_on_resume(here, workshop):
    """The terminal does not know the type; the loop does, and says which field."""
    new = new_run(here(workshop, "fork", "climb", "--step", "0", "--update", '{"n": "many"}', "--json"))
    outcome = here(workshop, "resume", new)
    assert outcome.status == 1
    assert "the stored state does not fit Draft: state.n" in outcome.err
    assert len(outcome.err.splitlines()) == 1
