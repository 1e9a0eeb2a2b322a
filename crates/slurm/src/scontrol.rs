// SPDX-License-Identifier: GPL-3.0-or-later
//! What scontrol and squeue print, read into our own terms.
//!
//! The format is that of `scontrol -o show nodes` (src/api/node_info.c in 22.05, 24.11 and 26.05): `Key=value` pairs on
//! one line. Values are not quoted, so the free text of administrators (`Reason`, `Comment`, `Extra`) can hold
//! anything, also what looks like another key; the order in which the keys are printed is what tells them apart.

use ec2fleet_core::slurm_api::{NodeBase, NodeFlags, SlurmNode};

/// Keys whose values are free text or come after it, in the order of printing.
const AFTER_REASON: [&str; 8] = [
    " Comment=",
    " Extra=",
    " InstanceId=",
    " InstanceType=",
    " ReservationName=",
    " TLSCertTokenSet=",
    " Topology=",
    " Parameters=",
];

/// The nodes in the output of `scontrol -o show nodes`; lines that are no node are left out.
///
/// Times are read as UTC: scontrol must run with `TZ=UTC`.
#[must_use]
pub fn parse_nodes(output: &str) -> Vec<SlurmNode> {
    output.lines().filter_map(parse_node).collect()
}

fn parse_node(line: &str) -> Option<SlurmNode> {
    if !line.starts_with("NodeName=") {
        return None;
    }
    // What slurmctld and slurmd say, then what people say.
    let split = [" Reason=", " Comment=", " Extra=", " InstanceId="]
        .iter()
        .filter_map(|key| line.find(key))
        .min()
        .unwrap_or(line.len());
    let (facts, texts) = line.split_at(split);
    // NodeAddr comes before OS, which is free text of slurmd; the others come after it.
    let early = |key: &str| word_at(facts, facts.find(key)?, key);
    let late = |key: &str| word_at(facts, facts.rfind(key)?, key);
    let name = word_at(facts, 0, "NodeName=")?.to_owned();
    let (base, flags) = parse_state(late(" State=")?);
    Some(SlurmNode {
        addr: early(" NodeAddr=").unwrap_or(&name).to_owned(),
        hostname: early(" NodeHostName=").unwrap_or(&name).to_owned(),
        base,
        flags,
        reason: parse_reason(texts),
        partitions: late(" Partitions=")
            .map(|list| list.split(',').map(ToOwned::to_owned).collect())
            .unwrap_or_default(),
        weight: late(" Weight=").and_then(|weight| weight.parse().ok()),
        boot_time: late(" BootTime=").map_or(0, parse_time),
        slurmd_start_time: late(" SlurmdStartTime=").map_or(0, parse_time),
        instance_id: last_word(texts, " InstanceId="),
        instance_type: last_word(texts, " InstanceType="),
        name,
    })
}

/// The word after `key`, which stands at `at`.
fn word_at<'a>(text: &'a str, at: usize, key: &str) -> Option<&'a str> {
    text[at + key.len()..].split(' ').next().filter(|word| !word.is_empty() && *word != "(null)")
}

fn last_word(text: &str, key: &str) -> Option<String> {
    word_at(text, text.rfind(key)?, key).map(ToOwned::to_owned)
}

/// `IDLE+CLOUD+POWERED_DOWN`; words of later releases that are not known are passed over.
#[must_use]
pub fn parse_state(text: &str) -> (NodeBase, NodeFlags) {
    let mut words = text.split('+');
    let mut flags = NodeFlags::default();
    let base = words.next().unwrap_or_default();
    // Releases before 21.08 mark a node that does not respond with an asterisk.
    let base =
        base.strip_suffix('*').inspect(|_| flags = flags.with(NodeFlags::NOT_RESPONDING)).unwrap_or(base);
    let base = match base {
        "DOWN" => NodeBase::Down,
        "IDLE" => NodeBase::Idle,
        "ALLOCATED" => NodeBase::Allocated,
        "ERROR" => NodeBase::Error,
        "MIXED" => NodeBase::Mixed,
        "FUTURE" => NodeBase::Future,
        _ => NodeBase::Unknown,
    };
    for word in words {
        if let Some((flag, _)) = NodeFlags::NAMES.iter().find(|(_, name)| *name == word) {
            flags = flags.with(*flag);
        }
    }
    (base, flags)
}

/// The reason without the user and time that Slurm adds: `why [root@2026-01-02T03:04:05]`.
fn parse_reason(texts: &str) -> Option<String> {
    let text = texts.strip_prefix(" Reason=")?;
    let end = find_stamp(text)
        .or_else(|| AFTER_REASON.iter().filter_map(|key| text.find(key)).min())
        .unwrap_or(text.len());
    let reason = text[..end].trim();
    (!reason.is_empty()).then(|| reason.to_owned())
}

fn find_stamp(text: &str) -> Option<usize> {
    text.match_indices(" [").map(|(at, _)| at).find(|at| {
        let Some(end) = text[*at..].find(']') else { return false };
        let stamp = &text[at + 2..at + end];
        stamp.rsplit_once('@').is_some_and(|(user, time)| {
            !user.contains(' ') && (time == "Unknown" || time.parse::<jiff::civil::DateTime>().is_ok())
        })
    })
}

/// Seconds since 1970 of a UTC time such as `2026-11-21T04:20:36`; 0 for `None` and `Unknown`.
#[must_use]
pub fn parse_time(text: &str) -> u64 {
    text.parse::<jiff::civil::DateTime>()
        .ok()
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok())
        .and_then(|time| u64::try_from(time.timestamp().as_second()).ok())
        .unwrap_or(0)
}

/// Minutes of a time limit as squeue and scontrol print it (`10:00`, `1-02:30:00`), rounded up; `None` if there is
/// no limit or it is not set.
#[must_use]
pub fn parse_limit_minutes(text: &str) -> Option<u64> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let parts: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (hours, minutes, seconds) = match parts[..] {
        [minutes, seconds] => (0, minutes, seconds),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    Some((days * 24 + hours) * 60 + minutes + u64::from(seconds > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "NodeName=aws-od-4 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=1 CPUTot=1 CPULoad=N/A \
        AvailableFeatures=(null) ActiveFeatures=(null) Gres=(null) NodeAddr=10.0.0.7 NodeHostName=ip-10-0-0-7  \
        RealMemory=1 AllocMem=0 FreeMem=N/A Sockets=1 Boards=1 State=DOWN+CLOUD+POWERED_DOWN ThreadsPerCore=1 \
        TmpDisk=0 Weight=7 Owner=N/A MCS_label=N/A Partitions=aws,odd  BootTime=None SlurmdStartTime=None \
        LastBusyTime=Unknown CfgTRES=cpu=1,mem=1M,billing=1 AllocTRES= CapWatts=n/a";

    fn node(rest: &str) -> SlurmNode {
        parse_node(&format!("{HEAD}{rest}")).expect("a node")
    }

    #[test]
    fn free_text_does_not_hide_facts() {
        let cases: [(&str, Option<&str>, Option<&str>); 10] = [
            ("", None, None),
            (" Reason=plain [root@2026-11-21T07:51:40]", Some("plain"), None),
            (
                " Reason=State=IDLE NodeAddr=1.2.3.4 [root@2026-11-21T07:51:40]",
                Some("State=IDLE NodeAddr=1.2.3.4"),
                None,
            ),
            // A second line of a reason follows the stamp.
            (" Reason=two [root@2026-11-21T07:51:40]        lines Extra=yes Comment=c", Some("two"), None),
            (
                " Reason=[brackets] a@b [x@y] [root@2026-11-21T07:51:40] Comment=c",
                Some("[brackets] a@b [x@y]"),
                None,
            ),
            (" Reason=no stamp Comment=c", Some("no stamp"), None),
            (" Comment=Reason=not Reason=nor this", None, None),
            (
                " Reason=r [slurm@2026-11-21T07:51:40] Comment=c Extra=InstanceId=i-0 InstanceId=i-1 InstanceType=m5.large ReservationName=r",
                Some("r"),
                Some("i-1"),
            ),
            (" InstanceId=i-2 ", None, Some("i-2")),
            (" Extra={\"a\": 1}", None, None),
        ];
        for (rest, reason, instance) in cases {
            let node = node(rest);
            assert_eq!(node.reason.as_deref(), reason, "{rest}");
            assert_eq!(node.instance_id.as_deref(), instance, "{rest}");
            assert_eq!(node.state_text(), "DOWN+CLOUD+POWERED_DOWN", "{rest}");
            assert_eq!((node.addr.as_str(), node.hostname.as_str()), ("10.0.0.7", "ip-10-0-0-7"), "{rest}");
            assert_eq!((node.weight, node.partitions.len()), (Some(7), 2), "{rest}");
        }
    }

    #[test]
    fn an_operating_system_may_call_itself_anything() {
        let line = "NodeName=n1 NodeAddr=a NodeHostName=h Version=22.05.8 OS=Linux State=DOWN Weight=3 #1 SMP \
            RealMemory=1 State=MIXED+CLOUD ThreadsPerCore=1 Weight=9 Owner=N/A BootTime=2026-11-21T04:20:36 \
            SlurmdStartTime=2026-11-21T07:52:05 LastBusyTime=Unknown";
        let node = parse_node(line).expect("a node");
        assert_eq!((node.base, node.weight), (NodeBase::Mixed, Some(9)));
        assert_eq!((node.boot_time, node.slurmd_start_time), (1_795_234_836, 1_795_247_525));
    }

    #[test]
    fn every_state_word_is_read_back() {
        for (flag, name) in NodeFlags::NAMES {
            assert_eq!(parse_state(&format!("IDLE+{name}")), (NodeBase::Idle, flag), "{name}");
        }
        for base in ["UNKNOWN", "DOWN", "IDLE", "ALLOCATED", "ERROR", "MIXED", "FUTURE"] {
            let (parsed, _) = parse_state(base);
            assert_eq!(SlurmNode { base: parsed, ..SlurmNode::default() }.state_text(), base);
        }
        assert_eq!(
            parse_state("DOWN*+CLOUD+SOMETHING_NEW"),
            (NodeBase::Down, NodeFlags::CLOUD.with(NodeFlags::NOT_RESPONDING))
        );
    }

    #[test]
    fn what_is_no_node_is_passed_over() {
        assert_eq!(parse_nodes("\nNo nodes in the system\nNodeName=\nNodeName=x y\n"), []);
    }

    #[test]
    fn limits() {
        for (text, minutes) in [
            ("10:00", Some(10)),
            ("0:30", Some(1)),
            ("1:00:00", Some(60)),
            ("1-00:00:00", Some(1440)),
            ("2-03:04:05", Some(3065)),
            ("UNLIMITED", None),
            ("NOT_SET", None),
            ("INVALID", None),
            ("", None),
        ] {
            assert_eq!(parse_limit_minutes(text), minutes, "{text}");
        }
    }
}
