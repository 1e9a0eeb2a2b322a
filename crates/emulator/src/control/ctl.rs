// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2-emulator ctl`: a running emulator from the command line.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Watch and steer a running emulator.
#[derive(Debug, Args)]
pub struct Ctl {
    /// Address of the emulator, such as http://127.0.0.1:4500; by default that in EC2_EMULATOR_URL.
    #[arg(long, default_value_t = default_endpoint())]
    endpoint: String,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

fn default_endpoint() -> String {
    std::env::var("EC2_EMULATOR_URL").unwrap_or_else(|_| "http://127.0.0.1:4500".to_owned())
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List instances.
    List {
        /// Only instances in this state, such as running.
        #[arg(long)]
        state: Option<String>,
    },
    /// Interrupt Spot instances as EC2 does when it needs their capacity.
    Interrupt {
        /// Instance ids; without any, --count running Spot instances at random.
        instances: Vec<String>,
        #[arg(long)]
        count: Option<usize>,
        /// Let stopped or hibernated instances come back after this many virtual seconds. Without it they wait for `resume`.
        #[arg(long, value_name = "SECONDS")]
        hold: Option<f64>,
    },
    /// Let interrupted instances come back as far as their pools have room.
    Resume {
        /// Instance ids; without any, all interrupted instances.
        instances: Vec<String>,
    },
    /// End instances as a host failure does.
    Fail { instances: Vec<String> },
    /// Send a rebalance recommendation.
    Rebalance { instances: Vec<String> },
    /// Make the status check of instances fail, or pass again.
    Impair {
        instances: Vec<String>,
        /// Pass again.
        #[arg(long)]
        ok: bool,
    },
    /// Set how many instances a pool can hold.
    Capacity {
        /// TYPE/ZONE/LIFECYCLE, such as c5.large/us-east-1a/spot; `*` matches any text.
        pool: String,
        count: u32,
    },
    /// Set the price of a pool, USD an hour.
    Price { pool: String, price: f64 },
    /// Show the pools in use.
    Pools,
    /// Take an Availability Zone away, or give it back.
    Zone {
        name: String,
        #[arg(value_parser = ["up", "down"])]
        state: String,
    },
    /// Count calls per action.
    Calls {
        /// Only calls after this mark.
        #[arg(long)]
        since: Option<u64>,
    },
    /// Print a mark for `calls --since` and `log --since`.
    Mark,
    /// Print the log of requests, one JSON object a line.
    Log {
        #[arg(long)]
        since: Option<u64>,
    },
    /// Make calls fail, slow or answerless.
    Fault {
        /// Action name, such as CreateFleet; `*` matches any text.
        action: String,
        /// Error code, such as RequestLimitExceeded.
        #[arg(long)]
        code: Option<String>,
        /// Part of the calls that are hit, 0 to 1.
        #[arg(long, default_value_t = 1.0)]
        rate: f64,
        /// Number of calls that are hit.
        #[arg(long)]
        count: Option<u32>,
        /// Answer later, virtual ms.
        #[arg(long, default_value_t = 0)]
        latency: i64,
        /// Do the action and close the connection without an answer.
        #[arg(long)]
        lost_reply: bool,
    },
    /// Remove the faults of an action.
    ClearFaults {
        #[arg(default_value = "*")]
        action: String,
    },
    /// Enforce EC2's token buckets, or not.
    Throttle {
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
    /// Deny an action (ec2:RunInstances), or allow it again.
    Deny {
        action: String,
        /// Allow it again.
        #[arg(long)]
        remove: bool,
    },
    /// Show virtual time, or change it.
    Time {
        /// Move forward by this many virtual seconds.
        #[arg(long, value_name = "SECONDS")]
        advance: Option<f64>,
        /// Virtual seconds per real second; 0 stops the clock.
        #[arg(long)]
        speed: Option<f64>,
    },
    /// Send a command of the scenario format as it is, such as '{"interrupt": {"count": 2}}'.
    Do { command: String },
}

impl Ctl {
    /// Runs the action; gives the text to print.
    ///
    /// # Errors
    /// What failed, for the user.
    pub fn run(self) -> Result<String, String> {
        let choice = |instances: &[String], name: &str| -> Result<Value, String> {
            if instances.is_empty() {
                return Err(format!("{name} needs instance ids; `ec2-emulator ctl list` shows them"));
            }
            Ok(json!({ "instances": instances }))
        };
        let pool = |pool: &str| -> Value {
            let rule = crate::control::scenario::PoolRule::for_pool(pool);
            json!({"type": rule.instance_type, "zone": rule.zone, "lifecycle": rule.lifecycle})
        };
        let since = |since: Option<u64>| since.map(|since| format!("?since={since}")).unwrap_or_default();
        let command = match &self.action {
            Action::List { state } => {
                let query = state.as_ref().map(|state| format!("?state={state}")).unwrap_or_default();
                let answer = self.get(&format!("instances{query}"))?;
                return Ok(self.show(&answer, |answer| table(answer["instances"].as_array())));
            }
            Action::Pools => {
                let answer = self.get("pools")?;
                return Ok(self.show(&answer, pools_table));
            }
            Action::Calls { since: mark } => {
                let answer = self.get(&format!("calls{}", since(*mark)))?;
                return Ok(self.show(&answer, calls_table));
            }
            Action::Mark => {
                let answer = self.get("mark")?;
                return Ok(self.show(&answer, |answer| format!("{}\n", answer["mark"])));
            }
            Action::Log { since: mark } => {
                let answer = self.get(&format!("log{}", since(*mark)))?;
                return Ok(self.show(&answer, |answer| {
                    let lines = answer["log"].as_array().into_iter().flatten();
                    lines.map(|line| format!("{line}\n")).collect()
                }));
            }
            Action::Time { advance, speed } => {
                let answer = if advance.is_none() && speed.is_none() {
                    self.get("time")?
                } else {
                    #[allow(clippy::cast_possible_truncation)]
                    let millis = advance.map(|seconds| (seconds * 1000.0) as i64);
                    self.post("time", &json!({"advance_ms": millis, "speed": speed}))?
                };
                return Ok(self.show(&answer, |answer| {
                    format!("{} (speed {})\n", answer["now"].as_str().unwrap_or_default(), answer["speed"])
                }));
            }
            Action::Interrupt { instances, count, hold } => {
                if instances.is_empty() && count.is_none() {
                    return Err("interrupt needs instance ids or --count".to_owned());
                }
                #[allow(clippy::cast_possible_truncation)]
                let hold = hold.map(|seconds| (seconds * 1000.0) as i64);
                json!({"interrupt": {"instances": instances, "count": count, "hold_ms": hold}})
            }
            Action::Resume { instances } => json!({"resume": {"instances": instances}}),
            Action::Fail { instances } => json!({"fail": choice(instances, "fail")?}),
            Action::Rebalance { instances } => json!({"rebalance": choice(instances, "rebalance")?}),
            Action::Impair { instances, ok } => {
                let mut impair = choice(instances, "impair")?;
                impair["impaired"] = json!(!ok);
                json!({ "impair": impair })
            }
            Action::Capacity { pool: name, count } => {
                let mut rule = pool(name);
                rule["capacity"] = json!(count);
                json!({ "pool": rule })
            }
            Action::Price { pool: name, price } => {
                let mut rule = pool(name);
                rule["price"] = json!(price);
                json!({ "pool": rule })
            }
            Action::Zone { name, state } => json!({"zone": {"name": name, "available": state == "up"}}),
            Action::Fault { action, code, rate, count, latency, lost_reply } => {
                if code.is_none() && *latency == 0 && !lost_reply {
                    return Err("a fault needs --code, --latency or --lost-reply".to_owned());
                }
                json!({"fault": {
                    "action": action,
                    "code": code,
                    "rate": rate,
                    "count": count,
                    "latency_ms": latency,
                    "lost_reply": lost_reply,
                }})
            }
            Action::ClearFaults { action } => json!({"clear_faults": {"action": action}}),
            Action::Throttle { state } => json!({"throttle": {"enabled": state == "on"}}),
            Action::Deny { action, remove } => json!({"deny": {"action": action, "denied": !remove}}),
            Action::Do { command } => {
                serde_json::from_str(command).map_err(|error| format!("not a command: {error}"))?
            }
        };
        let answer = self.post("command", &command)?;
        Ok(self.show(&answer, |answer| match answer["instances"].as_array() {
            Some(ids) => ids.iter().map(|id| format!("{}\n", id.as_str().unwrap_or_default())).collect(),
            None => format!("{answer}\n"),
        }))
    }

    fn show(&self, answer: &Value, text: impl Fn(&Value) -> String) -> String {
        if self.json { format!("{answer}\n") } else { text(answer) }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/_control/{path}", self.endpoint.trim_end_matches('/'))
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        self.read(agent().get(self.url(path)).call())
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.read(agent().post(self.url(path)).send(body.to_string()))
    }

    fn read(&self, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, String> {
        let mut response = response.map_err(|error| {
            format!("no answer from {}: {error}; is the emulator running there?", self.endpoint)
        })?;
        let status = response.status();
        let mut text = String::new();
        let mut reader = response.body_mut().with_config().limit(1 << 30).reader();
        std::io::Read::read_to_string(&mut reader, &mut text).map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| format!("{} does not answer as an emulator does: {error}", self.endpoint))?;
        if status.is_success() {
            Ok(value)
        } else {
            Err(value["error"].as_str().unwrap_or("the emulator refused").to_owned())
        }
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|at| {
            rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn table(instances: Option<&Vec<Value>>) -> String {
    let heads = ["INSTANCE", "STATE", "TYPE", "ZONE", "ADDRESS", "LIFECYCLE", "NAME"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for instance in instances.into_iter().flatten() {
        let text = |name: &str| instance[name].as_str().unwrap_or_default().to_owned();
        let mut state = text("state");
        if instance["hibernated"] == true {
            state.push_str(" (hibernated)");
        }
        rows.push(vec![
            text("instance_id"),
            state,
            text("instance_type"),
            text("zone"),
            text("private_ip"),
            text("lifecycle"),
            instance["tags"]["Name"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    columns(&rows)
}

fn pools_table(answer: &Value) -> String {
    let mut rows = vec![["POOL", "CAPACITY", "USED", "PRICE"].map(str::to_owned).to_vec()];
    for pool in answer["pools"].as_array().into_iter().flatten() {
        let capacity =
            pool["capacity"].as_u64().map_or_else(|| "unlimited".to_owned(), |count| count.to_string());
        rows.push(vec![
            pool["pool"].as_str().unwrap_or_default().to_owned(),
            capacity,
            pool["used"].to_string(),
            format!("{:.4}", pool["price"].as_f64().unwrap_or_default()),
        ]);
    }
    columns(&rows)
}

fn calls_table(answer: &Value) -> String {
    let mut rows = Vec::new();
    for (action, count) in answer["calls"].as_object().into_iter().flatten() {
        rows.push(vec![action.clone(), count.to_string()]);
    }
    rows.push(vec!["total".to_owned(), answer["total"].to_string()]);
    columns(&rows)
}
