// SPDX-License-Identifier: GPL-3.0-or-later
//! Prices for `cost` and `generate-conf`: what EC2 and the administrator's file say, kept for the next time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::context::Context;
use crate::error::{CliError, ErrorKind};
use crate::online::{self, Progress};
use crate::output::Output;
use crate::survey::ask;
use crate::when::{ago, now_unix_ms};
use ec2fleet_core::ec2_api::CloudError;
use ec2fleet_core::site::Account;
use ec2fleet_ec2::catalog::{Catalog, SpotPrice};
use ec2fleet_observe::prices::Prices;

/// On-demand prices beside config.json, used where `--prices` names no other file.
const PRICES_FILE: &str = "prices.json";

/// Instance types whose Spot prices are wanted.
pub type Wanted = BTreeMap<Account, BTreeSet<String>>;

/// What was learned before, with on-demand prices from `file`, and the Spot prices of now if EC2 shall be asked.
/// What EC2 does not tell becomes a note.
///
/// # Errors
/// When the file cannot be read, or there is no configuration to ask EC2 with.
pub fn learn(
    context: &Context,
    file: Option<&Path>,
    wanted: Option<Wanted>,
    out: &Output,
    notes: &mut Vec<String>,
) -> Result<Prices, CliError> {
    let dir = context.state_dir();
    let mut prices = Prices::load(&dir);
    let beside = context.config_dir.join(PRICES_FILE);
    if let Some(path) = file.or_else(|| beside.is_file().then_some(beside.as_path())) {
        prices.on_demand = read(path)?;
    }
    for (account, names) in wanted.unwrap_or_default() {
        match spot_prices(context, &account, names, out)? {
            Ok(answer) => {
                for price in answer {
                    prices.learn_spot(price.zone, price.instance_type, price.price);
                }
                prices.asked_unix_ms = now_unix_ms();
            }
            Err(error) => notes.push(format!(
                "EC2 did not tell the Spot prices of {account} ({error}); those that it told {} are used.",
                ago(now_unix_ms(), Some(prices.asked_unix_ms))
            )),
        }
    }
    // For `status` and for the next time; who may only look does without.
    let _ = prices.save(&dir);
    Ok(prices)
}

fn spot_prices(
    context: &Context,
    account: &Account,
    names: BTreeSet<String>,
    out: &Output,
) -> Result<Result<Vec<SpotPrice>, CloudError>, CliError> {
    let ec2 = online::ec2(context.require_config()?);
    let names: Vec<String> = names.into_iter().collect();
    let progress = Progress::new(out);
    progress.show(&format!("asking EC2 for the Spot prices of {} types in {account}", names.len()));
    let answer = online::block_on(ask(|| ec2.spot_prices(account.clone(), names.clone())));
    progress.clear();
    answer
}

fn read(path: &Path) -> Result<BTreeMap<String, f64>, CliError> {
    let failed = |error: String| {
        CliError::new(ErrorKind::Usage, format!("The prices in {} cannot be read.", path.display()))
            .cause(error)
            .hint("It is a JSON object of instance types and US dollars an hour: {\"c5.large\": 0.085}.")
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}
