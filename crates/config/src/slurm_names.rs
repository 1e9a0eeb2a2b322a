// SPDX-License-Identifier: GPL-3.0-or-later
//! Names of the parameters in slurm.conf(5), of Slurm 22.05 to 26.05 together, to tell a misspelt one.

/// Parameters of their own line.
#[rustfmt::skip]
pub(super) const SLURM_CONF: &[&str] = &[
    "AccountingStorageBackupHost", "AccountingStorageEnforce", "AccountingStorageExternalHost",
    "AccountingStorageHost", "AccountingStorageLoc", "AccountingStorageParameters", "AccountingStoragePass",
    "AccountingStoragePort", "AccountingStorageTRES", "AccountingStorageType", "AccountingStorageUser",
    "AccountingStoreFlags", "AccountingStoreJobComment", "AcctGatherEnergyType", "AcctGatherFilesystemType",
    "AcctGatherInfinibandType", "AcctGatherInterconnectType", "AcctGatherNodeFreq", "AcctGatherProfileType",
    "AllowSpecResourcesUsage", "AuthAltParameters", "AuthAltTypes", "AuthInfo", "AuthType", "BackupAddr",
    "BackupController", "BatchStartTimeout", "BcastExclude", "BcastParameters", "BurstBufferParameters",
    "BurstBufferType", "CertgenParameters", "CertgenType", "CertmgrParameters", "CertmgrType",
    "CliFilterParameters", "CliFilterPlugins", "ClusterName", "CommunicationParameters", "CompleteWait",
    "ControlAddr", "ControlMachine", "CoreSpecPlugin", "CpuFreqDef", "CpuFreqGovernors", "CredType",
    "CryptoType", "DataParserParameters", "DebugFlags", "DefCPUPerGPU", "DefMemPerCPU", "DefMemPerGPU",
    "DefMemPerNode", "DependencyParameters", "DisableRootJobs", "EioTimeout", "EnforcePartLimits", "Epilog",
    "EpilogMsgTime", "EpilogSlurmctld", "EpilogTimeout", "ExtSensorsFreq", "ExtSensorsType",
    "FairShareDampeningFactor", "FastSchedule", "FederationParameters", "FirstJobId", "GetEnvTimeout",
    "GpuFreqDef", "GresTypes", "GroupUpdateForce", "GroupUpdateTime", "HashPlugin", "HealthCheckInterval",
    "HealthCheckNodeState", "HealthCheckProgram", "HealthCheckTimeout", "HttpParserType", "InactiveLimit",
    "InteractiveStepOptions", "JobAcctGatherFrequency", "JobAcctGatherParams", "JobAcctGatherType",
    "JobCompHost", "JobCompLoc", "JobCompParams", "JobCompPass", "JobCompPassScript", "JobCompPort",
    "JobCompType", "JobCompUser", "JobContainerType", "JobCredentialPrivateKey",
    "JobCredentialPublicCertificate", "JobFileAppend", "JobRequeue", "JobSubmitPlugins", "KeepAliveTime",
    "KillOnBadExit", "KillWait", "LaunchParameters", "LaunchType", "LicenseParameters", "Licenses",
    "LogTimeFormat", "MailDomain", "MailProg", "MaxArraySize", "MaxBatchRequeue", "MaxDBDMsgs",
    "MaxJobCount", "MaxJobId", "MaxMemPerCPU", "MaxMemPerNode", "MaxNodeCount", "MaxStepCount",
    "MaxTasksPerNode", "MCSParameters", "MCSPlugin", "MessageTimeout", "MetricsAuthUsers",
    "MetricsParameters", "MetricsType", "MinJobAge", "MpiDefault", "MpiParams", "NamespaceType",
    "NodeFeaturesPlugins", "OverTimeLimit", "PluginDir", "PlugStackConfig", "PowerAction",
    "PowerParameters", "PowerPlugin", "PreemptExemptTime", "PreemptMode", "PreemptParameters",
    "PreemptType", "PrEpParameters", "PrEpPlugins", "PriorityCalcPeriod", "PriorityDecayHalfLife",
    "PriorityFavorSmall", "PriorityFlags", "PriorityMaxAge", "PriorityParameters",
    "PrioritySiteFactorParameters", "PrioritySiteFactorPlugin", "PriorityType", "PriorityUsageResetPeriod",
    "PriorityWeightAge", "PriorityWeightAssoc", "PriorityWeightFairshare", "PriorityWeightJobSize",
    "PriorityWeightPartition", "PriorityWeightQOS", "PriorityWeightTRES", "PrivateData", "ProctrackType",
    "Prolog", "PrologEpilogTimeout", "PrologFlags", "PrologSlurmctld", "PrologTimeout",
    "PropagatePrioProcess", "PropagateResourceLimits", "PropagateResourceLimitsExcept", "RebootProgram",
    "ReconfigFlags", "RequeueExit", "RequeueExitHold", "ResumeFailProgram", "ResumeProgram", "ResumeRate",
    "ResumeTimeout", "ResvEpilog", "ResvOverRun", "ResvProlog", "ReturnToService", "RoutePlugin",
    "SallocDefaultCommand", "SbcastParameters", "SchedulerAuth", "SchedulerParameters",
    "SchedulerTimeSlice", "SchedulerType", "ScronParameters", "SelectType", "SelectTypeParameters",
    "SlurmctldAddr", "SlurmctldDebug", "SlurmctldHost", "SlurmctldHttpAuthParameters", "SlurmctldLogFile",
    "SlurmctldParameters", "SlurmctldPidFile", "SlurmctldPlugstack", "SlurmctldPort",
    "SlurmctldPrimaryOffProg", "SlurmctldPrimaryOnProg", "SlurmctldSyslogDebug", "SlurmctldTimeout",
    "SlurmdDebug", "SlurmdHttpAuthParameters", "SlurmdLogFile", "SlurmdParameters", "SlurmdPidFile",
    "SlurmdPort", "SlurmdSpoolDir", "SlurmdSyslogDebug", "SlurmdTimeout", "SlurmdUser", "SlurmSchedLogFile",
    "SlurmSchedLogLevel", "SlurmUser", "SrunEpilog", "SrunPortRange", "SrunProlog", "StateSaveLocation",
    "SuspendExcNodes", "SuspendExcParts", "SuspendExcStates", "SuspendProgram", "SuspendRate",
    "SuspendTime", "SuspendTimeout", "SwitchParameters", "SwitchType", "TaskEpilog", "TaskPlugin",
    "TaskPluginParam", "TaskProlog", "TCPTimeout", "TLSParameters", "TLSType", "TmpFS", "TopologyParam",
    "TopologyPlugin", "TrackWCKey", "TreeWidth", "UnkillableStepProgram", "UnkillableStepTimeout",
    "UrlParserType", "UsePAM", "VSizeFactor", "WaitTime",
];

/// Parameters of a NodeName line.
#[rustfmt::skip]
pub(super) const NODE_NAME: &[&str] = &[
    "BcastAddr", "Boards", "CoreSpecCount", "CoresPerSocket", "CpuBind", "CPUs", "CPUSpecList", "Feature",
    "Features", "Gres", "GresConf", "MemSpecLimit", "NodeAddr", "NodeHostname", "Parameters", "Port",
    "Procs", "RealMemory", "Reason", "RestrictedCoresPerGPU", "Sockets", "SocketsPerBoard", "State",
    "SuspendTime", "ThreadsPerCore", "TmpDisk", "Topology", "TRESWeights", "Weight",
];

/// Parameters of a PartitionName line.
#[rustfmt::skip]
pub(super) const PARTITION_NAME: &[&str] = &[
    "AllocNodes", "AllowAccounts", "AllowGroups", "AllowQos", "Alternate", "CpuBind", "Default",
    "DefaultTime", "DefCPUPerGPU", "DefMemPerCPU", "DefMemPerGPU", "DefMemPerNode", "DenyAccounts",
    "DenyQos", "DisableRootJobs", "ExclusiveTopo", "ExclusiveUser", "GraceTime", "Hidden", "LLN",
    "MaxCPUsPerNode", "MaxCPUsPerSocket", "MaxMemPerCPU", "MaxMemPerNode", "MaxNodes", "MaxTime",
    "MinNodes", "Nodes", "OverSubscribe", "OverTimeLimit", "PowerDownOnIdle", "PreemptMode", "Priority",
    "PriorityJobFactor", "PriorityTier", "QOS", "ReqResv", "ResumeTimeout", "RootOnly",
    "SelectTypeParameters", "Shared", "State", "SuspendTime", "SuspendTimeout", "Topology",
    "TRESBillingWeights",
];
