"""Rollback candidates after any history: changes that succeeded, failed, were reverted, or were never recorded."""

from __future__ import annotations

import dataclasses
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.change import history
from hypothesis import given, settings
from hypothesis import strategies as st

RELEASES = [f"{letter}{letter}" for letter in "abcdef"]
ENDS = ("well", "failed", "reverted", "killed")


@dataclasses.dataclass
class Host:
    """A model of a host that does what the playbooks do, and knows more than they may know."""

    entries: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    served_here: list[str] = dataclasses.field(default_factory=list)
    served_well: set[str] = dataclasses.field(default_factory=set)
    current: str | None = None

    def ranked(self, entries: list[dict[str, Any]] | None = None) -> dict[str, str]:
        lines = self.entries if entries is None else entries
        found: dict[str, str] = history.rank_releases(lines, self.served_here, RELEASES, self.current)
        return found

    def choice(self) -> list[str]:
        """The releases that a rollback may choose, the best first."""
        return [release for release, why_not in self.ranked().items() if not why_not]

    def bring(self, kind: str, release: str, end: str) -> None:
        """A deploy or rollback. If its controller is killed, the release is activated but not recorded."""
        result = {"well": "deployed" if kind == "deploy" else "rolled back"}.get(end, end)
        previous, serves = self.current, release if end in ("well", "killed", "stuck") else self.current
        if end == "stuck":  # the revert failed
            result = "failed"
        if end != "killed":
            line = {"kind": kind, "release": release, "previous": previous, "serves": serves, "result": result}
            self.entries.append(line)
        if end in ("well", "killed"):
            self.served_well.add(release)
        if serves == release:
            self.current = release
            self.served_here = [release, *(one for one in self.served_here if one != release)]

    def renew(self, kind: str, end: str) -> None:
        """A restart or a change of settings."""
        self.entries.append({"kind": kind, "release": self.current, "result": {"well": f"{kind}ed"}.get(end, end)})


more_examples = settings(max_examples=3 * settings().max_examples)
Step = tuple[str, str, str]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["deploy", "deploy", "rollback", "named rollback", "restart", "configure"]),
        st.sampled_from(RELEASES),
        st.sampled_from(ENDS),
    ),
    max_size=25,
)


def replay(steps: list[Step], ends: tuple[str, ...] = ENDS) -> Host:
    """A host after these changes; those with another end are skipped."""
    host = Host()
    for kind, release, end in steps:
        if end not in ends:
            continue
        if kind == "deploy":
            host.bring("deploy", release, end)
        elif kind == "rollback" and (choice := host.choice()):
            host.bring("rollback", choice[0], end)
        elif kind == "named rollback" and release in host.served_well - {host.current}:
            host.bring("rollback", release, end)
        elif kind in ("restart", "configure") and host.current:
            host.renew(kind, end)
    return host


@more_examples
@given(STEPS)
def test_candidates_have_served_well_and_are_not_current(steps: list[Step]) -> None:
    host = replay(steps)
    assert set(host.choice()) <= host.served_well - {host.current}


@more_examples
@given(
    STEPS, st.sampled_from(["deploy", "rollback"]), st.sampled_from(RELEASES), st.sampled_from(["failed", "reverted"])
)
def test_failed_change_leaves_the_candidates_unchanged(steps: list[Step], kind: str, release: str, end: str) -> None:
    recorded = ("well", "failed", "reverted")
    host = replay(steps, recorded)
    before = host.ranked()
    host.bring(kind, release, end)
    after = host.ranked()
    assert host.choice() == [one for one, why_not in before.items() if not why_not]
    # only the reason of its own release may change
    assert {one: why for one, why in after.items() if one != release} == {
        one: why for one, why in before.items() if one != release
    }


@more_examples
@given(STEPS)
def test_only_successful_changes_determine_the_candidates(steps: list[Step]) -> None:
    host = replay(steps, ("well", "failed", "reverted"))
    good = [entry for entry in host.entries if entry["result"] not in ("failed", "reverted")]
    assert host.choice() == [one for one, why_not in host.ranked(good).items() if not why_not]


@more_examples
@given(STEPS, st.lists(st.sampled_from(["well", "failed"]), max_size=12))
def test_repeated_rollbacks_go_back_and_never_return(steps: list[Step], ends: list[str]) -> None:
    host = replay(steps, ("well", "failed", "reverted"))
    seen = {host.current}
    for end in ends:
        if not (choice := host.choice()):
            break
        assert not seen & set(choice)
        host.bring("rollback", choice[0], end)
        if end == "failed":
            assert host.choice()[0] == choice[0]  # a repeated rollback has the same target
        else:
            seen.add(choice[0])
            assert host.choice() == choice[1:]


@more_examples
@given(st.permutations(RELEASES), st.integers(1, 5), st.integers(0, 3))
def test_n_rollbacks_undo_n_deploys(order: list[str], back: int, failing: int) -> None:
    host = Host()
    for release in order:
        for _ in range(failing):
            host.bring("deploy", release, "failed")
        host.bring("deploy", release, "well")
    for _ in range(back):
        target = host.choice()[0]
        for _ in range(failing):
            host.bring("rollback", target, "reverted")
        host.bring("rollback", host.choice()[0], "well")
    assert host.current == order[-1 - back]


@more_examples
@given(STEPS, st.permutations(RELEASES), st.sampled_from(["well", "killed"]))
def test_rollback_targets_the_release_that_the_current_one_replaced(
    steps: list[Step], releases: list[str], end: str
) -> None:
    host = replay([("deploy", "ff", "well"), *steps])
    old, new = [one for one in releases if one != host.current][:2]
    host.bring("deploy", old, end)
    host.bring("deploy", new, "well")
    assert host.choice()[0] == old


@more_examples
@given(STEPS)
def test_release_left_by_a_failed_revert_is_no_candidate(steps: list[Step]) -> None:
    host = replay(steps, ("well", "failed", "reverted"))
    fresh = [one for one in RELEASES if one not in host.served_well]
    if len(fresh) < 2:
        return
    host.bring("deploy", fresh[0], "stuck")
    host.bring("deploy", fresh[1], "well")
    assert fresh[0] not in host.choice()
    assert host.ranked()[fresh[0]] == "its last deploy failed"
