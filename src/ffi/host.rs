// SPDX-License-Identifier: GPL-3.0-or-later
//! slurmctld as the shim's table offers it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::path::PathBuf;

use super::abi;
use super::boundary::boundary;
use ec2fleet_core::hostlist;
use ec2fleet_core::slurm_api::{
    NodeBase, NodeFlags, NodeStateChange, NodeUpdate, PowerReading, SlurmError, SlurmNode,
};
use ec2fleet_runtime::plugin::PluginOptions;
use ec2fleet_slurm::controller::{Controller, HostLogLevel};

/// Error numbers from here on are slurmctld's answers; those below are of the way to it (slurm_errno.h).
const FIRST_ANSWER: i32 = 2000;
/// `ESLURM_INVALID_NODE_NAME`: what slurmctld answers when a list has another length than the node names.
const INVALID_NODE_NAME: i32 = 2018;

type RowFn<T> = unsafe extern "C" fn(*mut c_void, *const T);
type Load<T> = unsafe extern "C" fn(*mut c_void, *mut c_void, Option<RowFn<T>>) -> i32;

/// The shim's table with every member checked.
#[derive(Clone, Copy)]
pub(super) struct Table {
    context: *mut c_void,
    capabilities: u32,
    in_control: unsafe extern "C" fn(*mut c_void) -> i32,
    last_node_update: unsafe extern "C" fn(*mut c_void) -> i64,
    read_power: unsafe extern "C" fn(*mut c_void, u32, *mut abi::ec2fleet_power) -> i32,
    update_nodes: unsafe extern "C" fn(*mut c_void, *const abi::ec2fleet_node_update, u32, *mut u32) -> i32,
    keep_responding: unsafe extern "C" fn(*mut c_void, *const *const c_char, u32) -> i32,
    start_ready_jobs: unsafe extern "C" fn(*mut c_void) -> i32,
    suspended_nodes: unsafe extern "C" fn(*mut c_void, *mut *const c_char) -> i32,
    load_nodes: Load<abi::ec2fleet_node>,
    load_partitions: Load<abi::ec2fleet_partition>,
    load_jobs: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        *mut c_void,
        Option<RowFn<abi::ec2fleet_job>>,
    ) -> i32,
    set_time_limit: unsafe extern "C" fn(*mut c_void, u32, u32) -> i32,
    strerror: unsafe extern "C" fn(*mut c_void, i32) -> *const c_char,
    log: unsafe extern "C" fn(*mut c_void, u32, *const c_char),
}

// SAFETY: the table says that one thread at a time may use it, not which (plugin_abi.h). It is moved once, from the
// thread that starts the plugin to the host thread, and the former makes no call after that.
unsafe impl Send for Table {}

impl Table {
    /// Check the table and copy what is needed of it.
    ///
    /// # Errors
    /// The status to return to the shim.
    ///
    /// # Safety
    /// `host` is null, or points to two readable `uint32_t` and, if these are this build's version and size, to a
    /// whole `struct ec2fleet_host` whose pointers are null or valid as plugin_abi.h says.
    pub(super) unsafe fn of(host: *const abi::ec2fleet_host) -> Result<(Self, PluginOptions), i32> {
        if host.is_null() {
            return Err(abi::EC2FLEET_INVALID);
        }
        // SAFETY: not null, and the first two members are readable in every version.
        let (version, size) = unsafe { ((*host).abi_version, (*host).size) };
        if version != abi::EC2FLEET_ABI_VERSION || size as usize != size_of::<abi::ec2fleet_host>() {
            return Err(abi::EC2FLEET_ABI_MISMATCH);
        }
        // SAFETY: version and size are ours, so the whole structure is there.
        let host = unsafe { &*host };
        let options = PluginOptions {
            // SAFETY: strings of the table are null or valid while start runs.
            slurm_conf: unsafe { text(host.slurm_conf) }.map(PathBuf::from),
            // SAFETY: as above.
            config_dir: unsafe { text(host.config_dir) }.map(PathBuf::from),
            slurm_version: host.slurm_version,
        };
        let table = Self::checked(host).ok_or(abi::EC2FLEET_INVALID)?;
        Ok((table, options))
    }

    fn checked(host: &abi::ec2fleet_host) -> Option<Self> {
        Some(Self {
            context: host.context,
            capabilities: host.capabilities,
            in_control: host.in_control?,
            last_node_update: host.last_node_update?,
            read_power: host.read_power?,
            update_nodes: host.update_nodes?,
            keep_responding: host.keep_responding?,
            start_ready_jobs: host.start_ready_jobs?,
            suspended_nodes: host.suspended_nodes?,
            load_nodes: host.load_nodes?,
            load_partitions: host.load_partitions?,
            load_jobs: host.load_jobs?,
            set_time_limit: host.set_time_limit?,
            strerror: host.strerror?,
            log: host.log?,
        })
    }

    fn can(&self, capability: u32) -> bool {
        self.capabilities & capability != 0
    }

    /// One line into slurmctld's log. Only for the thread that may use the table now.
    pub(super) fn log(&self, level: HostLogLevel, message: &str) {
        let level = match level {
            HostLogLevel::Error => abi::EC2FLEET_LOG_ERROR,
            HostLogLevel::Info => abi::EC2FLEET_LOG_INFO,
            HostLogLevel::Verbose => abi::EC2FLEET_LOG_VERBOSE,
            HostLogLevel::Debug => abi::EC2FLEET_LOG_DEBUG,
        };
        let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
        // SAFETY: a checked pointer, its own context, and a string that lives through the call.
        unsafe { (self.log)(self.context, level, message.as_ptr()) }
    }
}

/// slurmctld, for the one thread that may call it.
pub(super) struct Host {
    table: Table,
    /// Neither `Send` nor `Sync`: it stays on the thread that made it.
    one_thread: PhantomData<*mut ()>,
}

impl Host {
    pub(super) fn new(table: Table) -> Self {
        Self { table, one_thread: PhantomData }
    }

    /// The error of a negative or positive status of the table.
    fn error(&self, what: &str, status: i32) -> SlurmError {
        let what = what.to_owned();
        match status {
            abi::EC2FLEET_UNSUPPORTED => SlurmError::Unsupported {
                what,
                message: "this slurmctld does not offer it; a newer release of Slurm may".to_owned(),
            },
            abi::EC2FLEET_CLOSED => {
                SlurmError::Unreachable { what, message: "the plugin is stopping".to_owned() }
            }
            abi::EC2FLEET_NOT_READY => SlurmError::Unreachable {
                what,
                message: "this slurmctld is not in control of its nodes now".to_owned(),
            },
            errno if errno >= FIRST_ANSWER => {
                SlurmError::Refused { what, errno, message: self.text_of(errno) }
            }
            errno if errno > 0 => {
                SlurmError::Unreachable { what, message: format!("{} (error {errno})", self.text_of(errno)) }
            }
            other => SlurmError::Unreachable { what, message: format!("the shim returned status {other}") },
        }
    }

    fn text_of(&self, errno: i32) -> String {
        // SAFETY: a checked pointer and its own context; the result is copied before the next call.
        unsafe { text((self.table.strerror)(self.table.context, errno)) }
            .unwrap_or_else(|| "unknown error".to_owned())
    }

    fn outcome(&self, what: &str, status: i32) -> Result<(), SlurmError> {
        if status == abi::EC2FLEET_OK { Ok(()) } else { Err(self.error(what, status)) }
    }

    /// Run a loading function of the table that gives rows.
    fn rows<R: Row>(&self, what: &str, load: impl FnOnce(*mut c_void) -> i32) -> Result<Vec<R>, SlurmError> {
        let mut sink = Sink::<R> { rows: Vec::new(), panic: None };
        let status = load((&raw mut sink).cast());
        self.outcome(what, status)?;
        match sink.panic {
            None => Ok(sink.rows),
            Some(text) => {
                Err(SlurmError::Unreachable { what: what.to_owned(), message: format!("defect: {text}") })
            }
        }
    }

    /// Every node that is powering down or powered down.
    fn suspended_nodes(&self) -> Result<Vec<String>, SlurmError> {
        let mut list = std::ptr::null();
        // SAFETY: a checked pointer, its own context, and a place for the result.
        let status = unsafe { (self.table.suspended_nodes)(self.table.context, &raw mut list) };
        self.outcome("the suspended nodes", status)?;
        // SAFETY: null or valid until the next call of this function.
        expand("the suspended nodes", unsafe { text(list) }.as_deref())
    }

    fn partitions(&self) -> Result<Vec<Partition>, SlurmError> {
        self.rows("the partitions", |sink| {
            // SAFETY: a checked pointer, its own context, and a sink of the type that the row function expects.
            unsafe { (self.table.load_partitions)(self.table.context, sink, Some(row::<Partition>)) }
        })
    }

    fn running_jobs(&self, node: &str) -> Result<Vec<Job>, SlurmError> {
        let name = c_string("the jobs of a node", node)?;
        let jobs: Vec<Job> = self.rows(&format!("the jobs of {node}"), |sink| {
            // SAFETY: as for the partitions; the name lives through the call.
            unsafe { (self.table.load_jobs)(self.table.context, name.as_ptr(), sink, Some(row::<Job>)) }
        })?;
        Ok(jobs.into_iter().filter(|job| !job.suspended).collect())
    }
}

impl Controller for Host {
    fn is_primary(&self) -> bool {
        // SAFETY: a checked pointer and its own context.
        unsafe { (self.table.in_control)(self.table.context) != 0 }
    }

    fn last_node_update(&self) -> i64 {
        // SAFETY: a checked pointer and its own context.
        unsafe { (self.table.last_node_update)(self.table.context) }
    }

    fn read_power(&mut self, full: bool) -> Result<PowerReading, SlurmError> {
        let mut power = abi::ec2fleet_power::default();
        // SAFETY: a checked pointer, its own context, and a structure to write to.
        let status = unsafe { (self.table.read_power)(self.table.context, u32::from(full), &raw mut power) };
        self.outcome("the power bitmaps", status)?;
        // SAFETY: the table's hostlists are null or valid until the next reading.
        let names = |list: *const c_char| expand("the power bitmaps", unsafe { text(list) }.as_deref());
        Ok(PowerReading {
            full: power.flags & abi::EC2FLEET_POWER_FULL != 0,
            reconfigured: power.flags & abi::EC2FLEET_POWER_RECONFIGURED != 0,
            waking: names(power.waking)?,
            waking_ended: names(power.waking_ended)?,
            suspended: names(power.suspended)?,
            suspended_ended: names(power.suspended_ended)?,
            lock_held_ns: power.lock_held_ns,
        })
    }

    fn update_nodes(&mut self, update: &NodeUpdate) -> Result<(), SlurmError> {
        let prepared = PreparedUpdate::new(update, &self.table)?;
        let updates = prepared.as_abi();
        let count = u32::try_from(updates.len()).unwrap_or(u32::MAX);
        // SAFETY: a checked pointer, its own context, and `count` updates whose strings `prepared` keeps.
        let status = unsafe {
            (self.table.update_nodes)(self.table.context, updates.as_ptr(), count, std::ptr::null_mut())
        };
        if (1..FIRST_ANSWER).contains(&status) {
            // In process there is no way to fail on: whatever the number, slurmctld said it.
            return Err(SlurmError::Refused {
                what: prepared.what,
                errno: status,
                message: self.text_of(status),
            });
        }
        self.outcome(&prepared.what, status)
    }

    fn keep_responding(&mut self, nodes: &[String]) -> Result<(), SlurmError> {
        let what = "keeping nodes responding";
        let names = nodes.iter().map(|name| c_string(what, name)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let count = u32::try_from(pointers.len()).unwrap_or(u32::MAX);
        // SAFETY: a checked pointer, its own context, and `count` strings that `names` keeps.
        let status = unsafe { (self.table.keep_responding)(self.table.context, pointers.as_ptr(), count) };
        self.outcome(what, status)
    }

    fn start_ready_jobs(&mut self) -> Result<(), SlurmError> {
        // SAFETY: a checked pointer and its own context.
        let status = unsafe { (self.table.start_ready_jobs)(self.table.context) };
        self.outcome("starting jobs whose nodes are up", status)
    }

    fn load_nodes(&mut self) -> Result<Vec<SlurmNode>, SlurmError> {
        // First: a node that wakes in between is then in both, never in neither.
        let suspended = if self.table.can(abi::EC2FLEET_CAN_LIST_POWERED_DOWN) {
            Vec::new()
        } else {
            self.suspended_nodes()?
        };
        let mut nodes: Vec<SlurmNode> = self.rows("the nodes", |sink| {
            // SAFETY: as for the partitions.
            unsafe { (self.table.load_nodes)(self.table.context, sink, Some(row::<SlurmNode>)) }
        })?;
        let mut places: HashMap<String, usize> =
            nodes.iter().enumerate().map(|(place, node)| (node.name.clone(), place)).collect();
        for name in suspended {
            if !places.contains_key(&name) {
                places.insert(name.clone(), nodes.len());
                nodes.push(SlurmNode {
                    addr: name.clone(),
                    hostname: name.clone(),
                    name,
                    flags: NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN),
                    ..SlurmNode::default()
                });
            }
        }
        for partition in self.partitions()? {
            for name in expand("the partitions", partition.nodes.as_deref())? {
                if let Some(&place) = places.get(&name) {
                    nodes[place].partitions.push(partition.name.clone());
                }
            }
        }
        Ok(nodes)
    }

    fn extend_jobs(&mut self, node: &str, minutes: u32) -> Result<(), SlurmError> {
        let limits: HashMap<String, u32> =
            self.partitions()?.into_iter().map(|partition| (partition.name, partition.max_time)).collect();
        let mut outcome = Ok(());
        for job in self.running_jobs(node)? {
            let cap = job.partition.as_ref().and_then(|name| limits.get(name)).copied().unwrap_or(u32::MAX);
            if let Some(limit) = extended(job.time_limit, minutes, cap) {
                // SAFETY: a checked pointer and its own context.
                let status = unsafe { (self.table.set_time_limit)(self.table.context, job.id, limit) };
                outcome = outcome.and(self.outcome(&format!("the time limit of job {}", job.id), status));
            }
        }
        outcome
    }

    fn log(&self, level: HostLogLevel, message: &str) {
        self.table.log(level, message);
    }
}

/// A job's new time limit in minutes; `None` if it has none or is at the cap already. `u32::MAX` is no limit.
fn extended(limit: u32, minutes: u32, cap: u32) -> Option<u32> {
    if limit == u32::MAX {
        return None;
    }
    // One below: the largest number would mean no limit.
    let longer = limit.saturating_add(minutes).min(u32::MAX - 1).min(cap);
    (longer > limit).then_some(longer)
}

/// What collects rows while the table calls back.
struct Sink<R> {
    rows: Vec<R>,
    panic: Option<String>,
}

/// A record that the table gives row by row.
trait Row: Sized {
    type Raw;

    /// # Safety
    /// The strings and arrays of `raw` are null or valid.
    unsafe fn of(raw: &Self::Raw) -> Option<Self>;
}

unsafe extern "C" fn row<R: Row>(sink: *mut c_void, raw: *const R::Raw) {
    // SAFETY: the sink is the one that `Host::rows` passed with this function, and nothing else uses it meanwhile.
    let Some(sink) = (unsafe { sink.cast::<Sink<R>>().as_mut() }) else { return };
    let panic = boundary!(Some, {
        // SAFETY: the shim gives a row that is valid through this call, or null.
        if let Some(row) = unsafe { raw.as_ref().and_then(|raw| R::of(raw)) } {
            sink.rows.push(row);
        }
        None
    });
    if panic.is_some() {
        sink.panic = panic;
    }
}

impl Row for SlurmNode {
    type Raw = abi::ec2fleet_node;

    unsafe fn of(raw: &Self::Raw) -> Option<Self> {
        // SAFETY: the caller vouches for the strings.
        let string = |pointer| unsafe { text(pointer) };
        let some = |pointer| string(pointer).filter(|value| !value.is_empty());
        Some(Self {
            name: string(raw.name)?,
            addr: string(raw.addr).unwrap_or_default(),
            hostname: string(raw.hostname).unwrap_or_default(),
            base: base_of(raw.base),
            flags: flags_of(raw.flags),
            reason: some(raw.reason),
            partitions: Vec::new(),
            weight: Some(raw.weight),
            boot_time: u64::try_from(raw.boot_time).unwrap_or(0),
            slurmd_start_time: u64::try_from(raw.slurmd_start_time).unwrap_or(0),
            instance_id: some(raw.instance_id),
            instance_type: some(raw.instance_type),
        })
    }
}

struct Partition {
    name: String,
    /// Hostlist.
    nodes: Option<String>,
    max_time: u32,
}

impl Row for Partition {
    type Raw = abi::ec2fleet_partition;

    unsafe fn of(raw: &Self::Raw) -> Option<Self> {
        // SAFETY: the caller vouches for the strings.
        let (name, nodes) = unsafe { (text(raw.name), text(raw.nodes)) };
        Some(Self { name: name?, nodes, max_time: raw.max_time })
    }
}

struct Job {
    id: u32,
    time_limit: u32,
    suspended: bool,
    partition: Option<String>,
}

impl Row for Job {
    type Raw = abi::ec2fleet_job;

    unsafe fn of(raw: &Self::Raw) -> Option<Self> {
        Some(Self {
            id: raw.job_id,
            time_limit: raw.time_limit,
            suspended: raw.suspended != 0,
            // SAFETY: the caller vouches for the string.
            partition: unsafe { text(raw.partition) },
        })
    }
}

fn base_of(base: u32) -> NodeBase {
    match base {
        abi::EC2FLEET_NODE_DOWN => NodeBase::Down,
        abi::EC2FLEET_NODE_IDLE => NodeBase::Idle,
        abi::EC2FLEET_NODE_ALLOCATED => NodeBase::Allocated,
        abi::EC2FLEET_NODE_ERROR => NodeBase::Error,
        abi::EC2FLEET_NODE_MIXED => NodeBase::Mixed,
        abi::EC2FLEET_NODE_FUTURE => NodeBase::Future,
        _ => NodeBase::Unknown,
    }
}

fn flags_of(flags: u32) -> NodeFlags {
    const FLAGS: [(u32, NodeFlags); 17] = [
        (abi::EC2FLEET_NODE_CLOUD, NodeFlags::CLOUD),
        (abi::EC2FLEET_NODE_COMPLETING, NodeFlags::COMPLETING),
        (abi::EC2FLEET_NODE_DRAIN, NodeFlags::DRAIN),
        (abi::EC2FLEET_NODE_FAIL, NodeFlags::FAIL),
        (abi::EC2FLEET_NODE_NOT_RESPONDING, NodeFlags::NOT_RESPONDING),
        (abi::EC2FLEET_NODE_POWER_DOWN, NodeFlags::POWER_DOWN),
        (abi::EC2FLEET_NODE_POWERED_DOWN, NodeFlags::POWERED_DOWN),
        (abi::EC2FLEET_NODE_POWERING_DOWN, NodeFlags::POWERING_DOWN),
        (abi::EC2FLEET_NODE_POWER_UP, NodeFlags::POWER_UP),
        (abi::EC2FLEET_NODE_POWERING_UP, NodeFlags::POWERING_UP),
        (abi::EC2FLEET_NODE_MAINTENANCE, NodeFlags::MAINTENANCE),
        (abi::EC2FLEET_NODE_REBOOT_REQUESTED, NodeFlags::REBOOT_REQUESTED),
        (abi::EC2FLEET_NODE_REBOOT_ISSUED, NodeFlags::REBOOT_ISSUED),
        (abi::EC2FLEET_NODE_RESERVED, NodeFlags::RESERVED),
        (abi::EC2FLEET_NODE_PLANNED, NodeFlags::PLANNED),
        (abi::EC2FLEET_NODE_DYNAMIC, NodeFlags::DYNAMIC),
        (abi::EC2FLEET_NODE_INVALID_REG, NodeFlags::INVALID_REG),
    ];
    FLAGS
        .into_iter()
        .filter(|(raw, _)| flags & raw != 0)
        .fold(NodeFlags::default(), |known, (_, flag)| known.with(flag))
}

fn state_of(change: Option<NodeStateChange>) -> u32 {
    match change {
        None => abi::EC2FLEET_STATE_KEEP,
        Some(NodeStateChange::PowerUp) => abi::EC2FLEET_STATE_POWER_UP,
        Some(NodeStateChange::PowerDown) => abi::EC2FLEET_STATE_POWER_DOWN,
        Some(NodeStateChange::PowerDownForce) => abi::EC2FLEET_STATE_POWER_DOWN_FORCE,
        Some(NodeStateChange::Drain) => abi::EC2FLEET_STATE_DRAIN,
        Some(NodeStateChange::Undrain) => abi::EC2FLEET_STATE_UNDRAIN,
        Some(NodeStateChange::Resume) => abi::EC2FLEET_STATE_RESUME,
        Some(NodeStateChange::Down) => abi::EC2FLEET_STATE_DOWN,
    }
}

/// The strings of one `update_node`.
#[derive(Default)]
struct UpdateStrings {
    names: CString,
    addrs: Option<CString>,
    hostnames: Option<CString>,
    instance_ids: Option<CString>,
    instance_types: Option<CString>,
    reason: Option<CString>,
    state: u32,
    weight: Option<u32>,
}

/// A node update as the `update_node` calls that this slurmctld needs for it.
struct PreparedUpdate {
    what: String,
    calls: Vec<UpdateStrings>,
}

impl PreparedUpdate {
    fn new(update: &NodeUpdate, table: &Table) -> Result<Self, SlurmError> {
        let names = hostlist::fold_ordered(update.names.iter().map(String::as_str));
        let what = format!("an update of {names}");
        for (field, list) in [
            ("NodeAddr", &update.addrs),
            ("NodeHostname", &update.hostnames),
            ("InstanceId", &update.instance_ids),
            ("InstanceType", &update.instance_types),
        ] {
            if let Some(list) = list
                && list.len() != update.names.len()
            {
                return Err(SlurmError::Refused {
                    what,
                    errno: INVALID_NODE_NAME,
                    message: format!("{} {field} for {} nodes", list.len(), update.names.len()),
                });
            }
        }
        let list = |values: &Option<Vec<String>>| {
            values.as_ref().map(|values| c_string(&what, &joined(values))).transpose()
        };
        let mut calls = vec![UpdateStrings {
            names: c_string(&what, &names)?,
            addrs: list(&update.addrs)?,
            hostnames: list(&update.hostnames)?,
            reason: update.reason.as_ref().map(|reason| c_string(&what, reason)).transpose()?,
            state: state_of(update.state),
            weight: update.weight,
            ..UpdateStrings::default()
        }];

        if table.can(abi::EC2FLEET_CAN_INSTANCE_ID_LIST) {
            calls[0].instance_ids = list(&update.instance_ids)?;
            calls[0].instance_types = list(&update.instance_types)?;
        } else if table.can(abi::EC2FLEET_CAN_INSTANCE_ID) {
            for (instance, nodes) in nodes_by_instance(update) {
                let [id, kind] = instance.map(|value| value.map(|value| c_string(&what, value)).transpose());
                let (instance_ids, instance_types) = (id?, kind?);
                if nodes.len() == update.names.len() {
                    calls[0].instance_ids = instance_ids;
                    calls[0].instance_types = instance_types;
                } else if instance_ids.is_some() || instance_types.is_some() {
                    let names = c_string(&what, &hostlist::fold_ordered(nodes))?;
                    calls.push(UpdateStrings {
                        names,
                        instance_ids,
                        instance_types,
                        ..UpdateStrings::default()
                    });
                }
            }
        }
        Ok(Self { what, calls })
    }

    fn as_abi(&self) -> Vec<abi::ec2fleet_node_update> {
        let pointer =
            |string: &Option<CString>| string.as_ref().map_or(std::ptr::null(), |string| string.as_ptr());
        self.calls
            .iter()
            .map(|call| abi::ec2fleet_node_update {
                node_names: call.names.as_ptr(),
                node_addr: pointer(&call.addrs),
                node_hostname: pointer(&call.hostnames),
                instance_id: pointer(&call.instance_ids),
                instance_type: pointer(&call.instance_types),
                reason: pointer(&call.reason),
                state: call.state,
                weight: call.weight.unwrap_or(abi::EC2FLEET_WEIGHT_KEEP),
            })
            .collect()
    }
}

/// A list for slurmctld; the empty string, which clears the field of every node, if there is nothing in it.
fn joined(values: &[String]) -> String {
    if values.iter().all(String::is_empty) { String::new() } else { values.join(",") }
}

/// Instance id and type of each group of nodes that has both in common, in order of first use.
fn nodes_by_instance(update: &NodeUpdate) -> indexmap::IndexMap<[Option<&str>; 2], Vec<&str>> {
    let mut groups: indexmap::IndexMap<_, Vec<&str>> = indexmap::IndexMap::new();
    for (place, name) in update.names.iter().enumerate() {
        let instance = [&update.instance_ids, &update.instance_types]
            .map(|values| values.as_ref().map(|values| values[place].as_str()));
        groups.entry(instance).or_default().push(name);
    }
    groups
}

/// The names of a hostlist that slurmctld gave.
fn expand(what: &str, list: Option<&str>) -> Result<Vec<String>, SlurmError> {
    hostlist::expand(list.unwrap_or_default()).map_err(|error| SlurmError::Unreachable {
        what: what.to_owned(),
        message: format!("slurmctld gave the hostlist {list:?}: {error}"),
    })
}

fn c_string(what: &str, value: &str) -> Result<CString, SlurmError> {
    CString::new(value).map_err(|_| SlurmError::Unsupported {
        what: what.to_owned(),
        message: format!("{value:?} has a NUL character"),
    })
}

/// A copy of a C string; `None` for null. What is not UTF-8 is replaced.
///
/// # Safety
/// `string` is null or points to a NUL-terminated string.
unsafe fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: not null, so NUL-terminated by the caller's word.
    Some(unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
