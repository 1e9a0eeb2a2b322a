// SPDX-License-Identifier: GPL-3.0-or-later
//! What was measured.

use std::fmt::Write as _;

use serde_json::{Value, json};

#[derive(Default)]
pub struct Numbers {
    rows: Vec<(String, f64, &'static str, Option<String>)>,
}

impl Numbers {
    pub fn put(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.add(what.into(), value, unit, None);
    }

    /// A number that has a goal, in words such as `<= 150`.
    pub fn goal(&mut self, what: impl Into<String>, value: f64, unit: &'static str, goal: &str) {
        self.add(what.into(), value, unit, Some(goal.to_owned()));
    }

    fn add(&mut self, what: String, value: f64, unit: &'static str, goal: Option<String>) {
        eprintln!("{what}: {value:.3} {unit}");
        self.rows.push((what, value, unit, goal));
    }

    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|(what, ..)| what.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (what, value, unit, goal) in &self.rows {
            let digits = if value.fract() == 0.0 { 0 } else { 3 };
            let goal = goal.as_ref().map_or(String::new(), |goal| format!("   goal {goal}"));
            let _ = writeln!(text, "{what:width$}  {value:>12.digits$} {unit}{goal}");
        }
        text
    }

    pub fn json(&self) -> Value {
        self.rows
            .iter()
            .map(
                |(what, value, unit, goal)| json!({"what": what, "value": value, "unit": unit, "goal": goal}),
            )
            .collect()
    }
}

/// The value below which `part` of the samples are.
pub fn percentile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * part).ceil() as usize;
    samples.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
