// SPDX-License-Identifier: GPL-3.0-or-later
//! [`Host`] over a table made in Rust.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};

use super::*;

/// What the table below answers, and what it was asked.
#[derive(Default)]
struct Fake {
    capabilities: u32,
    status: i32,
    suspended: CString,
    updates: RefCell<Vec<[Option<String>; 6]>>,
    states: RefCell<Vec<u32>>,
    weights: RefCell<Vec<u32>>,
    limits: RefCell<Vec<(u32, u32)>>,
    kept: RefCell<Vec<String>>,
    log: RefCell<Vec<(u32, String)>>,
}

impl Fake {
    fn host(&self) -> Host {
        let host = abi::ec2fleet_host {
            abi_version: abi::EC2FLEET_ABI_VERSION,
            size: u32::try_from(size_of::<abi::ec2fleet_host>()).unwrap(),
            slurm_version: 0x16_05_08,
            capabilities: self.capabilities,
            context: std::ptr::from_ref(self).cast_mut().cast(),
            config_dir: c"/etc/fleet".as_ptr(),
            slurm_conf: c"/etc/slurm/slurm.conf".as_ptr(),
            in_control: Some(in_control),
            last_node_update: Some(last_node_update),
            read_power: Some(read_power),
            update_nodes: Some(update_nodes),
            keep_responding: Some(keep_responding),
            start_ready_jobs: Some(start_ready_jobs),
            suspended_nodes: Some(suspended_nodes),
            load_nodes: Some(load_nodes),
            load_partitions: Some(load_partitions),
            load_jobs: Some(load_jobs),
            set_time_limit: Some(set_time_limit),
            strerror: Some(strerror),
            log: Some(log),
        };
        // SAFETY: a whole table of this build's version.
        let (table, options) = unsafe { Table::of(&raw const host) }.expect("a good table");
        assert_eq!(options.config_dir.as_deref(), Some(std::path::Path::new("/etc/fleet")));
        assert_eq!(options.slurm_conf.as_deref(), Some(std::path::Path::new("/etc/slurm/slurm.conf")));
        assert_eq!(options.slurm_version, 0x16_05_08);
        Host::new(table)
    }
}

/// # Safety
/// `context` is the `Fake` of the host in use.
unsafe fn fake<'a>(context: *mut c_void) -> &'a Fake {
    unsafe { &*context.cast::<Fake>() }
}

unsafe extern "C" fn in_control(_: *mut c_void) -> i32 {
    1
}

unsafe extern "C" fn last_node_update(_: *mut c_void) -> i64 {
    42
}

unsafe extern "C" fn read_power(context: *mut c_void, full: u32, out: *mut abi::ec2fleet_power) -> i32 {
    unsafe {
        (*out).flags = if full == 1 { abi::EC2FLEET_POWER_FULL } else { 0 };
        (*out).waking = c"cpu-a-[1-2]".as_ptr();
        (*out).suspended_ended = c"cpu-a-1,gpu-b-03".as_ptr();
        (*out).lock_held_ns = 17;
        fake(context).status
    }
}

unsafe extern "C" fn update_nodes(
    context: *mut c_void,
    updates: *const abi::ec2fleet_node_update,
    count: u32,
    _: *mut u32,
) -> i32 {
    unsafe {
        let fake = fake(context);
        for update in std::slice::from_raw_parts(updates, count as usize) {
            fake.updates.borrow_mut().push([
                text(update.node_names),
                text(update.node_addr),
                text(update.node_hostname),
                text(update.instance_id),
                text(update.instance_type),
                text(update.reason),
            ]);
            fake.states.borrow_mut().push(update.state);
            fake.weights.borrow_mut().push(update.weight);
        }
        fake.status
    }
}

unsafe extern "C" fn keep_responding(context: *mut c_void, names: *const *const c_char, count: u32) -> i32 {
    unsafe {
        let fake = fake(context);
        for name in std::slice::from_raw_parts(names, count as usize) {
            fake.kept.borrow_mut().extend(text(*name));
        }
        fake.status
    }
}

unsafe extern "C" fn start_ready_jobs(_: *mut c_void) -> i32 {
    abi::EC2FLEET_OK
}

unsafe extern "C" fn suspended_nodes(context: *mut c_void, hostlist: *mut *const c_char) -> i32 {
    unsafe {
        *hostlist = fake(context).suspended.as_ptr();
        fake(context).status
    }
}

unsafe extern "C" fn load_nodes(
    context: *mut c_void,
    sink: *mut c_void,
    row: Option<RowFn<abi::ec2fleet_node>>,
) -> i32 {
    let node = abi::ec2fleet_node {
        base: abi::EC2FLEET_NODE_MIXED,
        flags: abi::EC2FLEET_NODE_CLOUD | abi::EC2FLEET_NODE_POWERING_UP | 1 << 30,
        weight: 3,
        boot_time: -1,
        slurmd_start_time: 9,
        name: c"cpu-a-1".as_ptr(),
        addr: c"10.0.0.1".as_ptr(),
        reason: c"".as_ptr(),
        instance_id: c"i-1".as_ptr(),
        ..Default::default()
    };
    unsafe {
        row.unwrap()(sink, &raw const node);
        fake(context).status
    }
}

unsafe extern "C" fn load_partitions(
    context: *mut c_void,
    sink: *mut c_void,
    row: Option<RowFn<abi::ec2fleet_partition>>,
) -> i32 {
    for (name, nodes, max_time) in [
        (c"cpu", c"cpu-a-[0-1]".as_ptr(), 60),
        (c"all", c"cpu-a-[0-9]".as_ptr(), u32::MAX),
        (c"empty", std::ptr::null(), 5),
    ] {
        let partition = abi::ec2fleet_partition { name: name.as_ptr(), nodes, max_time, reserved: 0 };
        unsafe { row.unwrap()(sink, &raw const partition) };
    }
    unsafe { fake(context) }.status
}

unsafe extern "C" fn load_jobs(
    context: *mut c_void,
    node: *const c_char,
    sink: *mut c_void,
    row: Option<RowFn<abi::ec2fleet_job>>,
) -> i32 {
    assert_eq!(unsafe { CStr::from_ptr(node) }, c"cpu-a-1");
    for (job_id, time_limit, suspended, partition) in [
        (1, 10, 0, c"cpu".as_ptr()),
        (2, 55, 0, c"cpu".as_ptr()),
        (3, 60, 0, c"cpu".as_ptr()),
        (4, 10, 1, c"cpu".as_ptr()),
        (5, u32::MAX, 0, c"all".as_ptr()),
        (6, 1000, 0, std::ptr::null()),
    ] {
        let job = abi::ec2fleet_job { job_id, time_limit, suspended, reserved: 0, partition };
        unsafe { row.unwrap()(sink, &raw const job) };
    }
    unsafe { fake(context) }.status
}

unsafe extern "C" fn set_time_limit(context: *mut c_void, job: u32, minutes: u32) -> i32 {
    let fake = unsafe { fake(context) };
    fake.limits.borrow_mut().push((job, minutes));
    // The first job is refused; the others must be asked for all the same.
    if job == 1 { 2021 } else { fake.status }
}

unsafe extern "C" fn strerror(_: *mut c_void, status: i32) -> *const c_char {
    if status == 2018 { c"Invalid node name specified".as_ptr() } else { std::ptr::null() }
}

unsafe extern "C" fn log(context: *mut c_void, level: u32, message: *const c_char) {
    unsafe { fake(context).log.borrow_mut().push((level, text(message).unwrap())) };
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn strings(fields: [Option<&str>; 6]) -> [Option<String>; 6] {
    fields.map(|field| field.map(str::to_owned))
}

#[test]
fn a_reading_has_every_name() {
    let fake = Fake::default();
    let mut host = fake.host();
    let reading = host.read_power(false).unwrap();
    assert_eq!(
        reading,
        PowerReading {
            full: false,
            waking: names(&["cpu-a-1", "cpu-a-2"]),
            suspended_ended: names(&["cpu-a-1", "gpu-b-03"]),
            lock_held_ns: 17,
            ..PowerReading::default()
        }
    );
    assert!(host.read_power(true).unwrap().full);
    assert!(host.is_primary());
    assert_eq!(host.last_node_update(), 42);
}

#[test]
fn a_status_becomes_the_error_that_it_is() {
    let of = |status| Fake { status, ..Fake::default() }.host().read_power(false).unwrap_err();
    assert!(matches!(of(abi::EC2FLEET_UNSUPPORTED), SlurmError::Unsupported { .. }));
    assert!(matches!(of(abi::EC2FLEET_CLOSED), SlurmError::Unreachable { .. }));
    assert!(matches!(of(abi::EC2FLEET_NOT_READY), SlurmError::Unreachable { .. }));
    assert!(matches!(of(-77), SlurmError::Unreachable { message, .. } if message.contains("-77")));
    assert!(matches!(of(111), SlurmError::Unreachable { message, .. } if message.contains("111")));
    assert_eq!(
        of(2018),
        SlurmError::Refused {
            what: "the power bitmaps".to_owned(),
            errno: 2018,
            message: "Invalid node name specified".to_owned()
        }
    );
}

#[test]
fn loaded_nodes_include_those_that_slurmctld_hides() {
    // 22.05 does not list powered-down nodes. cpu-a-1 woke between the two calls and is in both.
    let fake = Fake { suspended: c"cpu-a-[1-2],x-1".to_owned(), ..Fake::default() };
    let nodes = fake.host().load_nodes().unwrap();
    let down = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN);
    assert_eq!(
        nodes,
        [
            SlurmNode {
                name: "cpu-a-1".to_owned(),
                addr: "10.0.0.1".to_owned(),
                base: NodeBase::Mixed,
                flags: NodeFlags::CLOUD.with(NodeFlags::POWERING_UP),
                partitions: names(&["cpu", "all"]),
                weight: Some(3),
                slurmd_start_time: 9,
                instance_id: Some("i-1".to_owned()),
                ..SlurmNode::default()
            },
            SlurmNode {
                name: "cpu-a-2".to_owned(),
                addr: "cpu-a-2".to_owned(),
                hostname: "cpu-a-2".to_owned(),
                flags: down,
                partitions: names(&["all"]),
                ..SlurmNode::default()
            },
            SlurmNode {
                name: "x-1".to_owned(),
                addr: "x-1".to_owned(),
                hostname: "x-1".to_owned(),
                flags: down,
                ..SlurmNode::default()
            },
        ]
    );
    let lists_all = Fake {
        capabilities: abi::EC2FLEET_CAN_LIST_POWERED_DOWN,
        suspended: c"x-1".to_owned(),
        ..Fake::default()
    };
    assert_eq!(lists_all.host().load_nodes().unwrap(), nodes[..1]);
    // A failure anywhere means that nothing is known.
    assert!(Fake { status: 1800, ..Fake::default() }.host().load_nodes().is_err());
}

#[test]
fn every_state_and_flag_has_one_counterpart() {
    let changes = [
        NodeStateChange::PowerUp,
        NodeStateChange::PowerDown,
        NodeStateChange::PowerDownForce,
        NodeStateChange::Drain,
        NodeStateChange::Undrain,
        NodeStateChange::Resume,
        NodeStateChange::Down,
    ];
    assert_eq!(changes.map(|change| state_of(Some(change))), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(state_of(None), abi::EC2FLEET_STATE_KEEP);
    let flags: Vec<NodeFlags> = (0..32).map(|bit| flags_of(1 << bit)).collect();
    for (place, flag) in flags.iter().enumerate() {
        assert_eq!(flag.0.count_ones(), u32::from(place < NodeFlags::NAMES.len()), "bit {place}");
        assert!(flags[..place].iter().all(|other| other.0 & flag.0 == 0), "bit {place}");
    }
    assert_eq!(base_of(99), NodeBase::Unknown);
}

#[test]
fn one_update_is_one_call_where_the_release_allows() {
    let update = NodeUpdate {
        names: names(&["cpu-a-2", "cpu-a-1", "cpu-a-3"]),
        addrs: Some(names(&["10.0.0.9", "10.0.0.8", "10.0.0.7"])),
        hostnames: Some(names(&["h9", "h8", "h7"])),
        instance_ids: Some(names(&["i-9", "i-8", "i-7"])),
        instance_types: Some(names(&["c5.large", "c5.large", "m5.large"])),
        state: Some(NodeStateChange::Resume),
        reason: Some("why".to_owned()),
        weight: Some(5),
    };
    let all = "cpu-a-[2,1,3]";
    assert_eq!(hostlist::expand(all).unwrap(), update.names);
    let common = [Some(all), Some("10.0.0.9,10.0.0.8,10.0.0.7"), Some("h9,h8,h7"), None, None, Some("why")];

    // Before 23.11 there is no such field.
    let fake = Fake::default();
    fake.host().update_nodes(&update).unwrap();
    assert_eq!(fake.updates.take(), [strings(common)]);
    assert_eq!(fake.states.take(), [abi::EC2FLEET_STATE_RESUME]);

    // Since 26.05 each node has its own.
    let fake = Fake {
        capabilities: abi::EC2FLEET_CAN_INSTANCE_ID | abi::EC2FLEET_CAN_INSTANCE_ID_LIST,
        ..Fake::default()
    };
    fake.host().update_nodes(&update).unwrap();
    let mut with_lists = common;
    with_lists[3] = Some("i-9,i-8,i-7");
    with_lists[4] = Some("c5.large,c5.large,m5.large");
    assert_eq!(fake.updates.take(), [strings(with_lists)]);

    // In between one update gives one value: more updates, still under one lock.
    let fake = Fake { capabilities: abi::EC2FLEET_CAN_INSTANCE_ID, ..Fake::default() };
    fake.host().update_nodes(&update).unwrap();
    assert_eq!(
        fake.updates.take(),
        [
            strings(common),
            strings([Some("cpu-a-2"), None, None, Some("i-9"), Some("c5.large"), None]),
            strings([Some("cpu-a-1"), None, None, Some("i-8"), Some("c5.large"), None]),
            strings([Some("cpu-a-3"), None, None, Some("i-7"), Some("m5.large"), None]),
        ]
    );
    assert_eq!(fake.states.take(), [abi::EC2FLEET_STATE_RESUME, 0, 0, 0]);
    let keep = abi::EC2FLEET_WEIGHT_KEEP;
    assert_eq!(fake.weights.take(), [5, keep, keep, keep], "the weight is set once");

    // A value that all have in common goes with the rest; an empty one clears the field.
    let clear = NodeUpdate {
        names: names(&["cpu-a-1", "cpu-a-2"]),
        instance_ids: Some(names(&["", ""])),
        ..NodeUpdate::default()
    };
    for capabilities in
        [abi::EC2FLEET_CAN_INSTANCE_ID, abi::EC2FLEET_CAN_INSTANCE_ID | abi::EC2FLEET_CAN_INSTANCE_ID_LIST]
    {
        let fake = Fake { capabilities, ..Fake::default() };
        fake.host().update_nodes(&clear).unwrap();
        assert_eq!(fake.updates.take(), [strings([Some("cpu-a-[1-2]"), None, None, Some(""), None, None])]);
    }
}

#[test]
fn an_update_that_cannot_be_right_is_not_sent() {
    let fake = Fake::default();
    let short = NodeUpdate {
        names: names(&["cpu-a-1", "cpu-a-2"]),
        addrs: Some(names(&["10.0.0.1"])),
        ..NodeUpdate::default()
    };
    assert!(matches!(fake.host().update_nodes(&short), Err(SlurmError::Refused { errno: 2018, .. })));
    let nul =
        NodeUpdate { names: names(&["cpu-a-1"]), reason: Some("a\0b".to_owned()), ..NodeUpdate::default() };
    assert!(matches!(fake.host().update_nodes(&nul), Err(SlurmError::Unsupported { .. })));
    assert!(fake.updates.take().is_empty());

    // slurmctld has said whatever number it returns.
    let refusing = Fake { status: 1, ..Fake::default() };
    let one = NodeUpdate { names: names(&["cpu-a-1"]), ..NodeUpdate::default() };
    assert!(matches!(refusing.host().update_nodes(&one), Err(SlurmError::Refused { errno: 1, .. })));
}

#[test]
fn jobs_are_lengthened_up_to_their_partition() {
    let fake = Fake::default();
    let error = fake.host().extend_jobs("cpu-a-1", 30).unwrap_err();
    assert!(matches!(error, SlurmError::Refused { what, errno: 2021, .. } if what.contains("job 1")));
    // 2 is capped, 3 is at the cap, 4 is suspended, 5 has no limit, 6 has a partition that is gone.
    assert_eq!(fake.limits.take(), [(1, 40), (2, 60), (6, 1030)]);

    assert_eq!(extended(u32::MAX - 5, 30, u32::MAX), Some(u32::MAX - 1));
}

#[test]
fn other_calls_arrive_whole() {
    let fake = Fake::default();
    let mut host = fake.host();
    host.keep_responding(&names(&["cpu-a-1", "cpu-a-2"])).unwrap();
    assert_eq!(fake.kept.take(), ["cpu-a-1", "cpu-a-2"]);
    assert!(host.keep_responding(&names(&["a\0b"])).is_err());
    Controller::log(&host, HostLogLevel::Debug, "one\0two");
    assert_eq!(fake.log.take(), [(abi::EC2FLEET_LOG_DEBUG, "one two".to_owned())]);
}
