// SPDX-License-Identifier: GPL-3.0-or-later
//! Ten thousand instances: created, described, tagged, terminated. Figures are printed, not judged.
//!
//!     cargo test --test emulator figures -- --nocapture

use std::time::{Duration, Instant};

use ec2fleet_emulator::{Emulator, Options, Request, Scenario};

use crate::account::{Account, texts};

/// Time that this thread has run on a processor: other load on the machine does not count.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default();
    Duration::from_nanos(nanos)
}

/// The same page as a client sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_over_http() {
    let scenario = Scenario { speed: 0.0, ..Scenario::default() };
    let emulator = Emulator::start(Options { scenario, ..Options::default() }).await.unwrap();
    for _ in 0..10 {
        emulator.with_world(|world| {
            let run = [
                ("Action", "RunInstances"),
                ("ImageId", "ami-12345678"),
                ("InstanceType", "c5.large"),
                ("MinCount", "1000"),
                ("MaxCount", "1000"),
            ];
            let parameters = run.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let now = world.now();
            assert_eq!(world.handle(&Request { parameters, ..Request::default() }, now).status, 200);
        });
    }
    let url = emulator.url();
    let (elapsed, body) = tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::new_with_defaults();
        let mut best = Duration::MAX;
        let mut text = String::new();
        for _ in 0..5 {
            let start = Instant::now();
            let mut answer = agent.post(&url).send("Action=DescribeInstances&MaxResults=1000").unwrap();
            text = answer.body_mut().with_config().limit(1 << 30).read_to_string().unwrap();
            best = best.min(start.elapsed());
        }
        (best, text)
    })
    .await
    .unwrap();
    println!(
        "a page of 1000 of 10,000 over HTTP: {elapsed:?} (best of 5, goal 50 ms), {} KiB",
        body.len() / 1024
    );
    assert_eq!(texts(&body, "instanceState").len(), 1000);
    emulator.shutdown().await;
}

#[test]
fn ten_thousand_instances() {
    const TOTAL: usize = 10_000;
    let mut account = Account::with("{}");
    let template = account.template(&[
        ("LaunchTemplateData.TagSpecification.1.ResourceType", "instance"),
        ("LaunchTemplateData.TagSpecification.1.Tag.1.Key", "cluster"),
        ("LaunchTemplateData.TagSpecification.1.Tag.1.Value", "figures"),
    ]);
    let start = Instant::now();
    for _ in 0..TOTAL / 1000 {
        account.fleet("instant", &template, &["subnet-aaaa", "subnet-bbbb"], 1000, &[]);
    }
    println!("create {TOTAL} instances in 10 fleets: {:?}", start.elapsed());
    let start = Instant::now();
    account.pass(10);
    println!("boot them: {:?}", start.elapsed());

    let mut ids: Vec<String> = Vec::new();
    let mut slowest = Duration::ZERO;
    let mut slowest_work = Duration::ZERO;
    let mut bytes = 0;
    let mut token = String::new();
    let start = Instant::now();
    let mut pages = 0;
    loop {
        let mut parameters = vec![
            ("MaxResults", "1000"),
            ("Filter.1.Name", "tag:cluster"),
            ("Filter.1.Value.1", "figures"),
            ("Filter.2.Name", "instance-state-name"),
            ("Filter.2.Value.1", "running"),
        ];
        if !token.is_empty() {
            parameters.push(("NextToken", &token));
        }
        let page = Instant::now();
        let before = on_processor();
        let body = account.ok("DescribeInstances", &parameters);
        slowest = slowest.max(page.elapsed());
        slowest_work = slowest_work.max(on_processor() - before);
        bytes += body.len();
        pages += 1;
        ids.extend(texts(&body, "instanceId"));
        match texts(&body, "nextToken").pop() {
            Some(next) => token = next,
            None => break,
        }
    }
    println!(
        "describe them in {pages} pages of 1000: {:?}, slowest page {slowest:?}, of it {slowest_work:?} on the processor (goal 50 ms), {} MiB",
        start.elapsed(),
        bytes / (1 << 20)
    );
    assert_eq!(ids.len(), TOTAL);
    assert_eq!(pages, 10);

    for (action, last) in [("CreateTags", "ResourceId"), ("TerminateInstances", "InstanceId")] {
        let start = Instant::now();
        for part in ids.chunks(1000) {
            let names: Vec<String> = (1..=part.len()).map(|at| format!("{last}.{at}")).collect();
            let mut parameters: Vec<(&str, &str)> =
                names.iter().map(String::as_str).zip(part.iter().map(String::as_str)).collect();
            if action == "CreateTags" {
                parameters.extend([("Tag.1.Key", "Name"), ("Tag.1.Value", "node")]);
            }
            account.ok(action, &parameters);
        }
        println!("{action} for all, 1000 a call: {:?}", start.elapsed());
    }
    account.pass(10);
    assert_eq!(account.count("terminated"), TOTAL);
    account.pass(4000);
    assert_eq!(account.world.instances().len(), 0);
}
