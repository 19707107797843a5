//! The command line. What the operator says to every driver's pod by variables needs no flag.

use std::path::PathBuf;

use clap::Parser;

use crate::devices::Search;

/// Offers device nodes to pods by resource claims
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// The driver's name, as in the Module's `spec.dra.driverName`
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) driver_name: String,

    #[command(flatten)]
    pub(crate) search: Search,

    /// The node that this runs on
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: String,

    /// Where the container runtime looks for descriptions of devices
    #[arg(long, env = "CDI_ROOT", default_value = "/var/run/cdi", value_name = "FOLDER")]
    pub(crate) cdi_root: PathBuf,

    /// Where drivers have a folder each
    #[arg(
        long,
        env = "KUBELET_PLUGINS_DIRECTORY_PATH",
        default_value = "/var/lib/kubelet/plugins",
        value_name = "FOLDER"
    )]
    plugins: PathBuf,

    /// Where the kubelet looks for drivers that want to register
    #[arg(
        long,
        env = "KUBELET_REGISTRAR_DIRECTORY_PATH",
        default_value = "/var/lib/kubelet/plugins_registry",
        value_name = "FOLDER"
    )]
    registrar: PathBuf,

    /// The port of liveness probes; without one there are none
    #[arg(long, env = "HEALTHCHECK_PORT", value_name = "PORT")]
    pub(crate) healthcheck_port: Option<u16>,
}

impl Args {
    /// Where the kubelet asks to prepare claims.
    pub(crate) fn driver_socket(&self) -> PathBuf {
        self.plugins.join(&self.driver_name).join("dra.sock")
    }

    /// Where the kubelet asks who this is.
    ///
    /// It sends the socket's path as the name of the host that it wants (`:authority`), which HTTP/2 as it is implemented here
    /// refuses: a host's name holds no `/`, not even an encoded one. A user's name may, and it ends at the `@`.
    pub(crate) fn registration_socket(&self) -> PathBuf {
        self.registrar.join(format!("{}@registration.sock", self.driver_name))
    }
}

#[cfg(test)]
mod tests {
    use http::uri::Authority;

    use super::*;

    #[test]
    fn the_registration_sockets_path_will_do_as_the_name_of_a_host() {
        let line = ["driver", "--driver-name=lab.example", "--device=/dev/lab", "--node-name=loom"];
        let socket = Args::parse_from(line).registration_socket();
        let authority = socket.display().to_string().replace('/', "%2F");
        assert_eq!(
            authority.parse::<Authority>().map(|it| it.host().to_owned()).ok().as_deref(),
            Some("registration.sock")
        );
    }
}
