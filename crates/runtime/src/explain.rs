// SPDX-License-Identifier: GPL-3.0-or-later
//! Why a node is as it is, in sentences.

use ec2fleet_core::report::{EventReport, NodeReport, Severity};

/// The present state with its cause, and what follows.
#[must_use]
pub fn of(node: &NodeReport, events: &[EventReport]) -> (String, Vec<String>) {
    let instance = node.instance_id.as_deref().unwrap_or("no instance");
    let kind = node.instance_type.as_deref().unwrap_or("unknown type");
    let zone = node.zone.as_deref().unwrap_or("unknown zone");
    let mut summary = match node.phase.as_str() {
        "pending" => "Slurm wants the node; it waits for a launch.".to_owned(),
        "launching" => "Slurm wants the node; EC2 has been asked for an instance.".to_owned(),
        "booting" => {
            format!("Instance {instance} ({kind}, {zone}) is starting; slurmd has not registered yet.")
        }
        "ready" => format!("The node is up on {instance} ({kind}, {zone}) and has no job."),
        "busy" => format!("The node is up on {instance} ({kind}, {zone}) and runs a job."),
        "stopping" => "Slurm is powering the node down; its instance is being terminated.".to_owned(),
        "failed" => "The node could not be powered up, or is DOWN.".to_owned(),
        "asleep" => format!("EC2 hibernated {instance}; the job on it waits."),
        "moving" => format!(
            "EC2 hibernated {instance}; its disks are moved to an on-demand instance, and the job waits."
        ),
        _ => "The node is powered down and has no instance.".to_owned(),
    };
    if node.locked {
        summary.push_str(" An administrator has locked it: nothing is done to it.");
    }
    let cause = events.iter().rev().find(|event| event.severity >= Severity::Warning);
    if let Some(event) = cause
        && matches!(
            node.phase.as_str(),
            "failed" | "pending" | "powered-down" | "launching" | "asleep" | "moving"
        )
    {
        summary.push_str(" Last trouble: ");
        summary.push_str(&event.text);
        if let Some(code) = &event.code {
            summary.push_str(&format!(" ({code})"));
        }
        summary.push('.');
    }
    let next = match node.phase.as_str() {
        "pending" | "launching" => {
            vec!["If EC2 gives nothing in time, the node is powered down and its job is requeued.".to_owned()]
        }
        "booting" => vec![
            "If slurmd does not register within ResumeTimeout, Slurm sets the node DOWN and the instance is terminated.".to_owned(),
            format!("Look at the console output of {instance} if this takes long."),
        ],
        "moving" => vec![
            "If it fails before the Spot instance is ended, everything is put back and the node waits for Spot capacity; after that it is tried until it succeeds.".to_owned(),
            "The last steps are among the events.".to_owned(),
        ],
        "ready" => vec!["Slurm suspends it after SuspendTime without a job.".to_owned()],
        "failed" => vec![
            "Slurm can use it again once it is powered down; the plugin resets it if Slurm leaves it DOWN.".to_owned(),
            format!("`ec2fleet reset {}` does so now.", node.name),
        ],
        _ => Vec::new(),
    };
    (summary, next)
}
