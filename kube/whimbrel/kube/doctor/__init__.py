"""What a cluster has and what it lacks: fetched with GET alone, judged without I/O, each with the remedy."""

from whimbrel.kube.doctor.finding import Finding, State
from whimbrel.kube.doctor.judging import judge
from whimbrel.kube.doctor.looking import look

__all__ = ["Finding", "State", "judge", "look"]
