//! What kubelet and driver say to each other: the registration of plugins, version v1, the DRA plugin API, version v1, and the
//! health check of gRPC, as far as they are needed here.
//!
//! The numbers are the interfaces' own. Whatever else a message may hold is skipped when it is read, and absent when it is
//! written.

use std::collections::HashMap;

/// The service by which the kubelet learns who is there.
pub(crate) const REGISTRATION: &str = "pluginregistration.Registration";
/// The service that prepares claims.
pub(crate) const DRA_PLUGIN: &str = "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin";
/// The service of probes.
pub(crate) const HEALTH: &str = "grpc.health.v1.Health";

/// The kind of plugin that this is.
pub(crate) const PLUGIN_TYPE: &str = "DRAPlugin";
/// The interface that it offers, in the words of its registration.
pub(crate) const PLUGIN_VERSION: &str = "v1.DRAPlugin";
/// What a healthy service answers.
pub(crate) const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Empty {}

/// Who this is.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PluginInfo {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// The path of the socket at which claims are prepared.
    #[prost(string, tag = "3")]
    pub(crate) endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) supported_versions: Vec<String>,
}

/// What the kubelet thinks of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub(crate) plugin_registered: bool,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

/// Which claims are to be prepared, or no longer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ClaimsRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) claims: Vec<ClaimName>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ClaimName {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
}

/// What came of it, by the claims' UIDs.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PrepareResponse {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) claims: HashMap<String, Prepared>,
}

/// A prepared claim, or an error.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Prepared {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<PreparedDevice>,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PreparedDevice {
    #[prost(string, repeated, tag = "1")]
    pub(crate) request_names: Vec<String>,
    #[prost(string, tag = "2")]
    pub(crate) pool_name: String,
    #[prost(string, tag = "3")]
    pub(crate) device_name: String,
    /// By what the container runtime knows it.
    #[prost(string, repeated, tag = "4")]
    pub(crate) cdi_device_ids: Vec<String>,
}

/// What came of it, by the claims' UIDs.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UnprepareResponse {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) claims: HashMap<String, Unprepared>,
}

/// Nothing, or an error.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Unprepared {
    #[prost(string, tag = "1")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthResponse {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}
