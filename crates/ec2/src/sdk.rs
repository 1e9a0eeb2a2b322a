// SPDX-License-Identifier: GPL-3.0-or-later
//! EC2 through the AWS SDK: one client per account, one attempt per call.
//!
//! Made to run inside slurmctld: no process is started, no signal is touched (the SDK features that would,
//! `credentials-process` and `sso`, are off), nothing waits without a limit, and nothing is done before the first call.

mod calls;
mod catalog;
mod complete;
mod failure;
mod pages;
mod parts;
mod reply;
mod request;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{AppName, BehaviorVersion, Region};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{
    Credentials, IdentityCache, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_ec2::{Client, Config};
use tokio::sync::OnceCell;

use super::Cloud;
use super::catalog::{
    Action, Caller, Catalog, CatalogFuture, Example, Image, InstanceType, LaunchTemplate, Offering,
    SpotPrice, Subnet, Verdict, Zone,
};
use super::errors::{self, TransportFailure};
use ec2fleet_core::ec2_api::{CloudError, CloudRequest, CloudResult};
use ec2fleet_core::fleet_spec::{InstanceRequirements, LaunchTemplateSpecification};
use ec2fleet_core::site::Account;

/// Where EC2 is and how to reach it.
#[derive(Clone, Debug, Default)]
pub struct Ec2Options {
    /// Instead of the region's own endpoint, for example `http://127.0.0.1:5000` or a VPC endpoint.
    pub endpoint_url: Option<String>,
    /// Instead of the region's own STS endpoint, for [`Catalog::caller`] and [`Catalog::decode_denial`].
    pub sts_endpoint_url: Option<String>,
    /// Instead of the default chain (environment, profile, web identity, container, instance profile).
    ///
    /// An endpoint on plain HTTP and loopback is an emulator: without a profile it gets placeholders, so that it
    /// needs no account and real keys never sign what goes over an open wire.
    pub credentials: Option<StaticCredentials>,
    /// Instead of `~/.aws/config` and `~/.aws/credentials`, or what `AWS_CONFIG_FILE` and
    /// `AWS_SHARED_CREDENTIALS_FILE` name.
    pub profile_files: Option<SharedFiles>,
    pub timeouts: Timeouts,
}

/// The AWS configuration files that profiles are read from.
#[derive(Clone, Debug)]
pub struct SharedFiles {
    pub config: PathBuf,
    pub credentials: PathBuf,
}

/// An access key that does not change.
#[derive(Clone)]
pub struct StaticCredentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl StaticCredentials {
    fn placeholder() -> Self {
        Self {
            access_key_id: "EMULATOR".to_owned(),
            secret_access_key: "none".to_owned(),
            session_token: None,
        }
    }
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticCredentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// How long one HTTP request may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// The TCP and TLS handshakes.
    pub connect: Duration,
    /// CreateFleet: an instant fleet answers when all pools have been asked.
    pub create_fleet: Duration,
    /// Every other request.
    pub request: Duration,
    /// Loading credentials, which may ask the instance metadata service or STS.
    pub credentials: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(3_100),
            create_fleet: Duration::from_secs(60),
            request: Duration::from_secs(20),
            credentials: Duration::from_secs(10),
        }
    }
}

/// EC2 through the AWS SDK. Cheap to clone: clones share their clients.
#[derive(Clone)]
pub struct Ec2 {
    shared: Arc<Shared>,
}

/// The clients of one account.
#[derive(Clone)]
struct Clients {
    ec2: Client,
    sts: aws_sdk_sts::Client,
}

type ClientCell = Arc<OnceCell<Clients>>;

struct Shared {
    options: Ec2Options,
    clients: Mutex<HashMap<Account, ClientCell>>,
}

impl Ec2 {
    /// Nothing is read or connected before the first call.
    #[must_use]
    pub fn new(options: Ec2Options) -> Self {
        Self { shared: Arc::new(Shared { options, clients: Mutex::new(HashMap::new()) }) }
    }
}

impl Cloud for Ec2 {
    fn call(
        &self,
        account: Account,
        request: CloudRequest,
    ) -> Pin<Box<dyn Future<Output = CloudResult> + Send>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            shared
                .with_clients(account, async |clients| {
                    calls::run(clients.ec2, &shared.options, request).await
                })
                .await
        })
    }
}

/// A question of [`Catalog`] as a future that owns all it needs.
macro_rules! ask {
    ($self:ident, $account:ident, $client:ident, |$it:ident| $answer:expr) => {{
        let shared = Arc::clone(&$self.shared);
        Box::pin(async move {
            shared
                .with_clients($account, async |clients| {
                    let $it = &clients.$client;
                    $answer.await
                })
                .await
        })
    }};
}

impl Catalog for Ec2 {
    fn instance_types(&self, account: Account, names: Vec<String>) -> CatalogFuture<Vec<InstanceType>> {
        ask!(self, account, ec2, |client| catalog::instance_types(client, &names))
    }

    fn types_matching(
        &self,
        account: Account,
        requirements: InstanceRequirements,
        architectures: Vec<String>,
    ) -> CatalogFuture<Vec<String>> {
        ask!(self, account, ec2, |client| catalog::types_matching(client, &requirements, &architectures))
    }

    fn offerings(&self, account: Account, names: Vec<String>) -> CatalogFuture<Vec<Offering>> {
        ask!(self, account, ec2, |client| catalog::offerings(client, &names))
    }

    fn launch_template(
        &self,
        account: Account,
        specification: LaunchTemplateSpecification,
    ) -> CatalogFuture<LaunchTemplate> {
        ask!(self, account, ec2, |client| catalog::launch_template(client, specification))
    }

    fn subnets(&self, account: Account, ids: Vec<String>) -> CatalogFuture<Vec<Subnet>> {
        ask!(self, account, ec2, |client| catalog::subnets(client, &ids))
    }

    fn images(&self, account: Account, ids: Vec<String>) -> CatalogFuture<Vec<Image>> {
        ask!(self, account, ec2, |client| catalog::images(client, &ids))
    }

    fn spot_prices(&self, account: Account, names: Vec<String>) -> CatalogFuture<Vec<SpotPrice>> {
        ask!(self, account, ec2, |client| catalog::spot_prices(client, &names))
    }

    fn zones(&self, account: Account) -> CatalogFuture<Vec<Zone>> {
        ask!(self, account, ec2, |client| catalog::zones(client))
    }

    fn caller(&self, account: Account) -> CatalogFuture<Caller> {
        ask!(self, account, sts, |client| catalog::caller(client))
    }

    fn permission(&self, account: Account, action: Action, example: Example) -> CatalogFuture<Verdict> {
        ask!(self, account, ec2, |client| catalog::permission(client, action, example))
    }

    fn decode_denial(&self, account: Account, encoded: String) -> CatalogFuture<String> {
        ask!(self, account, sts, |client| catalog::decode_denial(client, encoded))
    }
}

impl Shared {
    /// Runs one call with the account's client, and forgets the client if its credentials were not accepted:
    /// the next call then reads them again, so that corrected credentials need no restart.
    async fn with_clients<T>(
        &self,
        account: Account,
        call: impl AsyncFnOnce(Clients) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let cell = self.cell(&account);
        let clients = cell.get_or_init(|| connect(&account, &self.options)).await.clone();
        let mut result = call(clients).await;
        if let Err(error) = &mut result {
            if errors::is_stale_credential(&error.code) {
                self.forget(&account, &cell);
            }
            if error.code == TransportFailure::NoCredentials.code() {
                error.message = format!("no credentials for {account}: {}", error.message);
            }
        }
        result
    }

    fn cell(&self, account: &Account) -> ClientCell {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(clients.entry(account.clone()).or_default())
    }

    /// Removes exactly this client: another call may have put a newer one in its place.
    fn forget(&self, account: &Account, cell: &ClientCell) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.get(account).is_some_and(|current| Arc::ptr_eq(current, cell)) {
            clients.remove(account);
        }
    }
}

/// Stands in the User-Agent, by which CloudTrail shows who called.
const APP_NAME: &str = concat!("slurm-ec2-fleet-", env!("CARGO_PKG_VERSION"));

/// Makes the client of an account. Reads the AWS configuration files and the environment, and sends nothing.
async fn connect(account: &Account, options: &Ec2Options) -> Clients {
    let region = Region::new(account.region.clone());
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(region.clone())
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(Duration::from_secs(10)).build(),
        )
        .identity_cache(IdentityCache::lazy().load_timeout(options.timeouts.credentials).build());
    if let Ok(name) = AppName::new(APP_NAME) {
        loader = loader.app_name(name);
    }
    if let Some(files) = options.profile_files.as_ref().map(profile_files) {
        loader = loader.profile_files(files);
    }
    let placeholder = (account.profile.is_none() && options.profile_files.is_none() && is_emulator(options))
        .then(StaticCredentials::placeholder);
    if let Some(credentials) = options.credentials.as_ref().or(placeholder.as_ref()) {
        loader = loader.credentials_provider(Credentials::new(
            &credentials.access_key_id,
            &credentials.secret_access_key,
            credentials.session_token.clone(),
            None,
            "slurm-ec2-fleet",
        ));
    } else if let Some(profile) = &account.profile {
        // The default chain would prefer the environment's keys to the profile that was asked for.
        loader =
            loader.profile_name(profile).credentials_provider(profile_credentials(profile, region, options));
    }
    let shared = loader.load().await;
    let mut config = aws_sdk_ec2::config::Builder::from(&shared)
        // Retries, their pace and their budget are the engine's: here, one call is one attempt.
        .retry_config(RetryConfig::disabled())
        .interceptor(complete::CompleteReply)
        .timeout_config(timeout_config(options, options.timeouts.request));
    if let Some(url) = &options.endpoint_url {
        config = config.endpoint_url(url);
        if url.starts_with("http://") {
            // The default client reads the root certificates, and sends loopback through an HTTP_PROXY.
            config = config.http_client(aws_smithy_http_client::Builder::new().build_http());
        }
    }
    let mut sts = aws_sdk_sts::config::Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeout_config(options, options.timeouts.request));
    if let Some(url) = &options.sts_endpoint_url {
        sts = sts.endpoint_url(url);
    }
    Clients { ec2: Client::from_conf(config.build()), sts: aws_sdk_sts::Client::from_conf(sts.build()) }
}

fn is_emulator(options: &Ec2Options) -> bool {
    let host = options.endpoint_url.as_deref().and_then(|url| url.strip_prefix("http://"));
    host.is_some_and(|host| {
        let host = host.split('/').next().unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name == "localhost"
            || name == "[::1]"
            || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn profile_credentials(profile: &str, region: Region, options: &Ec2Options) -> SharedCredentialsProvider {
    let mut builder = ProfileFileCredentialsProvider::builder()
        .configure(&ProviderConfig::without_region().with_region(Some(region)))
        .profile_name(profile);
    if let Some(files) = &options.profile_files {
        builder = builder.profile_files(profile_files(files));
    }
    SharedCredentialsProvider::new(builder.build())
}

fn profile_files(files: &SharedFiles) -> EnvConfigFiles {
    EnvConfigFiles::builder()
        .with_file(EnvConfigFileKind::Config, &files.config)
        .with_file(EnvConfigFileKind::Credentials, &files.credentials)
        .build()
}

fn timeout_config(options: &Ec2Options, request: Duration) -> TimeoutConfig {
    // The operation covers signing, and so the loading of credentials, which comes before the attempt.
    TimeoutConfig::builder()
        .connect_timeout(options.timeouts.connect)
        .operation_attempt_timeout(request)
        .operation_timeout(request + options.timeouts.credentials)
        .build()
}

/// For the few requests that may take longer than others.
fn with_timeout(options: &Ec2Options, request: Duration) -> aws_sdk_ec2::config::Builder {
    Config::builder().timeout_config(timeout_config(options, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_loopback_is_an_emulator() {
        let of =
            |url: &str| is_emulator(&Ec2Options { endpoint_url: Some(url.into()), ..Ec2Options::default() });
        for url in ["http://127.0.0.1:5000", "http://127.0.0.1/", "http://localhost:1", "http://[::1]:5000/x"]
        {
            assert!(of(url), "{url}");
        }
        for url in [
            "https://127.0.0.1:5000",
            "https://ec2.us-east-1.amazonaws.com",
            "http://10.0.0.1:5000",
            "http://localhost.example.org",
            "http://127.0.0.1.example.org:80",
            "http://",
            "",
        ] {
            assert!(!of(url), "{url}");
        }
        assert!(!is_emulator(&Ec2Options::default()));
    }

    #[test]
    fn keys_are_not_shown() {
        let mut key = StaticCredentials::placeholder();
        key.secret_access_key = "hidden-1".into();
        key.session_token = Some("hidden-2".into());
        let shown = format!("{:?}", Ec2Options { credentials: Some(key), ..Ec2Options::default() });
        assert!(shown.contains("EMULATOR") && !shown.contains("hidden"), "{shown}");
    }
}
