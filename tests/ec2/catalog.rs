// SPDX-License-Identifier: GPL-3.0-or-later
//! The read-only questions, against every server that answers them.

use aws_sdk_ec2::types as sdk;
use ec2fleet_core::ec2_api::ErrorClass;
use ec2fleet_core::fleet_spec::LaunchTemplateSpecification;
use ec2fleet_core::site::Lifecycle;
use ec2fleet_ec2::catalog::{Action, Catalog, Example, Offering, Verdict};

use crate::backend::{World, names};
use crate::on_each_backend;

on_each_backend! {
    types_have_their_facts
    types_are_offered_in_zones
    a_launch_template_is_read_at_its_version
    a_missing_template_or_version_is_a_configuration_error
    subnets_by_id
    images_by_id
    zones_of_the_region
    dry_runs_are_allowed_and_change_nothing
}

async fn types_have_their_facts(world: World) {
    let asked = names(&["c5.large", "g4dn.xlarge", "no.such", "c5.metal"]);
    let mut found = world.ec2.instance_types(world.account.clone(), asked).await.expect("types");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["c5.large", "c5.metal", "g4dn.xlarge"]);
    let c5 = &found[0];
    assert_eq!((c5.vcpus, c5.cores, c5.threads_per_core, c5.memory_mib), (2, 1, 2, 4096));
    assert_eq!(c5.architectures, ["x86_64"]);
    assert_eq!(c5.hypervisor.as_deref(), Some("nitro"));
    assert!(!c5.bare_metal && !c5.burstable && c5.hibernation_supported && c5.gpus.is_empty());
    let mut classes = c5.usage_classes.clone();
    classes.sort();
    assert_eq!(classes, ["on-demand", "spot"]);
    assert!(found[1].bare_metal);
    let g4 = &found[2];
    assert_eq!((g4.gpus.len(), g4.gpus[0].count, &*g4.gpus[0].name), (1, 1, "T4"));
    assert_eq!(g4.gpus[0].memory_mib, 16_384);
}

async fn types_are_offered_in_zones(world: World) {
    let asked = names(&["c5.large", "no.such"]);
    let found = world.ec2.offerings(world.account.clone(), asked).await.expect("offerings");
    assert!(found.len() >= 2, "{found:?}");
    for Offering { instance_type, zone } in found {
        assert_eq!(instance_type, "c5.large");
        assert!(zone.starts_with("us-east-1"));
    }
}

fn by_name(name: &str, version: Option<&str>) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification {
        launch_template_name: Some(name.into()),
        version: version.map(str::to_owned),
        ..Default::default()
    }
}

async fn a_launch_template_is_read_at_its_version(world: World) {
    let data = sdk::RequestLaunchTemplateData::builder()
        .image_id("ami-12345678")
        .instance_type(sdk::InstanceType::M5Large)
        .key_name("key")
        .user_data("c2VjcmV0")
        .security_group_ids("sg-1")
        .iam_instance_profile(
            sdk::LaunchTemplateIamInstanceProfileSpecificationRequest::builder().name("profile").build(),
        )
        .metadata_options(
            sdk::LaunchTemplateInstanceMetadataOptionsRequest::builder()
                .http_tokens(sdk::LaunchTemplateHttpTokensState::Required)
                .instance_metadata_tags(sdk::LaunchTemplateInstanceMetadataTagsState::Enabled)
                .http_put_response_hop_limit(2)
                .build(),
        )
        .hibernation_options(sdk::LaunchTemplateHibernationOptionsRequest::builder().configured(true).build())
        .cpu_options(
            sdk::LaunchTemplateCpuOptionsRequest::builder().core_count(1).threads_per_core(1).build(),
        )
        .block_device_mappings(
            sdk::LaunchTemplateBlockDeviceMappingRequest::builder()
                .device_name("/dev/xvda")
                .ebs(
                    sdk::LaunchTemplateEbsBlockDeviceRequest::builder()
                        .encrypted(true)
                        .volume_size(40)
                        .volume_type(sdk::VolumeType::Gp3)
                        .build(),
                )
                .build(),
        )
        .tag_specifications(
            sdk::LaunchTemplateTagSpecificationRequest::builder()
                .resource_type(sdk::ResourceType::Instance)
                .tags(sdk::Tag::builder().key("team").value("cfd").build())
                .build(),
        )
        .build();
    world
        .admin
        .create_launch_template_version()
        .launch_template_name(&world.template)
        .launch_template_data(data)
        .send()
        .await
        .expect("a second version");

    let read = async |version: Option<&str>| {
        let specification = by_name(&world.template, version);
        world.ec2.launch_template(world.account.clone(), specification).await.expect("a template")
    };
    let first = read(None).await;
    assert_eq!((first.version, first.is_default), (1, true), "no version is the default version");
    assert_eq!(first.instance_type.as_deref(), Some("c5.large"));
    assert!(!first.hibernation && !first.has_user_data && first.metadata.tokens.is_none());

    let second = read(Some("$Latest")).await;
    assert_eq!((second.version, second.is_default), (2, false));
    assert_eq!(second, read(Some("2")).await);
    assert_eq!(second.name, world.template);
    assert!(second.id.starts_with("lt-"));
    assert_eq!(second.image_id.as_deref(), Some("ami-12345678"));
    assert_eq!(second.instance_type.as_deref(), Some("m5.large"));
    assert_eq!(second.key_name.as_deref(), Some("key"));
    assert_eq!(second.instance_profile.as_deref(), Some("profile"));
    assert_eq!(second.security_groups, ["sg-1"]);
    assert_eq!(second.metadata.tokens.as_deref(), Some("required"));
    assert_eq!(second.metadata.instance_tags.as_deref(), Some("enabled"));
    assert_eq!(second.metadata.hop_limit, Some(2));
    assert!(second.hibernation);
    assert_eq!((second.cores, second.threads_per_core), (Some(1), Some(1)));
    assert_eq!(second.block_devices.len(), 1);
    let root = &second.block_devices[0];
    assert_eq!(
        (&*root.device, root.encrypted, root.size_gib, root.volume_type.as_deref()),
        ("/dev/xvda", Some(true), Some(40), Some("gp3"))
    );
    assert!(second.has_user_data);
    assert!(!format!("{second:?}").contains("c2VjcmV0"), "user data is not kept");
    assert_eq!(second.tags["instance"]["team"], "cfd");
}

async fn a_missing_template_or_version_is_a_configuration_error(world: World) {
    for specification in [by_name("no-such-template", None), by_name(&world.template, Some("99"))] {
        let error =
            world.ec2.launch_template(world.account.clone(), specification).await.expect_err("missing");
        assert_eq!(error.class, ErrorClass::Configuration, "{error:?}");
    }
}

async fn subnets_by_id(world: World) {
    let asked = vec![world.subnets[0].clone(), "subnet-0123456789abcdef0".to_owned()];
    let found = world.ec2.subnets(world.account.clone(), asked).await.expect("subnets");
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].id, &*found[0].state), (&world.subnets[0], "available"));
    assert!(found[0].zone.starts_with("us-east-1") && found[0].vpc_id.starts_with("vpc-"));
    assert!(found[0].cidr.contains('/'));
    let before = found[0].free_addresses;
    assert!(before > 0);
}

async fn images_by_id(world: World) {
    let all = world.admin.describe_images().send().await.expect("images");
    let id = all.images()[0].image_id().expect("an id").to_owned();
    let asked = vec![id.clone(), "ami-00000000000000000".to_owned()];
    let found = world.ec2.images(world.account.clone(), asked).await.expect("images");
    assert_eq!(found.len(), 1);
    let image = &found[0];
    assert_eq!((&image.id, &*image.state), (&id, "available"));
    assert!(["x86_64", "arm64", "i386"].contains(&&*image.architecture), "{image:?}");
    assert_eq!((&*image.virtualization, &*image.root_device_type), ("hvm", "ebs"));
    assert!(image.root().is_some(), "{image:?}");
}

async fn zones_of_the_region(world: World) {
    let zones = world.ec2.zones(world.account.clone()).await.expect("zones");
    assert!(zones.len() >= 2, "{zones:?}");
    for zone in zones {
        assert!(zone.name.starts_with("us-east-1") && zone.id.starts_with("use1-az"), "{zone:?}");
        assert_eq!(zone.state, "available");
    }
}

async fn dry_runs_are_allowed_and_change_nothing(world: World) {
    let launched = world.launch(Lifecycle::OnDemand, 1).await.instance_ids();
    let example = Example {
        launch_template: by_name(&world.template, None),
        instance_type: Some("c5.large".into()),
        subnet_id: Some(world.subnets[0].clone()),
        instance_id: Some(launched[0].clone()),
        ..Example::default()
    };
    for action in [Action::CreateFleet, Action::RunInstances, Action::TerminateInstances, Action::CreateTags]
    {
        let verdict = world.ec2.permission(world.account.clone(), action, example.clone()).await;
        assert_eq!(verdict, Ok(Verdict::Allowed), "{action:?}");
    }
    let listed = world.in_cluster().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(!listed[0].tags.contains_key("Name"));
}

mod wire {
    //! What moto does not know, with answers written after the API reference.

    use ec2fleet_core::ec2_api::ErrorClass;
    use ec2fleet_core::fleet_spec::{InstanceRequirements, IntRange};
    use ec2fleet_core::site::Account;
    use ec2fleet_ec2::catalog::{Action, Caller, Catalog, Example, Need, SpotPrice, Verdict};
    use ec2fleet_ec2::sdk::{Ec2, Ec2Options};

    use crate::backend::{names, options};
    use crate::script::{Script, Step};

    fn account() -> Account {
        Account { region: "us-east-1".into(), profile: None }
    }

    #[tokio::test]
    async fn the_newest_price_of_each_pool() {
        let price = |zone: &str, price: &str, time: &str| {
            format!(
                "<item><instanceType>c5.large</instanceType><productDescription>Linux/UNIX</productDescription>\
                 <spotPrice>{price}</spotPrice><timestamp>{time}</timestamp><availabilityZone>{zone}</availabilityZone></item>"
            )
        };
        let page = |items: &str, next: &str| {
            Step::Ok(format!(
                "<DescribeSpotPriceHistoryResponse><spotPriceHistorySet>{items}</spotPriceHistorySet>\
                 <nextToken>{next}</nextToken></DescribeSpotPriceHistoryResponse>"
            ))
        };
        let first = price("us-east-1a", "0.0300", "2026-11-20T07:00:00Z")
            + &price("us-east-1b", "0.0410", "2026-11-20T07:00:00Z");
        let second = price("us-east-1a", "0.0350", "2026-11-20T09:00:00Z")
            + &price("us-east-1a", "0.0200", "2026-11-19T09:00:00Z");
        let script = Script::start(vec![page(&first, "more"), page(&second, "")]);
        let found = Ec2::new(options(&script.url)).spot_prices(account(), names(&["c5.large"])).await;
        let pool =
            |zone: &str, price: f64| SpotPrice { instance_type: "c5.large".into(), zone: zone.into(), price };
        assert_eq!(found, Ok(vec![pool("us-east-1a", 0.035), pool("us-east-1b", 0.041)]));
        assert_eq!(script.requests()[0]["ProductDescription.1"], "Linux/UNIX");
    }

    #[tokio::test]
    async fn types_by_requirements() {
        let reply = "<GetInstanceTypesFromInstanceRequirementsResponse><instanceTypeSet><item><instanceType>c5.large\
            </instanceType></item><item><instanceType>m5.large</instanceType></item></instanceTypeSet>\
            </GetInstanceTypesFromInstanceRequirementsResponse>";
        let script = Script::start(vec![Step::Ok(reply.into())]);
        let requirements = InstanceRequirements {
            vcpu_count: Some(IntRange { min: Some(2), max: Some(2) }),
            memory_mib: Some(IntRange { min: Some(2_048), max: None }),
            ..Default::default()
        };
        let found = Ec2::new(options(&script.url))
            .types_matching(account(), requirements, names(&["x86_64", "arm64"]))
            .await;
        assert_eq!(found, Ok(names(&["c5.large", "m5.large"])));
        let sent = script.requests().remove(0);
        assert_eq!((&*sent["ArchitectureType.1"], &*sent["ArchitectureType.2"]), ("x86_64", "arm64"));
        assert_eq!(sent["VirtualizationType.1"], "hvm");
        assert_eq!(sent["InstanceRequirements.MemoryMiB.Min"], "2048");
    }

    #[tokio::test]
    async fn every_action_is_asked_as_a_dry_run() {
        for action in Action::ALL {
            let yes = Step::Error(412, "DryRunOperation", "Request would have succeeded".into());
            let script = Script::start(vec![yes]);
            let ec2 = Ec2::new(options(&script.url));
            let verdict = ec2.permission(account(), action, Example::default()).await;
            assert_eq!(verdict, Ok(Verdict::Allowed), "{action:?}");
            let sent = script.requests().remove(0);
            assert_eq!((&*sent["Action"], &*sent["DryRun"]), (action.as_str(), "true"));
        }
        assert_eq!(Action::ALL.iter().filter(|action| action.need() == Need::Always).count(), 5);
    }

    #[tokio::test]
    async fn what_a_dry_run_may_answer() {
        let denied =
            "You are not authorized to perform this operation. Encoded authorization failure message: AbC-1";
        let ask = async |step: Step| {
            let script = Script::start(vec![step]);
            Ec2::new(options(&script.url))
                .permission(account(), Action::TerminateInstances, Example::default())
                .await
        };
        assert_eq!(
            ask(Step::Error(403, "UnauthorizedOperation", denied.into())).await,
            Ok(Verdict::Denied {
                reason: "You are not authorized to perform this operation.".into(),
                encoded: Some("AbC-1".into()),
            })
        );
        let unclear = ask(Step::Error(400, "InvalidInstanceID.NotFound", "no such".into())).await;
        let expected =
            Verdict::Unclear { code: "InvalidInstanceID.NotFound".into(), message: "no such".into() };
        assert_eq!(unclear, Ok(expected));
        for (status, code, class) in [
            (403, "AuthFailure", ErrorClass::Permission),
            (503, "RequestLimitExceeded", ErrorClass::Throttle),
            (500, "InternalError", ErrorClass::Transient),
        ] {
            let error = ask(Step::Error(status, code, "m".into())).await.expect_err("no verdict");
            assert_eq!(error.class, class, "a failure is not a denial");
        }
        let done = "<TerminateInstancesResponse><instancesSet/></TerminateInstancesResponse>";
        let Ok(Verdict::Unclear { code, .. }) = ask(Step::Ok(done.into())).await else { panic!("unclear") };
        assert_eq!(code, "DryRunIgnored");
    }

    #[tokio::test]
    async fn credentials_are_asked_who_they_are_and_denials_explained() {
        let script = Script::start(vec![
            Step::Ok(
                "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/slurm</Arn>\
                 <UserId>U</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
                    .into(),
            ),
            Step::Ok(
                "<DecodeAuthorizationMessageResponse><DecodeAuthorizationMessageResult><DecodedMessage>{\"allowed\":false}\
                 </DecodedMessage></DecodeAuthorizationMessageResult></DecodeAuthorizationMessageResponse>"
                    .into(),
            ),
            Step::Status(
                403,
                "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code><Message>bad token</Message>\
                 </Error><RequestId>r</RequestId></ErrorResponse>"
                    .into(),
            ),
        ]);
        let sts = Ec2Options { sts_endpoint_url: Some(script.url.clone()), ..options("http://127.0.0.1:1") };
        let ec2 = Ec2::new(sts);
        let caller =
            Caller { account: "111122223333".into(), arn: "arn:aws:iam::111122223333:user/slurm".into() };
        assert_eq!(ec2.caller(account()).await, Ok(caller));
        assert_eq!(ec2.decode_denial(account(), "AbC-1".into()).await, Ok("{\"allowed\":false}".into()));
        assert_eq!(script.requests()[1]["EncodedMessage"], "AbC-1");
        let error = ec2.caller(account()).await.expect_err("refused");
        assert_eq!(
            (error.class, &*error.code),
            (ErrorClass::Permission, "InvalidClientTokenId"),
            "{error:?}"
        );
    }
}
