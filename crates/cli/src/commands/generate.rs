// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet generate-conf`: slurm.conf.aws and gres.conf.aws from config.json and partitions.json.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::diff;
use crate::error::{CliError, ErrorKind, Exit};
use crate::output::{Output, Style};
use crate::prices::{self, Wanted};
use crate::survey::Survey;
use ec2fleet_config::{Loaded, SlurmFacts};
use ec2fleet_core::report::SCHEMA_VERSION;
use ec2fleet_core::site::{Lifecycle, NodeGroup};
use ec2fleet_ec2::catalog::InstanceType;
use ec2fleet_observe::prices::Prices;

pub const SLURM_FILE: &str = "slurm.conf.aws";
pub const GRES_FILE: &str = "gres.conf.aws";

/// The share of a type's memory that jobs may have: the kernel, slurmd and what EC2 itself reserves take the rest.
/// slurmd refuses to serve a node whose memory is less than its RealMemory.
const MEMORY_SHARE: f64 = 0.95;
/// Slurm's weights are whole numbers: this many for a US dollar an hour.
const WEIGHT_PER_USD: f64 = 10_000.0;
/// At least this much is kept back, MiB; a small instance misses more than a twentieth.
const MEMORY_RESERVE_MIB: u64 = 256;

/// Parameters without which the cluster does not do what partitions.json says, for a slurm.conf that says nothing of
/// them. Programs come with their folder.
const ESSENTIAL: [(&str, &str); 10] = [
    ("PrivateData", "CLOUD"),
    ("JobSubmitPlugins", "ec2_fleet"),
    ("ReturnToService", "2"),
    ("ResumeTimeout", "600"),
    ("SuspendTimeout", "120"),
    ("SuspendTime", "900"),
    ("ResumeRate", "0"),
    ("SuspendRate", "0"),
    ("TreeWidth", "65533"),
    ("CommunicationParameters", "NoAddrCache"),
];

const PROGRAMS: [(&str, &str); 3] = [
    ("ResumeProgram", "ec2fleet-resume"),
    ("SuspendProgram", "ec2fleet-suspend"),
    ("ResumeFailProgram", "ec2fleet-resume-fail"),
];

/// The two files, and what the administrator should know about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Generated {
    pub schema: u32,
    pub slurm_conf: String,
    /// Empty if no group has GPUs or other devices.
    pub gres_conf: String,
    pub warnings: Vec<String>,
}

/// # Errors
/// When the configuration has errors, EC2 does not answer, or a file cannot be written.
pub fn run(context: &Context, args: &args::GenerateConf, out: &mut Output) -> Result<Exit, CliError> {
    let loaded = context.require_config()?;
    let survey = match args.online {
        true => Some(crate::online::survey(context, loaded, out)?),
        false => None,
    };
    let programs = std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_else(|| "/usr/local/bin".into());
    let mut notes = Vec::new();
    let prices = match args.weight_by_price {
        true => Some(prices(context, loaded, args, survey.as_ref(), out, &mut notes)?),
        false => None,
    };
    let mut generated = generate(loaded, &context.facts, survey.as_ref(), prices.as_ref(), &programs);
    generated.warnings.extend(notes);
    let dir = args.output.clone();
    let installed = dir.clone().unwrap_or_else(|| installed_dir(context));
    if args.diff || args.check {
        return compare(&generated, &installed, args, out);
    }
    if let Some(dir) = dir {
        for (name, text) in [(SLURM_FILE, &generated.slurm_conf), (GRES_FILE, &generated.gres_conf)] {
            if !text.is_empty() {
                write_whole(&dir.join(name), text)?;
            }
        }
        if out.json {
            out.json(&generated)?;
        } else {
            out.line(format!("{} is written.", dir.join(SLURM_FILE).display()))?;
            out.line(format!("slurm.conf needs the line: include {}", dir.join(SLURM_FILE).display()))?;
            if !generated.gres_conf.is_empty() {
                out.line(format!("gres.conf needs the line: include {}", dir.join(GRES_FILE).display()))?;
            }
        }
    } else if out.json {
        out.json(&generated)?;
    } else {
        out.text(if args.gres { &generated.gres_conf } else { &generated.slurm_conf })?;
    }
    warn(&generated);
    Ok(Exit::Success)
}

fn prices(
    context: &Context,
    loaded: &Loaded,
    args: &args::GenerateConf,
    survey: Option<&Survey>,
    out: &Output,
    notes: &mut Vec<String>,
) -> Result<Prices, CliError> {
    let mut wanted = Wanted::new();
    for group in loaded.site.groups().iter().filter(|group| group.lifecycle == Lifecycle::Spot) {
        wanted.entry(group.account.clone()).or_default().extend(type_names(group, survey));
    }
    prices::learn(context, args.prices.as_deref(), args.online.then_some(wanted), out, notes)
}

/// The types that the group may launch, as far as they are known.
fn type_names(group: &NodeGroup, survey: Option<&Survey>) -> Vec<String> {
    match survey.and_then(|survey| survey.get(&group.stem())).map(|survey| &survey.types) {
        Some(Ok(types)) => types.iter().map(|t| t.name.clone()).collect(),
        _ => group.overrides.iter().filter_map(|choice| choice.instance_type.clone()).collect(),
    }
}

/// The price of the cheapest pool, in hundredths of a cent an hour: Slurm takes nodes of the lowest weight first.
fn weight(group: &NodeGroup, survey: Option<&Survey>, prices: &Prices) -> Option<u32> {
    let subnets = survey.and_then(|s| s.get(&group.stem())).and_then(|s| s.subnets.as_ref().ok());
    let is_used = |zone: &str| match subnets {
        Some(subnets) => subnets.iter().any(|subnet| subnet.zone == zone),
        None => zone.starts_with(&group.account.region),
    };
    let names = type_names(group, survey);
    let found: Vec<f64> = match group.lifecycle {
        Lifecycle::OnDemand => names.iter().filter_map(|name| prices.on_demand(name)).collect(),
        Lifecycle::Spot => {
            let zones = prices.spot.iter().filter(|(zone, _)| is_used(zone)).map(|(_, by_type)| by_type);
            zones.flat_map(|by_type| names.iter().filter_map(|name| by_type.get(name).copied())).collect()
        }
    };
    let usd = found.into_iter().filter(|usd| usd.is_finite() && *usd > 0.0).min_by(f64::total_cmp)?;
    // A float to integer cast saturates; the two largest numbers are not weights to Slurm.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(((usd * WEIGHT_PER_USD).round() as u32).clamp(1, u32::MAX - 2))
}

fn warn(generated: &Generated) {
    for warning in &generated.warnings {
        eprintln!("warning: {warning}");
    }
}

/// Where the files are that Slurm reads now: next to the configuration, or next to slurm.conf.
fn installed_dir(context: &Context) -> PathBuf {
    let of_slurm = context.slurm_conf.as_deref().and_then(Path::parent).map(Path::to_owned);
    [Some(context.config_dir.clone()), of_slurm]
        .into_iter()
        .flatten()
        .find(|dir| dir.join(SLURM_FILE).is_file())
        .unwrap_or_else(|| context.config_dir.clone())
}

/// How an installed file differs from what would be written.
#[derive(Serialize, JsonSchema)]
struct Difference {
    file: String,
    same: bool,
    /// A unified diff; empty if they are the same.
    diff: String,
}

/// What `--diff` and `--check` print with `--json`.
#[derive(Serialize, JsonSchema)]
pub struct DifferenceReport {
    schema: u32,
    same: bool,
    files: Vec<Difference>,
    warnings: Vec<String>,
}

fn compare(
    generated: &Generated,
    dir: &Path,
    args: &args::GenerateConf,
    out: &mut Output,
) -> Result<Exit, CliError> {
    let mut differences = Vec::new();
    for (name, text) in [(SLURM_FILE, &generated.slurm_conf), (GRES_FILE, &generated.gres_conf)] {
        let path = dir.join(name);
        let installed = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(CliError::new(ErrorKind::Failed, format!("{} cannot be read.", path.display()))
                    .cause(error));
            }
        };
        let diff = diff::unified(&path.display().to_string(), "generated", &installed, text);
        differences.push(Difference { file: path.display().to_string(), same: diff.is_empty(), diff });
    }
    let same = differences.iter().all(|difference| difference.same);
    if out.json {
        let warnings = generated.warnings.clone();
        out.json(&DifferenceReport { schema: SCHEMA_VERSION, same, files: differences, warnings })?;
    } else {
        for difference in differences.iter().filter(|difference| !difference.same) {
            if !args.diff {
                out.line(format!("{} is not up to date.", difference.file))?;
                continue;
            }
            for line in difference.diff.lines() {
                let style = match line.as_bytes().first() {
                    Some(b'+') => Style::Good,
                    Some(b'-') => Style::Bad,
                    _ => Style::Plain,
                };
                out.styled(style, line)?;
            }
        }
        if !same && !args.diff {
            out.line("--diff shows how it differs; without --check and with --output DIR it is written.")?;
        }
        if same {
            out.line(format!("{} is up to date.", dir.join(SLURM_FILE).display()))?;
        }
        warn(generated);
    }
    Ok(if args.check && !same { Exit::Errors } else { Exit::Success })
}

/// Written beside and renamed: slurmctld must never read half a file.
fn write_whole(path: &Path, text: &str) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| {
        CliError::new(ErrorKind::Failed, format!("{} cannot be written.", path.display()))
            .cause(error.to_string())
    };
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".ec2fleet-").tempfile_in(dir).map_err(|e| failed(&e))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| failed(&e))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(|e| failed(&e))?;
    file.as_file().sync_all().map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e))?;
    Ok(())
}

/// Both files. With a `survey`, what SlurmSpecifications does not say is filled in from the instance types; with `prices`, node
/// groups without Weight get one.
#[must_use]
pub fn generate(
    loaded: &Loaded,
    slurm: &SlurmFacts,
    survey: Option<&Survey>,
    prices: Option<&Prices>,
    programs: &Path,
) -> Generated {
    let mut warnings = Vec::new();
    let mut conf = String::from(
        "# Made by `ec2fleet generate-conf` from config.json and partitions.json; change those and make it again.\n",
    );
    let site = &loaded.site;
    let mut gres_types: Vec<String> = Vec::new();
    let mut gres_conf = String::new();
    let mut node_lines = String::new();
    for group in site.groups() {
        let nodes = hostlist_of(group);
        let mut options = group.slurm_specifications.clone();
        let types = survey.and_then(|survey| survey.get(&group.stem())).map(|survey| &survey.types);
        match types {
            Some(Ok(types)) if !types.is_empty() => {
                let device = fill_in(group, types, survey, &mut options, &mut warnings);
                if let Some(device) = device {
                    let _ = writeln!(gres_conf, "NodeName={nodes} {}", device.gres_line());
                    if !gres_types.contains(&device.name) {
                        gres_types.push(device.name);
                    }
                }
            }
            Some(Ok(_)) => warnings.push(format!("{}: EC2 knows none of its instance types.", group.stem())),
            Some(Err(error)) => {
                warnings.push(format!("{}: its instance types are not known: {error}", group.stem()))
            }
            None if lookup(&options, "CPUs").is_none() && lookup(&options, "Sockets").is_none() => {
                warnings.push(format!(
                    "{}: SlurmSpecifications does not say CPUs, and Slurm then takes 1; --online asks EC2.",
                    group.stem()
                ));
            }
            None => {}
        }
        features(group, types.and_then(|types| types.as_ref().ok()), survey, &mut options);
        if let Some(weights) = group.node_weights.filter(|_| lookup(&options, "Weight").is_none()) {
            // What nodes without an instance have: after a reconfiguration nearly all are right.
            options.insert("Weight".into(), weights.of(group.lifecycle).to_string());
        }
        if let Some(prices) = prices.filter(|_| lookup(&options, "Weight").is_none()) {
            match weight(group, survey, prices) {
                Some(weight) => {
                    options.insert("Weight".into(), weight.to_string());
                }
                None => warnings.push(format!(
                    "{}: the price of its instance types is not known, so it gets no Weight. Write Weight in \
                     SlurmSpecifications, or name the price: Spot prices are asked with --online, on-demand prices are in \
                     prices.json beside config.json.",
                    group.stem()
                )),
            }
        }
        for name in gres_names(&options) {
            if !gres_types.contains(&name) {
                gres_types.push(name);
            }
        }
        if lookup(&options, "State").is_none() {
            let _ = write!(node_lines, "NodeName={nodes} State=CLOUD");
        } else {
            let _ = write!(node_lines, "NodeName={nodes}");
        }
        write_options(&mut node_lines, &options);
    }
    if !gres_conf.is_empty() {
        gres_conf.insert_str(0, "# Made by `ec2fleet generate-conf`, with slurm.conf.aws.\n");
    }
    parameters(loaded, slurm, programs, &gres_types, &mut conf);
    conf.push('\n');
    conf.push_str(&node_lines);
    conf.push('\n');
    for partition in &site.partitions {
        let nodes: Vec<String> = partition
            .groups
            .iter()
            .filter_map(|name| site.group(&format!("{}-{name}", partition.name)))
            .map(|group| hostlist_of(group))
            .collect();
        let _ = write!(conf, "PartitionName={} Nodes={}", partition.name, nodes.join(","));
        if lookup(&partition.options, "State").is_none() {
            conf.push_str(" State=UP");
        }
        if lookup(&partition.options, "MaxTime").is_none() {
            conf.push_str(" MaxTime=INFINITE");
        }
        write_options(&mut conf, &partition.options);
    }
    Generated { schema: SCHEMA_VERSION, slurm_conf: conf, gres_conf, warnings }
}

fn hostlist_of(group: &NodeGroup) -> String {
    match group.max_nodes {
        1 => group.node_name(0),
        count => format!("{}-[0-{}]", group.stem(), count - 1),
    }
}

fn lookup<'a>(options: &'a IndexMap<String, String>, key: &str) -> Option<&'a str> {
    options.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
}

fn write_options(line: &mut String, options: &IndexMap<String, String>) {
    for (key, value) in options {
        let _ = write!(line, " {key}={}", quoted(value));
    }
    line.push('\n');
}

/// A value as slurm.conf takes it: `#` and `\` escaped, and quotes around white space.
fn quoted(value: &str) -> String {
    let whole = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
    let escaped = value.replace('\\', "\\\\").replace('#', "\\#");
    if value.contains(char::is_whitespace) && !whole { format!("\"{escaped}\"") } else { escaped }
}

fn parameters(
    loaded: &Loaded,
    slurm: &SlurmFacts,
    programs: &Path,
    gres_types: &[String],
    conf: &mut String,
) {
    let configured = &loaded.program.slurm_conf;
    for (key, value) in configured {
        let _ = writeln!(conf, "{key}={}", quoted(value));
    }
    // What this very file said the last time is no reason to leave it out now.
    let elsewhere = |key: &str| {
        slurm
            .setting(key)
            .is_some_and(|setting| setting.file.file_name().is_none_or(|name| name != SLURM_FILE))
    };
    let mut added = String::new();
    for (key, program) in PROGRAMS {
        if lookup(configured, key).is_none() && !elsewhere(key) {
            let _ = writeln!(added, "{key}={}", programs.join(program).display());
        }
    }
    for (key, value) in ESSENTIAL {
        if lookup(configured, key).is_none() && !elsewhere(key) {
            let _ = writeln!(added, "{key}={value}");
        }
    }
    if !gres_types.is_empty() && lookup(configured, "GresTypes").is_none() && !elsewhere("GresTypes") {
        let _ = writeln!(added, "GresTypes={}", gres_types.join(","));
    }
    if !added.is_empty() {
        conf.push_str("# Neither slurm.conf nor SlurmConf in config.json says these:\n");
        conf.push_str(&added);
    }
}

/// A kind of device that all types of a group have.
struct Device {
    /// `gpu` or `neuron`.
    name: String,
    /// Slurm's word for the model, if all types have the same.
    model: Option<String>,
    count: u32,
}

impl Device {
    fn gres(&self) -> String {
        match &self.model {
            Some(model) => format!("{}:{model}:{}", self.name, self.count),
            None => format!("{}:{}", self.name, self.count),
        }
    }

    fn gres_line(&self) -> String {
        let device = if self.name == "gpu" { "/dev/nvidia" } else { "/dev/neuron" };
        let files =
            if self.count == 1 { format!("{device}0") } else { format!("{device}[0-{}]", self.count - 1) };
        match &self.model {
            Some(model) => format!("Name={} Type={model} File={files}", self.name),
            None => format!("Name={} File={files}", self.name),
        }
    }
}

/// CPUs, cores, threads, memory and devices as the least over the group's types.
fn fill_in(
    group: &NodeGroup,
    types: &[InstanceType],
    survey: Option<&Survey>,
    options: &mut IndexMap<String, String>,
    warnings: &mut Vec<String>,
) -> Option<Device> {
    let stem = group.stem();
    let template =
        survey.and_then(|survey| survey.get(&stem)).and_then(|survey| survey.template.as_ref().ok());
    let least = |of: fn(&InstanceType) -> u64| types.iter().map(of).min().unwrap_or(0);
    let most = |of: fn(&InstanceType) -> u64| types.iter().map(of).max().unwrap_or(0);
    let topology = ["CPUs", "Boards", "Sockets", "SocketsPerBoard", "CoresPerSocket", "ThreadsPerCore"];
    if topology.iter().all(|key| lookup(options, key).is_none()) {
        // CpuOptions of the launch template turn cores or threads off.
        let threads =
            |t: &InstanceType| template.and_then(|l| l.threads_per_core).unwrap_or(t.threads_per_core).max(1);
        let cores = |t: &InstanceType| template.and_then(|l| l.cores).unwrap_or(t.cores).max(1);
        let cpus = types.iter().map(|t| cores(t) * threads(t)).min().unwrap_or(1);
        options.insert("CPUs".into(), cpus.to_string());
        let first = types.first().map(threads);
        if types.iter().all(|t| Some(threads(t)) == first) {
            // EC2 does not tell sockets. slurmd compares the product alone, and one socket gives the least surprise.
            options.insert("Sockets".into(), "1".into());
            options.insert("CoresPerSocket".into(), types.iter().map(cores).min().unwrap_or(1).to_string());
            options.insert("ThreadsPerCore".into(), first.unwrap_or(1).to_string());
        }
        let (low, high) = (least(|t| t.vcpus.into()), most(|t| t.vcpus.into()));
        if high >= 2 * low.max(1) {
            warnings.push(format!(
                "{stem}: its types have {low} to {high} vCPUs, and Slurm counts on {low}; the rest of the larger ones is paid \
                 for and not used. Split the group."
            ));
        }
    }
    if lookup(options, "RealMemory").is_none() {
        let low = least(|t| t.memory_mib);
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let share = (low as f64 * MEMORY_SHARE) as u64;
        let memory = share.min(low.saturating_sub(MEMORY_RESERVE_MIB)).max(1);
        options.insert("RealMemory".into(), memory.to_string());
        let high = most(|t| t.memory_mib);
        if high >= 2 * low.max(1) {
            warnings.push(format!(
                "{stem}: its types have {} to {} GiB of memory, and Slurm counts on the least. Split the group.",
                low / 1024,
                high / 1024
            ));
        }
    }
    if lookup(options, "Gres").is_some() {
        return None;
    }
    let device = device(&stem, types, warnings)?;
    options.insert("Gres".into(), device.gres());
    Some(device)
}

fn device(stem: &str, types: &[InstanceType], warnings: &mut Vec<String>) -> Option<Device> {
    for (name, of) in [
        ("gpu", (|t| &t.gpus) as fn(&InstanceType) -> &Vec<ec2fleet_ec2::catalog::Accelerator>),
        ("neuron", |t| &t.neuron_devices),
    ] {
        let counts: Vec<u32> = types.iter().map(|t| of(t).iter().map(|a| a.count).sum()).collect();
        let least = counts.iter().copied().min().unwrap_or(0);
        let most = counts.iter().copied().max().unwrap_or(0);
        if most == 0 {
            continue;
        }
        if least == 0 {
            warnings.push(format!("{stem}: only some of its types have a {name}, so Slurm is told of none."));
            continue;
        }
        if most > least {
            warnings.push(format!(
                "{stem}: its types have {least} to {most} of {name}, and Slurm counts on {least}."
            ));
        }
        let mut models: Vec<String> =
            types.iter().flat_map(of).map(|accelerator| slurm_word(&accelerator.name)).collect();
        models.sort();
        models.dedup();
        let model = (models.len() == 1).then(|| models.remove(0)).filter(|model| !model.is_empty());
        return Some(Device { name: name.into(), model, count: least });
    }
    None
}

/// Letters, digits, `_`, `-` and `.`, in lower case, as gres.conf takes them.
fn slurm_word(text: &str) -> String {
    let word: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c.to_ascii_lowercase() } else { '_' })
        .collect();
    word.trim_matches('_').to_owned()
}

fn gres_names(options: &IndexMap<String, String>) -> Vec<String> {
    lookup(options, "Gres")
        .into_iter()
        .flat_map(|list| list.split(','))
        .filter_map(|item| item.split(':').next())
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

/// What is true of every node that the group may launch, so that a job may ask for it.
fn features(
    group: &NodeGroup,
    types: Option<&Vec<InstanceType>>,
    survey: Option<&Survey>,
    options: &mut IndexMap<String, String>,
) {
    if lookup(options, "Features").is_some() || lookup(options, "Feature").is_some() {
        return;
    }
    let mut features = vec![group.lifecycle.as_str().to_owned()];
    let names: Option<Vec<String>> = match types {
        Some(types) => Some(types.iter().map(|t| t.name.clone()).collect()),
        None => group.overrides.iter().map(|choice| choice.instance_type.clone()).collect(),
    };
    let only = |mut values: Vec<String>| {
        values.sort();
        values.dedup();
        (values.len() == 1).then(|| values.remove(0))
    };
    if let Some(names) = names {
        let families =
            names.iter().filter_map(|name| name.split('.').next()).map(ToOwned::to_owned).collect();
        features.extend(only(families));
        features.extend(only(names));
    }
    if let Some(types) = types {
        features.extend(only(types.iter().flat_map(|t| t.architectures.clone()).collect()));
    }
    let subnets = survey.and_then(|survey| survey.get(&group.stem())).map(|survey| &survey.subnets);
    if let Some(Ok(subnets)) = subnets {
        features.extend(only(subnets.iter().map(|subnet| subnet.zone.clone()).collect()));
    }
    options.insert("Features".into(), features.join(","));
}
