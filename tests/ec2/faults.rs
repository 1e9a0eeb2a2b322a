// SPDX-License-Identifier: GPL-3.0-or-later
//! What is made of servers and networks that misbehave. Nothing here may be retried below the engine.

use std::path::Path;
use std::time::Duration;

use ec2fleet_core::ec2_api::{CloudError, CloudReply, CloudRequest, CloudResult, ErrorClass};
use ec2fleet_core::site::Account;
use ec2fleet_ec2::Cloud;
use ec2fleet_ec2::errors::{TransportFailure, remedy};
use ec2fleet_ec2::sdk::{Ec2, Ec2Options, SharedFiles, Timeouts};

use crate::backend::options;
use crate::script::{Form, Script, Step, error_body};

fn account(profile: Option<&str>) -> Account {
    Account { region: "us-east-1".into(), profile: profile.map(str::to_owned) }
}

fn describe() -> CloudRequest {
    CloudRequest::DescribeCluster { cluster: "c".into() }
}

async fn call(script: &Script, request: CloudRequest) -> CloudResult {
    Ec2::new(options(&script.url)).call(account(None), request).await
}

/// The error that one answer leads to, and the proof that the request was sent once.
async fn error_of(step: Step) -> CloudError {
    let script = Script::start(vec![step, Step::Ok(PAGE_OF_NONE.into())]);
    let error = call(&script, describe()).await.expect_err("an error");
    assert_eq!(script.requests().len(), 1, "one attempt");
    error
}

const PAGE_OF_NONE: &str = "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
    <requestId>r</requestId><reservationSet/></DescribeInstancesResponse>";

fn page(ids: &[&str], next: Option<&str>) -> String {
    let instances: String = ids
        .iter()
        .map(|id| {
            format!(
                "<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>running</name>\
                 </instanceState></item>"
            )
        })
        .collect();
    let next = next.map(|token| format!("<nextToken>{token}</nextToken>")).unwrap_or_default();
    format!(
        "<DescribeInstancesResponse><reservationSet><item><reservationId>r-1</reservationId>\
         <instancesSet>{instances}</instancesSet></item></reservationSet>{next}</DescribeInstancesResponse>"
    )
}

#[tokio::test]
async fn ec2_errors_keep_code_message_and_request_id() {
    let table = [
        (503, "RequestLimitExceeded", ErrorClass::Throttle),
        (503, "Unavailable", ErrorClass::Transient),
        (500, "InternalError", ErrorClass::Transient),
        (403, "UnauthorizedOperation", ErrorClass::Permission),
        (400, "InvalidParameterValue", ErrorClass::Configuration),
        (400, "MaxSpotInstanceCountExceeded", ErrorClass::Quota),
        (400, "NewCodeOfNextYear", ErrorClass::Other),
    ];
    for (status, code, class) in table {
        let error = error_of(Step::Error(status, code, "why &amp; how".into())).await;
        assert_eq!((error.class, &*error.code, &*error.message), (class, code, "why & how"));
        assert_eq!(error.request_id.as_deref(), Some("req-of-the-body"));
    }
}

#[tokio::test]
async fn replies_that_cannot_be_read() {
    let ok = |body: &str| Step::Ok(body.to_owned());
    let status = |status: u16, body: &str| Step::Status(status, body.to_owned());
    let half = error_body("RequestLimitExceeded", "m");
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", page(&["i-1"], None));
    use TransportFailure as F;
    let table = [
        ("garbage", ok("this is not XML"), F::MalformedReply),
        ("half an element", ok("<DescribeInstancesResponse><reservationSet><item>"), F::MalformedReply),
        ("another reply", ok("<html><body>proxy login</body></html>"), F::MalformedReply),
        ("an instance without a state", ok(&page(&["i-1"], None).replace("running", "")), F::MalformedReply),
        ("an unknown state", ok(&page(&["i-1"], None).replace("running", "dozing")), F::MalformedReply),
        ("500 without a body", status(500, ""), F::HttpStatus),
        ("503 without a body", status(503, ""), F::HttpStatus),
        ("502 of a proxy", status(502, "<html>Bad Gateway</html>"), F::HttpStatus),
        ("an error cut in half", status(503, &half[..half.len() / 2]), F::HttpStatus),
        ("a reply cut short", Step::Raw(cut.into_bytes()), F::MalformedReply),
        ("a closed connection", Step::Raw(Vec::new()), F::ConnectionLost),
        ("half a status line", Step::Raw(b"HTTP/1.1 20".to_vec()), F::ConnectionLost),
        ("not HTTP", Step::Raw(b"220 mail.example.org ESMTP\r\n".to_vec()), F::ConnectionLost),
    ];
    for (what, step, failure) in table {
        let error = error_of(step).await;
        assert_eq!(error.code, failure.code(), "{what}: {error:?}");
        assert_eq!(error.class, ErrorClass::Transient, "{what}: {error:?}");
        assert!(!error.message.is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_status_alone_decides_where_there_is_no_code() {
    for (status, class) in
        [(429, ErrorClass::Throttle), (403, ErrorClass::Permission), (404, ErrorClass::Other)]
    {
        let error = error_of(Step::Status(status, String::new())).await;
        assert_eq!((error.class, error.code.as_str()), (class, "HttpStatus"));
        assert!(error.message.contains(&status.to_string()));
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let script = Script::start(vec![Step::Silence]);
    let short = Timeouts { request: Duration::from_secs(2), ..Timeouts::default() };
    let ec2 = Ec2::new(Ec2Options { timeouts: short, ..options(&script.url) });
    let error = ec2.call(account(None), describe()).await.expect_err("a timeout");
    assert_eq!((error.class, &*error.code), (ErrorClass::Transient, "Timeout"), "{error:?}");
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test]
async fn create_fleet_has_its_own_time() {
    let script = Script::start(vec![Step::Silence]);
    let times = Timeouts {
        request: Duration::from_secs(3_600),
        create_fleet: Duration::from_secs(2),
        ..Timeouts::default()
    };
    let ec2 = Ec2::new(Ec2Options { timeouts: times, ..options(&script.url) });
    let request = CloudRequest::CreateFleet(Box::new(crate::wire::small_fleet()));
    let error = ec2.call(account(None), request).await.expect_err("a timeout");
    assert_eq!(error.code, "Timeout", "{error:?}");
}

#[tokio::test]
async fn no_server_is_a_connection_that_failed() {
    // A port that was free a moment ago may be another test's by now; this one is nobody's.
    for url in ["http://127.0.0.1:1", "http://no-such-host.invalid:80"] {
        let error = Ec2::new(options(url)).call(account(None), describe()).await.expect_err("no server");
        assert_eq!((error.class, &*error.code), (ErrorClass::Transient, "ConnectFailed"), "{error:?}");
    }
}

#[tokio::test]
async fn a_plain_server_behind_https_fails_to_connect() {
    let script = Script::start(vec![Step::Ok(PAGE_OF_NONE.into())]);
    let url = script.url.replace("http://", "https://");
    let times = Timeouts { connect: Duration::from_secs(2), ..Timeouts::default() };
    let ec2 = Ec2::new(Ec2Options { timeouts: times, ..options(&url) });
    let error = ec2.call(account(None), describe()).await.expect_err("no TLS");
    assert_eq!(error.code, "ConnectFailed", "{error:?}");
    assert_eq!(script.requests(), [] as [Form; 0]);
}

#[tokio::test]
async fn pages_are_followed_to_the_end() {
    let script = Script::start(vec![
        Step::Ok(page(&["i-1", "i-2"], Some("token-1"))),
        // A page may be empty and still not be the last.
        Step::Ok(page(&[], Some("token-2"))),
        Step::Ok(page(&["i-3"], None)),
    ]);
    let Ok(CloudReply::Instances(found)) = call(&script, describe()).await else { panic!("instances") };
    assert_eq!(found.iter().map(|i| &*i.id).collect::<Vec<_>>(), ["i-1", "i-2", "i-3"]);
    let tokens: Vec<_> = script.requests().iter().map(|form| form.get("NextToken").cloned()).collect();
    assert_eq!(tokens, [None, Some("token-1".into()), Some("token-2".into())]);
    for form in script.requests() {
        assert_eq!(form["MaxResults"], "1000");
        assert_eq!(form["Filter.1.Name"], "tag:ec2fleet:cluster", "every page has the filters");
    }
}

#[tokio::test]
async fn a_failed_page_is_an_error_and_never_a_shorter_list() {
    for bad in [
        Step::Error(503, "RequestLimitExceeded", "slow down".into()),
        Step::Raw(Vec::new()),
        Step::Ok("<DescribeInstancesResponse><reservationSet><item>".into()),
    ] {
        let script = Script::start(vec![Step::Ok(page(&["i-1"], Some("token-1"))), bad]);
        let error = call(&script, describe()).await.expect_err("the second page failed");
        assert!(error.class.is_retryable(), "{error:?}");
        assert_eq!(script.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_listing_that_repeats_itself_ends() {
    let again = || Step::Ok(page(&["i-1"], Some("the-same")));
    let script = Script::start(vec![again(), again(), again(), again()]);
    let error = call(&script, describe()).await.expect_err("no end");
    assert_eq!(error.code, "MalformedReply");
    assert_eq!(script.requests().len(), 2);
}

fn terminated(ids: &[&str]) -> Step {
    let items: String = ids.iter().map(|id| format!("<item><instanceId>{id}</instanceId></item>")).collect();
    Step::Ok(format!(
        "<TerminateInstancesResponse><instancesSet>{items}</instancesSet></TerminateInstancesResponse>"
    ))
}

fn not_found(ids: &str) -> Step {
    Step::Error(400, "InvalidInstanceID.NotFound", format!("The instance IDs '{ids}' do not exist"))
}

fn terminate(ids: &[&str]) -> CloudRequest {
    CloudRequest::TerminateInstances { ids: ids.iter().map(|id| (*id).to_owned()).collect() }
}

#[tokio::test]
async fn bad_ids_are_dropped_until_the_others_end() {
    let script = Script::start(vec![
        not_found("i-1, i-3"),
        Step::Error(400, "InvalidInstanceID.Malformed", "Invalid id: \"i-4\"".into()),
        terminated(&["i-2"]),
    ]);
    let reply = call(&script, terminate(&["i-1", "i-2", "i-3", "i-4"])).await.expect("a reply");
    let unknown = ["i-1", "i-3", "i-4"].map(str::to_owned).to_vec();
    assert_eq!(reply, CloudReply::Terminated { terminated: vec!["i-2".into()], unknown });
    assert_eq!(script.requests().len(), 3);
}

#[tokio::test]
async fn an_id_that_was_not_asked_for_ends_the_repetition() {
    let script = Script::start(vec![not_found("i-99")]);
    let error = call(&script, terminate(&["i-1"])).await.expect_err("nothing can be dropped");
    assert_eq!(error.code, "InvalidInstanceID.NotFound");
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test]
async fn many_bad_ids_named_one_by_one_are_looked_up_instead() {
    let asked: Vec<String> = (0..20).map(|i| format!("i-{i}")).collect();
    let mut steps: Vec<Step> = (0..8).map(|i| not_found(&format!("i-{i}"))).collect();
    steps.push(Step::Ok(page(&["i-18", "i-19"], None)));
    steps.push(terminated(&["i-18", "i-19"]));
    let script = Script::start(steps);
    let reply =
        call(&script, CloudRequest::TerminateInstances { ids: asked.clone() }).await.expect("a reply");
    let expected = CloudReply::Terminated { terminated: asked[18..].to_vec(), unknown: asked[..18].to_vec() };
    assert_eq!(reply, expected);
}

#[tokio::test]
async fn a_protected_instance_is_reported_after_the_others_ended() {
    let script = Script::start(vec![
        Step::Error(
            400,
            "OperationNotPermitted",
            "The instance 'i-2' may not be terminated. Modify its 'disableApiTermination' attribute.".into(),
        ),
        terminated(&["i-1"]),
    ]);
    let error = call(&script, terminate(&["i-1", "i-2"])).await.expect_err("i-2 lives");
    assert_eq!((error.class, &*error.code), (ErrorClass::Configuration, "OperationNotPermitted"));
    let last = script.requests().pop().expect("two requests");
    assert_eq!(last["InstanceId.1"], "i-1");
    assert!(!last.contains_key("InstanceId.2"));
}

#[tokio::test]
async fn terminating_stops_where_ec2_gives_no_answer() {
    let script = Script::start(vec![Step::Error(503, "RequestLimitExceeded", "slow".into())]);
    let ids = (0..1_500).map(|i| format!("i-{i:x}")).collect();
    let error = call(&script, CloudRequest::TerminateInstances { ids }).await.expect_err("throttled");
    assert_eq!(error.class, ErrorClass::Throttle);
    assert_eq!(script.requests().len(), 1, "the second thousand is not tried");
}

fn options_with_files(url: &str, folder: &Path) -> Ec2Options {
    Ec2Options {
        credentials: None,
        profile_files: Some(SharedFiles {
            config: folder.join("config"),
            credentials: folder.join("credentials"),
        }),
        ..options(url)
    }
}

#[tokio::test]
async fn a_profile_without_credentials_is_a_permission_matter_and_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config"), "").expect("written");
    std::fs::write(folder.path().join("credentials"), "").expect("written");
    let script = Script::start(vec![
        Step::Ok(PAGE_OF_NONE.into()),
        Step::Error(
            403,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials".into(),
        ),
        Step::Ok(PAGE_OF_NONE.into()),
    ]);
    let ec2 = Ec2::new(options_with_files(&script.url, folder.path()));
    let call = || ec2.call(account(Some("hpc")), describe());

    let error = call().await.expect_err("no such profile");
    assert_eq!((error.class, &*error.code), (ErrorClass::Permission, "NoCredentials"), "{error:?}");
    assert!(error.message.contains("hpc"), "the profile is named: {}", error.message);
    assert!(remedy(&error.code, error.class).contains("ProfileName"));
    assert_eq!(script.requests(), [] as [Form; 0], "nothing was sent");

    let key = |id: &str| format!("[hpc]\naws_access_key_id = {id}\naws_secret_access_key = s\n");
    std::fs::write(folder.path().join("credentials"), key("AKIDFIRST")).expect("written");
    call().await.expect("the credentials are found without a restart");

    std::fs::write(folder.path().join("credentials"), key("AKIDSECOND")).expect("written");
    assert_eq!(call().await.expect_err("refused").code, "AuthFailure");
    call().await.expect("what EC2 refused is read again");
}

#[tokio::test]
async fn no_program_is_started_for_credentials() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("started");
    let config = format!("[profile hpc]\ncredential_process = /usr/bin/touch {}\n", trace.display());
    std::fs::write(folder.path().join("config"), config).expect("written");
    std::fs::write(folder.path().join("credentials"), "").expect("written");
    let script = Script::start(vec![]);
    let ec2 = Ec2::new(options_with_files(&script.url, folder.path()));
    let error = ec2.call(account(Some("hpc")), describe()).await.expect_err("not supported");
    assert_eq!(error.code, "NoCredentials", "{error:?}");
    assert!(!trace.exists(), "slurmctld must not have children of ours");
}

#[tokio::test]
async fn an_emulator_needs_no_account_and_sees_no_real_key() {
    let script = Script::start(vec![Step::Ok(PAGE_OF_NONE.into())]);
    let ec2 = Ec2::new(Ec2Options { endpoint_url: Some(script.url.clone()), ..Ec2Options::default() });
    ec2.call(account(None), describe()).await.expect("an answer without credentials");
    let head = script.heads().remove(0);
    assert!(head.contains("credential=emulator/"), "{head}");
}

#[tokio::test]
async fn requests_say_who_sends_them_and_for_which_region() {
    let script = Script::start(vec![Step::Ok(PAGE_OF_NONE.into())]);
    let there = Account { region: "ap-southeast-2".into(), profile: None };
    Ec2::new(options(&script.url)).call(there, describe()).await.expect("an answer");
    let head = script.heads().remove(0);
    assert!(head.contains("app/slurm-ec2-fleet-"), "{head}");
    assert!(head.contains("/ap-southeast-2/ec2/aws4_request"), "{head}");
}

/// slurmctld has its own handlers: after a call none of these signals may be caught by code of ours or the SDK's.
#[tokio::test]
async fn no_signal_is_caught() {
    let script = Script::start(vec![Step::Ok(PAGE_OF_NONE.into())]);
    call(&script, describe()).await.expect("an answer");
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("the mask").trim();
    let caught = u64::from_str_radix(caught, 16).expect("hexadecimal");
    for (name, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15), ("CHLD", 17)] {
        assert_eq!(caught >> (number - 1) & 1, 0, "SIG{name}");
    }
}
