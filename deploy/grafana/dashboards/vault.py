"""Recordings: from the nodes that seal them to the vault that keeps, opens and erases them."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboards.layout import dashboard as layout
from deploy.grafana.dashboards.layout import lines, number
from deploy.grafana.dashboards.queries import (
    DRIVER_NODE,
    JOB,
    increase,
    quantile,
    rate,
)

#: agents know nodes by their name alone, as drivers do
NODE = DRIVER_NODE


def vault(metric: str) -> str:
    """A gauge of a vault with keys, of which there is one; those that only take show 0."""
    return f"max by (job) ({metric}{{{JOB}}})"


def dashboard() -> Dashboard:
    return layout(
        "pbxctl-vault",
        "pbxctl · Vault",
        "Recordings: sealing, shipping, ingest, keys and retention.",
        (
            number(
                "Recorded now",
                "Recordings that have not ended.",
                f"sum(pbxctl_recordings_live{{{NODE}}})",
            ),
            number(
                "Nodes that cannot record",
                "The tmpfs is missing, or there is no key to seal to.",
                f"sum(pbxctl_recordings_unable{{{NODE}}})",
                red_from=1,
            ),
            number(
                "Vault",
                "1 while it answers every node.",
                f"min(pbxctl_recordings_vault_up{{{NODE}}})",
                red_below=1,
            ),
            number(
                "Spool",
                "Sealed audio on the nodes' disks, for a vault that is away.",
                f"sum(pbxctl_recordings_spool_bytes{{{NODE}}})",
                unit="bytes",
            ),
            number(
                "Lost",
                "Recordings whose body the last check did not find as it was stored.",
                f"max(pbxctl_vault_lost{{{JOB}}})",
                red_from=1,
            ),
            number(
                "Overdue",
                "Recordings whose time is over and that are not erased yet.",
                f"max(pbxctl_vault_overdue{{{JOB}}})",
                red_from=1,
            ),
            lines(
                "Calls to be recorded",
                "Per second, by what became of them. go_on: not recorded, the call goes on.",
                (rate("pbxctl_recordings_asked_total", "verdict", NODE), "{{verdict}}"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Recordings",
                "That have not ended, by node.",
                (f"sum by (node) (pbxctl_recordings_live{{{NODE}}})", "{{node}}"),
                stacked=True,
            ),
            lines(
                "Ended",
                "In the time shown. partial: something of them never came.",
                (increase("pbxctl_recordings_ended_total", "outcome", NODE), "{{outcome}}"),
            ),
            lines(
                "Sealed and shipped",
                "Bytes per second; shipped is what the vault has stored and read back.",
                (rate("pbxctl_recordings_sealed_bytes_total", "job", NODE), "sealed"),
                (rate("pbxctl_recordings_shipped_bytes_total", "job", NODE), "shipped"),
                unit="Bps",
            ),
            lines(
                "Shipped within",
                "From an agent's request to the vault's answer.",
                (quantile(0.5, "pbxctl_recordings_ship_seconds"), "half"),
                (quantile(0.99, "pbxctl_recordings_ship_seconds"), "99 %"),
                unit="s",
            ),
            lines(
                "On the nodes",
                "How full the tmpfs of open audio is; where the vault does not answer.",
                (
                    f"max by (node) (pbxctl_recordings_tmpfs_used_ratio{{{NODE}}})",
                    "{{node}} tmpfs",
                ),
                (f"1 - min by (node) (pbxctl_recordings_vault_up{{{NODE}}})", "{{node}} cut off"),
                unit="percentunit",
                most=1,
            ),
            lines(
                "Spool by node",
                "Sealed audio on disk, at most recordings.spool_max_mb.",
                (f"sum by (node) (pbxctl_recordings_spool_bytes{{{NODE}}})", "{{node}}"),
                unit="bytes",
                stacked=True,
            ),
            lines(
                "Ingest",
                "Bytes that the vault stored per second, and those that came a second time.",
                (rate("pbxctl_vault_taken_bytes_total", "job"), "stored"),
                (rate("pbxctl_vault_repeated_bytes_total", "job"), "repeated"),
                unit="Bps",
            ),
            lines(
                "Ingest takes",
                "From a request to its answer, with fsync and read-back.",
                (quantile(0.5, "pbxctl_vault_ingest_seconds"), "half"),
                (quantile(0.99, "pbxctl_vault_ingest_seconds"), "99 %"),
                unit="s",
            ),
            lines(
                "Refused and failed",
                "In the time shown. Refused is for good; what failed comes again.",
                (
                    f"{increase('pbxctl_vault_refused_total', 'reason')} or vector(0)",
                    "refused {{reason}}",
                ),
                (increase("pbxctl_vault_failed_total", "job"), "failed"),
                (
                    f"{increase('pbxctl_recordings_refused_total', 'node', NODE)} or vector(0)",
                    "refused to {{node}}",
                ),
            ),
            lines(
                "Lag",
                "How long the oldest envelope waits for the keeper of keys; silence of the "
                "recording that was heard of least.",
                (vault("pbxctl_vault_intake_seconds"), "oldest envelope"),
                (vault("pbxctl_vault_silent_seconds"), "most silent recording"),
                unit="s",
            ),
            lines(
                "Waiting",
                "Envelopes that no keeper has taken, recordings without an end, envelopes that "
                "no key opens.",
                (vault("pbxctl_vault_intake_waiting"), "envelopes"),
                (vault("pbxctl_vault_growing"), "growing"),
                (vault("pbxctl_vault_bad_envelopes"), "bad envelopes"),
            ),
            lines(
                "Kept",
                "Recordings in the index, by state.",
                (f"max by (state) (pbxctl_vault_recordings{{{JOB}}})", "{{state}}"),
                stacked=True,
            ),
            lines(
                "Retention",
                "On hold, overdue; erased in the time shown, by reason.",
                (vault("pbxctl_vault_held"), "on hold"),
                (vault("pbxctl_vault_overdue"), "overdue"),
                (f"{increase('pbxctl_vault_erased_total', 'why')} or vector(0)", "erased {{why}}"),
            ),
            lines(
                "Keys",
                "Data keys in their slots, keys over them, and pairs that agents seal to.",
                (f"max by (kind) (pbxctl_vault_keys{{{JOB}}})", "{{kind}}"),
            ),
            lines(
                "Reads",
                "Of recordings and the index, in the time shown: the log of reads names who.",
                (
                    f"{increase('pbxctl_vault_reads_total', 'action, outcome')} or vector(0)",
                    "{{action}} {{outcome}}",
                ),
            ),
        ),
    )
