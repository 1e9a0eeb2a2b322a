// SPDX-License-Identifier: GPL-3.0-or-later
//! The control endpoint: JSON under `/_control/`.

use axum::body::Body;
use axum::http::{Method, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::command::Command;
use crate::server::{Shared, respond};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeChange {
    #[serde(default)]
    advance_ms: Option<i64>,
    #[serde(default)]
    speed: Option<f64>,
}

pub(crate) fn serve(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Response<Body> {
    let (status, value) = match answer(shared, method, path, query, body) {
        Ok(value) => (200, value),
        Err((status, message)) => (status, json!({"error": message})),
    };
    let mut text = value.to_string();
    text.push('\n');
    respond(status, "application/json", text)
}

fn answer(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<Value, (u16, String)> {
    let parameter = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.into_owned())
    };
    let since = || -> Result<u64, (u16, String)> {
        parameter("since")
            .map_or(Ok(0), |text| text.parse().map_err(|_| (400, format!("since={text:?} is not a mark"))))
    };
    let post = *method == Method::POST;
    let get = *method == Method::GET;
    match path.trim_end_matches('/') {
        "instances" if get => {
            let state = parameter("state");
            let mut instances = shared.with(|world| world.instances());
            instances.retain(|instance| state.as_deref().is_none_or(|state| instance["state"] == state));
            Ok(json!({"instances": instances}))
        }
        "calls" if get => {
            let since = since()?;
            let (calls, mark) = shared.with(|world| (world.calls(since), world.mark()));
            let total: u64 = calls.values().sum();
            Ok(json!({"since": since, "mark": mark, "total": total, "calls": calls}))
        }
        "log" if get => {
            let since = since()?;
            let limit = parameter("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
            let log: Vec<Value> = shared.with(|world| {
                world
                    .log(since)
                    .take(limit)
                    .map(|entry| serde_json::to_value(entry).unwrap_or_default())
                    .collect()
            });
            Ok(json!({"log": log}))
        }
        "mark" if get || post => Ok(json!({"mark": shared.with(|world| world.mark())})),
        "pools" if get => Ok(json!({"pools": shared.with(|world| world.pools())})),
        "signals" if get => Ok(json!({"signals": shared.signals()})),
        "scenario" if get => {
            let scenario = shared.with(|world| world.scenario().clone());
            serde_json::to_value(scenario).map_err(|error| (500, error.to_string()))
        }
        "time" if get => Ok(time(shared)),
        "time" if post => {
            let change: TimeChange =
                serde_json::from_slice(body).map_err(|error| (400, error.to_string()))?;
            if let Some(speed) = change.speed {
                if !(speed.is_finite() && speed >= 0.0) {
                    return Err((400, format!("speed {speed} is not 0 or more")));
                }
                shared.set_speed(speed);
            }
            if let Some(millis) = change.advance_ms {
                shared.advance(millis);
            }
            Ok(time(shared))
        }
        "command" if post => {
            let command: Command = serde_json::from_slice(body).map_err(|error| (400, error.to_string()))?;
            shared.with(|world| world.command(command)).map_err(|message| (400, message))
        }
        other => Err((
            404,
            format!(
                "no {method} {other:?} here; GET instances, calls, log, mark, pools, signals, scenario, time; POST command, mark, time"
            ),
        )),
    }
}

fn time(shared: &Shared) -> Value {
    let (now, speed) = shared.clock();
    json!({"now_ms": now, "now": crate::model::time::iso(now), "speed": speed})
}
