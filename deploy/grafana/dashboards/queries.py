"""PromQL that the dashboards share, with their variables in it.

gate      every gate shows the whole fleet, the same one: the highest of them, never their sum
others    drivers, stewards and agents each count their own part: the sum
"""

from __future__ import annotations

JOB = 'job=~"$job"'
REGION = f'{JOB},region=~"$region"'
NODE = f'{REGION},node=~"$node"'
#: of a driver, which knows nodes by their name alone
DRIVER_NODE = f'{JOB},node=~"$node"'
RATE = "$__rate_interval"
RANGE = "$__range"


def node(metric: str, more: str = "") -> str:
    """A gauge of each node, as the gates show it."""
    return f"max without (instance) ({metric}{{{NODE}{more}}})"


def fleet(metric: str) -> str:
    """A gauge of the fleet, as the gates show it."""
    return f"max without (instance) ({metric}{{{JOB}}})"


def fleet_rate(metric: str, by: str, labels: str = REGION, window: str = RATE) -> str:
    """A counter of the fleet, as the gates show it, per second."""
    return f"sum by ({by}) (max without (instance) (rate({metric}{{{labels}}}[{window}])))"


def rate(metric: str, by: str, labels: str = JOB, window: str = RATE) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[{window}]))"


def increase(metric: str, by: str, labels: str = JOB, window: str = RANGE) -> str:
    return f"sum by ({by}) (increase({metric}{{{labels}}}[{window}]))"


def quantile(share: float, histogram: str, by: str = "", window: str = RATE) -> str:
    """The time that `share` of what was measured kept; by: a label besides the bucket."""
    labels = f"le, {by}" if by else "le"
    buckets = f"rate({histogram}_bucket{{{JOB}}}[{window}])"
    return f"histogram_quantile({share}, sum by ({labels}) ({buckets}))"


def with_role(expr: str) -> str:
    """Adds the label `role` to what every process shows of itself."""
    return f"({expr}) * on (job, instance) group_left (role) pbxctl_build_info{{{JOB}}}"
