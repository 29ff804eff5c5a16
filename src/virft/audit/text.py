"""What an audit found, as a table and in sentences."""

from __future__ import annotations

from virft.audit.audit import AuditReport, PaidAnswer
from virft.audit.groups import GroupsReport
from virft.audit.oracle import HALF_RIGHT

_SHOWN_CHEATS = 8


def audit_text(report: AuditReport) -> str:
    """The honest answers and the best-paid cheats, best paid first, then what they say."""
    cheats = [one for one in report.paid if not one.is_honest]
    shown = [one for one in report.paid if one.is_honest or one in cheats[:_SHOWN_CHEATS]]
    width = max(len(one.name) for one in shown) + 2
    moment = "" if report.step_frac == 1.0 else ", as the first step of a run pays"
    head = f"{report.task}, {report.num_samples} questions{moment}"
    columns = f"{'':10}{'':{width}}{'reward':>8}{'metric':>8}"
    lines = [head, columns, *(_row(one, width) for one in shown)]
    if len(cheats) > _SHOWN_CHEATS:
        lines.append(f"{'':10}and {len(cheats) - _SHOWN_CHEATS} cheats that are paid less")
    return "\n".join([*lines, _verdict(report), _correlation(report)])


def groups_text(found: GroupsReport) -> str:
    """What the model's own groups say."""
    told = "do not vary together" if found.rank_correlation is None else f"{found.rank_correlation:.2f}"
    return (
        f"{found.num_groups} groups of {found.group_size} answers of the model: {found.equal_frac:.0%} without spread "
        f"(nothing is learnt from them), mean reward {found.reward:.3f}, mean metric {found.metric:.3f}, rank "
        f"correlation of reward and metric inside a group {told}"
    )


def _row(one: PaidAnswer, width: int) -> str:
    parts = " ".join(f"{name} {value:.2f}" for name, value in one.parts.items())
    kind = "honest" if one.is_honest else "cheat"
    return f"  {kind:8}{one.name:{width}}{one.reward:8.3f}{one.metric:8.3f}   {parts}"


def _verdict(report: AuditReport) -> str:
    cheat = report.best_cheat
    paid = (
        f"best-paid cheat: {cheat.name}, {cheat.reward:.3f}; an answer that is {HALF_RIGHT}: "
        f"{report.half_right.reward:.3f}; margin {report.margin:+.3f}"
    )
    return paid if report.margin > 0 else f"{paid}: CHEATING PAYS"


def _correlation(report: AuditReport) -> str:
    if report.rank_correlation is None:
        return "every way to answer is paid the same"
    return f"rank correlation of reward and metric over all ways to answer: {report.rank_correlation:.2f}"
