#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# packages-inside.sh SUITE    inside a root, with the packages in /media: called by packages.sh
set -eu
suite=$1
export DEBIAN_FRONTEND=noninteractive
state=/var/lib/slurm/slurmctld/ec2fleet

check() { # WHAT COMMAND...
	what=$1
	shift
	if "$@" >/tmp/check.log 2>&1; then
		echo "  ok: $what"
	else
		echo "  FAILED: $what"
		cat /tmp/check.log
		tail -n 30 /tmp/slurmctld.log 2>/dev/null || :
		exit 1
	fi
}
refuse() { ! "$@"; }
# Until it holds, for a minute at most.
soon() {
	for _ in $(seq 300); do
		if "$@"; then return 0; fi
		sleep 0.2
	done
	return 1
}
install() {
	# No network in here: what is needed is in the root already.
	apt-get install -y --no-install-recommends --allow-downgrades "$@"
}
packages() { echo "/media/$1"/*.deb "/media/$1/$suite"/*.deb; }
control() { curl -sf "$(cat /tmp/emulator.port)/_control/$1"; }
instances() { [ "$(control instances | grep -o '"instance_id":"[^"]*"' | sort -u | wc -l)" = "$1" ]; }
fleets() { control calls | grep -q "\"CreateFleet\":$1[,}]"; }
active() { ec2fleet status --json | tr -d ' \n' | grep -q '"state":"active"'; }
addressed() { scontrol -o show node aws-spot-0 | grep -q 'NodeAddr=127\.10\.'; }
start_slurmctld() {
	slurmctld -D >>/tmp/slurmctld.log 2>&1 &
	slurmctld=$!
}

check "the shim of another Slurm release is refused" refuse install /media/other/*.deb /media/1/slurm-ec2-fleet_*.deb
# shellcheck disable=SC2046 # several packages
check "install" install $(packages 1)
plugins=$(dpkg -L slurm-wlm-basic-plugins | sed -n 's|/auth_munge\.so$||p')
check "the library is next to the shim" test -e "$plugins/libslurm_ec2_fleet.so" -a -e "$plugins/job_submit_ec2_fleet.so"
check "files are as packaged" dpkg --verify slurm-ec2-fleet slurm-ec2-fleet-node
check "the tool runs" ec2fleet --version
check "manual pages" sh -c 'ls /usr/share/man/man1/ec2fleet.1.gz /usr/share/man/man8/ec2fleet-resume.8.gz'
check "completion for bash parses" bash -n /usr/share/bash-completion/completions/ec2fleet
check "the shim can be built from its source" make -C /usr/share/slurm-ec2-fleet/c_shim OUT=/tmp/shim

# A cluster of the packaged files alone, slurmctld as the user slurm.
cat >/tmp/scenario.json <<-END
	{"subnets": [{"id": "subnet-0000000a", "zone": "a", "cidr": "127.10.0.0/16"}]}
END
ec2-emulator --listen 127.0.0.1:0 --port-file /tmp/emulator.port --scenario /tmp/scenario.json >/tmp/emulator.log 2>&1 &
check "the emulator starts" soon test -s /tmp/emulator.port
check "a launch template" curl -sf "$(cat /tmp/emulator.port)" -d Action=CreateLaunchTemplate -d Version=2016-11-15 \
	-d LaunchTemplateName=node -d LaunchTemplateData.ImageId=ami-00000000000000001
install -d -m 755 -o munge -g munge /run/munge 2>/dev/null || { mkdir -p /run/munge && chown munge:munge /run/munge; }
[ -s /etc/munge/munge.key ] || { head -c 128 /dev/urandom >/etc/munge/munge.key; chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
su -s /bin/sh munge -c 'munged --force'
cat >/etc/slurm/config.json <<-END
	{"LogLevel": "DEBUG", "SlurmBinPath": "/usr/bin", "LogFileName": "/var/log/slurm/ec2fleet.log",
	 "EndpointUrl": "$(cat /tmp/emulator.port)",
	 "SlurmConf": {"PrivateData": "CLOUD", "ResumeProgram": "/usr/bin/ec2fleet-resume",
	  "SuspendProgram": "/usr/bin/ec2fleet-suspend", "ResumeRate": 100, "SuspendRate": 100, "ResumeTimeout": 300,
	  "SuspendTime": 3600, "TreeWidth": 60000}}
END
cat >/etc/slurm/partitions.json <<-END
	{"Partitions": [{"PartitionName": "aws", "NodeGroups": [{"NodeGroupName": "spot", "MaxNodes": 4, "Region": "us-east-1",
	 "SlurmSpecifications": {"CPUs": "1"}, "PurchasingOption": "spot",
	 "LaunchTemplateSpecification": {"LaunchTemplateName": "node", "Version": "\$Latest"},
	 "LaunchTemplateOverrides": [{"InstanceType": "c5.large"}], "SubnetIds": ["subnet-0000000a"]}]}]}
END
cat >/etc/slurm/slurm.conf <<-END
	ClusterName=packages
	SlurmctldHost=localhost(127.0.0.1)
	SlurmUser=slurm
	StateSaveLocation=/var/lib/slurm/slurmctld
	SlurmctldPidFile=/tmp/slurmctld.pid
	ProctrackType=proctrack/pgid
	AccountingStorageType=accounting_storage/none
	MpiDefault=none
	JobSubmitPlugins=ec2_fleet
	ResumeProgram=/usr/bin/ec2fleet-resume
	SuspendProgram=/usr/bin/ec2fleet-suspend
	ResumeFailProgram=/usr/bin/ec2fleet-resume-fail
	ResumeTimeout=300
	SuspendTime=3600
	SuspendTimeout=30
	ReturnToService=2
	TreeWidth=65533
	SlurmctldParameters=idle_on_node_suspend
	NodeName=aws-spot-[0-3] CPUs=1 State=CLOUD
	PartitionName=aws Nodes=aws-spot-[0-3] Default=YES State=UP
END
mkdir -p /var/lib/slurm/slurmctld /var/log/slurm
chown slurm:slurm /var/lib/slurm/slurmctld /var/log/slurm
check "the configuration is valid" ec2fleet validate
start_slurmctld
check "slurmctld loads the plugin, and it acts" soon active
check "its state belongs to SlurmUser alone" test "$(stat -c '%U %a' $state)" = "slurm 700"
check "power up" soon scontrol update NodeName=aws-spot-0 State=POWER_UP
check "an instance is launched and addressed" soon addressed
check "one instance" instances 1

# shellcheck disable=SC2046
check "upgrade" install $(packages 2)
check "slurmctld runs on" kill -0 "$slurmctld"
check "the plugin acts on" active
kill "$slurmctld"
wait "$slurmctld" || :
start_slurmctld
check "the new library acts after the restart" soon active
check "the node has kept its instance" addressed
check "nothing was launched or ended" instances 1
check "one CreateFleet" fleets 1

check "remove" apt-get remove -y slurm-ec2-fleet slurm-ec2-fleet-node
check "purge" apt-get purge -y 'slurm-ec2-fleet*'
check "no file is left" test ! -e "$plugins/libslurm_ec2_fleet.so" -a ! -e "$plugins/job_submit_ec2_fleet.so" \
	-a ! -e /usr/bin/ec2fleet -a ! -e /usr/share/slurm-ec2-fleet -a ! -e /usr/libexec/slurm-ec2-fleet
check "journal and configuration are left" test -s $state/journal -a -s /etc/slurm/partitions.json
check "slurmctld runs on with what it has loaded" kill -0 "$slurmctld"
