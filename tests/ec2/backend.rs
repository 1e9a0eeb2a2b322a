// SPDX-License-Identifier: GPL-3.0-or-later
//! The servers that stand for EC2, and what a test needs to exist on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ec2::types as sdk;
use ec2fleet_core::ec2_api::{
    CloudError, CloudReply, CloudRequest, CloudResult, CreateFleet, FleetReply, FleetType, Instance,
};
use ec2fleet_core::fleet_spec::{LaunchTemplateOverride, LaunchTemplateSpecification};
use ec2fleet_core::site::{Account, Lifecycle};
use ec2fleet_ec2::Cloud;
use ec2fleet_ec2::sdk::{Ec2, Ec2Options, StaticCredentials};
use ec2fleet_emulator::{Emulator, Options, Scenario};
use tokio::sync::OnceCell;

use crate::moto;

pub const CLUSTER_TAG: &str = "ec2fleet:cluster";

/// Runs the named functions of a module against every server.
#[macro_export]
macro_rules! on_each_backend {
    ($($name:ident)*) => {
        mod moto {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::backend::Backend::Moto.world().await).await;
            })*
        }
        mod emulator {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::backend::Backend::Emulator.world().await).await;
            })*
        }
    };
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Moto,
    Emulator,
}

/// One test's view of a server: clusters of other tests are there too, as in a shared account.
pub struct World {
    pub backend: Backend,
    url: String,
    emulator: Option<Arc<Emulator>>,
    pub ec2: Ec2,
    pub account: Account,
    /// For what the engine never does: make templates, and look behind the back of the code under test.
    pub admin: aws_sdk_ec2::Client,
    /// Of different zones.
    pub subnets: Vec<String>,
    pub template: String,
    pub cluster: String,
}

impl Backend {
    pub async fn world(self) -> World {
        match self {
            Self::Moto => World::on(self, moto::url(), None).await,
            Self::Emulator => emulated("{}").await,
        }
    }
}

/// An emulator of its own, with what the scenario says.
pub async fn emulated(scenario: &str) -> World {
    let mut scenario = Scenario::from_json(scenario).expect("a scenario");
    // One image, so that another id is an unknown one.
    scenario.images.push(
        serde_json::from_str(r#"{"id": "ami-0123456789abcdef0", "name": "node", "encrypted": true}"#)
            .expect("an image"),
    );
    let emulator = Emulator::start(Options { scenario, ..Options::default() }).await.expect("a free port");
    let url = emulator.url();
    World::on(Backend::Emulator, &url, Some(Arc::new(emulator))).await
}

/// What is there before any test begins.
#[derive(Clone)]
struct Site {
    subnets: Vec<String>,
    image: String,
}

async fn find_site(admin: &aws_sdk_ec2::Client) -> Site {
    let mut subnets = Vec::new();
    let mut zones = Vec::new();
    for subnet in admin.describe_subnets().send().await.expect("subnets").subnets.unwrap_or_default() {
        let zone = subnet.availability_zone.expect("a zone");
        if !zones.contains(&zone) {
            zones.push(zone);
            subnets.push(subnet.subnet_id.expect("an id"));
        }
    }
    assert!(subnets.len() >= 2, "subnets in two zones");
    let images = admin.describe_images().send().await.expect("images").images.unwrap_or_default();
    let image = images.first().and_then(|image| image.image_id.clone()).expect("an image");
    Site { subnets, image }
}

/// Options for a server that takes any credentials.
pub fn options(url: &str) -> Ec2Options {
    Ec2Options {
        endpoint_url: Some(url.to_owned()),
        credentials: Some(StaticCredentials {
            access_key_id: "AKIDTEST".into(),
            secret_access_key: "not-a-secret".into(),
            session_token: None,
        }),
        ..Ec2Options::default()
    }
}

fn admin(url: &str, region: &str) -> aws_sdk_ec2::Client {
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .endpoint_url(url)
        .credentials_provider(Credentials::new("AKIDTEST", "not-a-secret", None, None, "test"))
        .build();
    aws_sdk_ec2::Client::from_conf(config)
}

impl World {
    async fn on(backend: Backend, url: &str, emulator: Option<Arc<Emulator>>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // moto's list of images is long: it is read once.
        static MOTO: OnceCell<Site> = OnceCell::const_new();
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let account = Account { region: "us-east-1".into(), profile: None };
        let admin = admin(url, &account.region);
        let Site { subnets, image } = match backend {
            Backend::Moto => MOTO.get_or_init(|| find_site(&admin)).await.clone(),
            Backend::Emulator => find_site(&admin).await,
        };
        let template = format!("template-{serial}");
        admin
            .create_launch_template()
            .launch_template_name(&template)
            .launch_template_data(
                sdk::RequestLaunchTemplateData::builder()
                    .image_id(image)
                    .instance_type(sdk::InstanceType::C5Large)
                    .build(),
            )
            .send()
            .await
            .expect("a launch template");
        let ec2 = Ec2::new(options(url));
        let cluster = format!("cluster-{serial}");
        Self { backend, url: url.to_owned(), emulator, ec2, account, admin, subnets, template, cluster }
    }

    /// Another cluster in the same account.
    pub async fn beside(&self) -> Self {
        Self::on(self.backend, &self.url, self.emulator.clone()).await
    }

    /// The server of a test that is for the emulator alone.
    pub fn emulator(&self) -> &Emulator {
        self.emulator.as_ref().expect("an emulator")
    }

    pub async fn call(&self, request: CloudRequest) -> CloudResult {
        self.ec2.call(self.account.clone(), request).await
    }

    pub async fn ok(&self, request: CloudRequest) -> CloudReply {
        let action = request.action();
        self.call(request).await.unwrap_or_else(|error| panic!("{:?}, {action}: {error:?}", self.backend))
    }

    pub async fn refused(&self, request: CloudRequest) -> CloudError {
        match self.call(request).await {
            Err(error) => error,
            Ok(reply) => panic!("{:?} should have refused: {reply:?}", self.backend),
        }
    }

    /// A fleet of one type in the first subnet.
    pub fn fleet(&self, fleet_type: FleetType, lifecycle: Lifecycle, target: u32) -> CreateFleet {
        CreateFleet {
            client_token: format!("{}-{}", self.cluster, fastrand::u64(..)),
            fleet_type,
            target,
            lifecycle,
            on_demand_options: Default::default(),
            spot_options: Default::default(),
            launch_template: LaunchTemplateSpecification {
                launch_template_name: Some(self.template.clone()),
                version: Some("$Latest".into()),
                ..Default::default()
            },
            overrides: vec![LaunchTemplateOverride {
                instance_type: Some("c5.large".into()),
                subnet_id: Some(self.subnets[0].clone()),
                ..Default::default()
            }],
            fleet_tags: tags(&[(CLUSTER_TAG, &self.cluster)]),
            instance_tags: tags(&[(CLUSTER_TAG, &self.cluster), ("Owner", "hpc & <friends>")]),
        }
    }

    pub async fn launch(&self, lifecycle: Lifecycle, target: u32) -> FleetReply {
        self.create(self.fleet(FleetType::Instant, lifecycle, target)).await
    }

    pub async fn create(&self, fleet: CreateFleet) -> FleetReply {
        match self.ok(CloudRequest::CreateFleet(Box::new(fleet))).await {
            CloudReply::Fleet(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub async fn in_cluster(&self) -> Vec<Instance> {
        instances(self.ok(CloudRequest::DescribeCluster { cluster: self.cluster.clone() }).await)
    }

    pub async fn by_ids(&self, ids: &[String]) -> Vec<Instance> {
        instances(self.ok(CloudRequest::DescribeInstances { ids: ids.to_vec() }).await)
    }

    pub async fn terminate(&self, ids: &[String]) -> (Vec<String>, Vec<String>) {
        match self.ok(CloudRequest::TerminateInstances { ids: ids.to_vec() }).await {
            CloudReply::Terminated { terminated, unknown } => (terminated, unknown),
            other => panic!("{other:?}"),
        }
    }
}

pub fn instances(reply: CloudReply) -> Vec<Instance> {
    match reply {
        CloudReply::Instances(instances) => instances,
        other => panic!("{other:?}"),
    }
}

pub fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

pub fn names(from: &[&str]) -> Vec<String> {
    from.iter().map(|&name| name.to_owned()).collect()
}
