"""An audit that fails names its cause: the reward, or the data."""

from __future__ import annotations

from virft.audit.audit import AuditedAnswer, AuditReport
from virft.audit.text import audit_faults, audit_text
from virft.tasks.task import HALF_RIGHT


def report(**probes: tuple[float, float]) -> AuditReport:
    """Half right has reward 1.5 and metric 0.6; ``probes``: name -> (reward, metric)."""
    rows = {HALF_RIGHT: (1.5, 0.6)} | probes
    answers = [
        AuditedAnswer(name=name, is_oracle=name == HALF_RIGHT, reward=reward, parts={}, metric=metric)
        for name, (reward, metric) in rows.items()
    ]
    answers.sort(key=lambda one: -one.reward)
    return AuditReport(task="detection", step_frac=None, num_samples=9, answers=tuple(answers), rank_correlation=None)


def test_a_probe_with_a_lower_metric_is_a_fault_of_the_reward() -> None:
    found = report(junk=(1.75, 0.1))
    assert audit_faults([found]) == [
        "reward hacking: junk (detection, margin -0.250); change reward.preset or reward.weights"
    ]
    assert "THIS REWARD CAN BE HACKED" in audit_text(found)


def test_a_probe_with_as_good_a_metric_is_a_fault_of_the_data() -> None:
    found = report(mean=(1.75, 0.8))
    (fault,) = audit_faults([found])
    assert fault.startswith(
        "this data does not distinguish vision from a constant answer: mean (detection, metric 0.800); the reward is "
        "not the cause: add questions about absent classes"
    )
    text = audit_text(found)
    assert "HACKED" not in text
    assert "mean has a metric of 0.800 without seeing an image (half right: 0.600)" in text


def test_an_answer_that_is_good_at_both_moments_of_a_run_is_named_once() -> None:
    (fault,) = audit_faults([report(mean=(1.75, 0.8))] * 2)
    assert fault.count("mean (detection, metric 0.800)") == 1


def test_both_faults_are_named() -> None:
    faults = audit_faults([report(junk=(1.5, 0.1), mean=(1.75, 0.6))])
    assert [one.partition(":")[0] for one in faults] == [
        "reward hacking",
        "this data does not distinguish vision from a constant answer",
    ]


def test_probes_below_half_right_are_no_fault() -> None:
    found = report(mean=(1.25, 0.9))
    assert audit_faults([found]) == []
    assert "HACKED" not in audit_text(found)
