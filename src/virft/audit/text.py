"""The result of an audit as a table and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from virft.audit.audit import AuditedAnswer, AuditReport
from virft.audit.groups import GroupsReport
from virft.config.wording import counted
from virft.tasks.task import HALF_RIGHT

_SHOWN_PROBES = 8


def audit_text(report: AuditReport) -> str:
    """Return the oracle answers and the best probes, highest reward first, then the conclusion."""
    probes = [one for one in report.answers if not one.is_oracle]
    shown = [one for one in report.answers if one.is_oracle or one in probes[:_SHOWN_PROBES]]
    width = max(len(one.name) for one in shown) + 2
    step = {None: "", 0.0: ", rewards of the first step of a run", 1.0: ", rewards of the last step of a run"}
    head = f"{report.task}, {counted(report.num_samples, 'question')}{step[report.step_frac]}"
    columns = f"{'':10}{'':{width}}{'reward':>8}{'metric':>8}"
    lines = [head, columns, *(_row(one, width) for one in shown)]
    if len(probes) > _SHOWN_PROBES:
        lines.append(f"{'':10}and {len(probes) - _SHOWN_PROBES} probes with lower rewards")
    return "\n".join([*lines, _verdict(report), _correlation(report)])


def groups_text(found: GroupsReport) -> str:
    """Return one sentence about the rollout groups of the untrained model."""
    correlation = "undefined (constant)" if found.rank_correlation is None else f"{found.rank_correlation:.2f}"
    return (
        f"{counted(found.num_groups, 'group')} of {counted(found.group_size, 'completion')} of the model: "
        f"{found.equal_frac:.0%} with equal rewards (they teach nothing), mean reward {found.reward:.3f}, "
        f"mean metric {found.metric:.3f}, rank correlation of reward and metric within a group {correlation}"
    )


def _row(one: AuditedAnswer, width: int) -> str:
    parts = " ".join(f"{name} {value:.2f}" for name, value in one.parts.items())
    kind = "oracle" if one.is_oracle else "probe"
    return f"  {kind:8}{one.name:{width}}{one.reward:8.3f}{one.metric:8.3f}   {parts}"


def _verdict(report: AuditReport) -> str:
    probe = report.best_probe
    found = (
        f"best-rewarded probe: {probe.name}, {probe.reward:.3f}; an answer that is {HALF_RIGHT}: "
        f"{report.half_right.reward:.3f}; margin {report.margin:+.3f}"
    )
    if report.exploits:
        found += ": THIS REWARD CAN BE HACKED"
    if report.good_blind_answers:
        found += f"\n{_describe_data(report)}"
    return found


def _describe_data(report: AuditReport) -> str:
    best = report.good_blind_answers[0]
    return (
        f"{best.name} has a metric of {best.metric:.3f} without seeing an image ({HALF_RIGHT}: "
        f"{report.half_right.metric:.3f}): this data does not distinguish vision from a constant answer"
    )


def audit_faults(reports: Sequence[AuditReport]) -> list[str]:
    """Return what failed, with what to change: in the reward, in the data, or nothing."""
    faults = []
    hacked = [(one, one.exploits[0]) for one in reports if one.exploits]
    if hacked:
        exploits = "; ".join(
            f"{probe.name} ({one.task}, margin {one.half_right.reward - probe.reward:+.3f})" for one, probe in hacked
        )
        faults.append(f"reward hacking: {exploits}; change reward.preset or reward.weights")
    blind = [(one, one.good_blind_answers[0]) for one in reports if one.good_blind_answers]
    if blind:
        # the reports of the first and the last step of a run name the same answer
        named = dict.fromkeys(f"{probe.name} ({one.task}, metric {probe.metric:.3f})" for one, probe in blind)
        faults.append(
            f"this data does not distinguish vision from a constant answer: {'; '.join(named)}; the reward is not the "
            "cause: add questions about absent classes, add classes, or use a metric with a stricter IoU"
        )
    return faults


def _correlation(report: AuditReport) -> str:
    if report.rank_correlation is None:
        return "all ways to answer have the same reward"
    return f"rank correlation of reward and metric over all ways to answer: {report.rank_correlation:.2f}"
