//! The command line. Every flag has an environment variable, every bad value an answer that says what is expected.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tenon_api::labels;
use tenon_image::ImageReference;
use tenon_image::reference::ReferenceError;
use tenon_plan::facts_image;
use tenon_plan::template::TemplateError;

use crate::logs::LogFilter;
use crate::mirrors::Mirror;

/// The images of this version.
const MAKER_IMAGE: &str = concat!("registry.tenon.dev/tenon-maker:", env!("CARGO_PKG_VERSION"));
const BUILDER_IMAGE: &str = concat!("registry.tenon.dev/tenon-builder:", env!("CARGO_PKG_VERSION"));

/// How the operator runs.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tenon-operator",
    version,
    about = "Manages kernel modules on the nodes of a Kubernetes cluster"
)]
pub struct Args {
    /// Namespace of the operator and of everything that is its own
    #[arg(long, env = "TENON_NAMESPACE", default_value = "tenon-system", value_parser = namespace)]
    pub namespace: String,

    /// Kubeconfig to use instead of the pod's own ServiceAccount or the usual kubeconfig
    #[arg(long, env = "TENON_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Name of this replica in the lease and in events [default: the host's name and a random part]
    #[arg(long, env = "TENON_IDENTITY")]
    pub identity: Option<String>,

    /// Where the depot serves bundles to the nodes
    #[arg(long, env = "TENON_LISTEN_DEPOT", default_value = "0.0.0.0:8443", value_name = "ADDRESS")]
    pub listen_depot: SocketAddr,

    /// Where metrics, liveness and readiness are served
    #[arg(long, env = "TENON_LISTEN_ADMIN", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub listen_admin: SocketAddr,

    /// Where agents find the depot; repeatable [default: the Service tenon-depot by address and name, port 8443]
    #[arg(long, env = "TENON_ADVERTISE", value_name = "URL", value_delimiter = ',')]
    pub advertise: Vec<DepotUrl>,

    /// Address of the depot's Service, as Kubernetes tells every container; agents need no cluster DNS for it
    #[arg(long, env = "TENON_DEPOT_SERVICE_HOST", hide = true)]
    pub depot_service_host: Option<std::net::IpAddr>,

    /// Directory of the depot's bundles
    #[arg(long, env = "TENON_CACHE_DIR", default_value = "/var/cache/tenon", value_name = "PATH")]
    pub cache_dir: PathBuf,

    /// Bytes that the bundles may take, for example 512Mi, 2Gi or 2000000000
    #[arg(long, env = "TENON_CACHE_LIMIT", default_value = "2Gi", value_name = "SIZE")]
    pub cache_limit: ByteSize,

    /// Bundles that are sent at the same time; further nodes are asked to come back
    #[arg(long, env = "TENON_DEPOT_TRANSFERS", default_value_t = 32, value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub depot_transfers: u16,

    /// Writes that the controllers may send to the API server per second, on average
    #[arg(long, env = "TENON_WRITES_PER_SECOND", default_value_t = 500, value_name = "NUMBER",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub writes_per_second: u32,

    /// Seconds that the API server may take to begin an answer; then the request counts as failed and its turn comes again
    #[arg(long, env = "TENON_API_TIMEOUT", default_value_t = 15, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..=300))]
    pub api_timeout: u16,

    /// Settings of one registry; repeatable: `host[:port][,plain-http][,insecure-skip-verify][,ca-file=PATH]`
    #[arg(long = "registry", env = "TENON_REGISTRY", value_name = "SETTINGS", value_delimiter = ' ')]
    pub registries: Vec<RegistrySettings>,

    /// Where images are looked for first, by the beginning of their names, or only there; repeatable: `PREFIX=MIRROR[,only]`
    #[arg(long = "mirror", env = "TENON_MIRROR", value_name = "PREFIX=MIRROR", value_delimiter = ' ')]
    pub mirrors: Vec<Mirror>,

    /// Image that holds a kernel's headers, package or toolkit, with the variables of image names; repeatable
    #[arg(long = "facts-image", env = "TENON_FACTS_IMAGE", value_name = "TEMPLATE", value_delimiter = ',',
          value_parser = facts_image)]
    pub facts_images: Vec<String>,

    /// Pull secret for these images, in the operator's namespace
    #[arg(long, env = "TENON_FACTS_IMAGE_SECRET", value_name = "NAME", requires = "facts_images")]
    pub facts_image_secret: Option<String>,

    /// Image of the program that signs modules and publishes images, in Jobs in the Modules' namespaces
    #[arg(long, env = "TENON_MAKER_IMAGE", default_value = MAKER_IMAGE, value_name = "IMAGE")]
    pub maker_image: ImageReference,

    /// Image of the builder, for Modules with `build`; its Containerfile is in images/builder
    #[arg(long, env = "TENON_BUILDER_IMAGE", default_value = BUILDER_IMAGE, value_name = "IMAGE")]
    pub builder_image: ImageReference,

    /// Driver toolkit of a kernel, with the variables of image names: what `DTK_AUTO` stands for in Dockerfiles
    /// [default: on OpenShift, what ImageStream `openshift/driver-toolkit` has for the version of the nodes' system]
    #[arg(long, env = "TENON_TOOLKIT_IMAGE", value_name = "TEMPLATE", value_parser = facts_image)]
    pub toolkit_image: Option<String>,

    /// Jobs that make images at the same time, in the whole cluster; further ones wait for their turn
    #[arg(long, env = "TENON_JOBS_AT_ONCE", default_value_t = 4, value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs_at_once: u16,

    /// Label `key=value` of the nodes that may pull images for the operator where their registry denies it; repeatable, a node has
    /// all of them. What such a node says an image holds is loaded on others: take a label that nodes cannot give themselves
    /// [default: no node may]
    #[arg(long, env = "TENON_PULL_THROUGH_NODES", value_name = "LABEL", value_delimiter = ',', value_parser = label)]
    pub pull_through_nodes: Vec<(String, String)>,

    /// Seconds after which what a built image was made from is looked at again: Dockerfile, base images, Secrets
    #[arg(long, env = "TENON_LOOK_AGAIN", default_value_t = 300, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub look_again: u32,

    /// What becomes of images that Tenon has made in the cluster and that nothing needs any more
    #[arg(long, env = "TENON_UNNEEDED_IMAGES", default_value = "report", value_name = "WHAT")]
    pub unneeded_images: Unneeded,

    /// For how long nothing must have needed them before they are deleted, for example 30d, 12h or 90s
    #[arg(long, env = "TENON_UNNEEDED_AFTER", default_value = "30d", value_name = "TIME")]
    pub unneeded_after: Span,

    /// What the nodes' kernels do about modules without a signature that they trust: load them, or refuse them because of
    /// `module.sig_enforce`, Secure Boot or lockdown
    #[arg(long, env = "TENON_NODES_SIGNATURES", default_value = "permissive", value_name = "WHAT")]
    pub nodes_signatures: SignaturePolicy,

    /// Certificate that the nodes' kernels trust, PEM or DER, or a directory of such files; repeatable
    #[arg(long, env = "TENON_NODES_TRUST", value_name = "PATH", value_delimiter = ',')]
    pub nodes_trust: Vec<PathBuf>,

    /// Whether replicas agree on a leader; off only where there is never a second one
    #[arg(long, env = "TENON_LEADER_ELECTION", default_value = "on", value_name = "on|off")]
    pub leader_election: Switch,

    /// Form of the log
    #[arg(long, env = "TENON_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: a level, or directives such as `info,tenon_operator=debug`
    #[arg(long, env = "TENON_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: LogFilter,
}

impl Args {
    /// Where agents are told to find the depot.
    pub fn advertised(&self) -> Vec<DepotUrl> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        let name = DepotUrl { host: format!("tenon-depot.{}.svc", self.namespace), port: 8443 };
        let address = self.depot_service_host.map(|address| {
            let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
            DepotUrl { host, port: 8443 }
        });
        address.into_iter().chain([name]).collect()
    }
}

/// What becomes of images that nothing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unneeded {
    /// Their objects say so.
    Report,
    /// They are deleted from their registries.
    Delete,
}

/// What kernels do about modules without a signature that they trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SignaturePolicy {
    /// They load them.
    Permissive,
    /// `module.sig_enforce=1`, or Secure Boot.
    Enforced,
    /// `lockdown=integrity` or more, without the former.
    Lockdown,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Why a flag's value is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// Not the name of a namespace.
    #[error(
        "expected a namespace's name: at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    Namespace,
    /// Not an address of a depot.
    #[error(
        "expected https://<host>[:port] without path, for example https://tenon-depot.tenon-system.svc:8443"
    )]
    DepotUrl,
    /// Not a number of bytes.
    #[error("expected a number of bytes, plain or with Ki, Mi, Gi, Ti, k, M, G or T, for example 2Gi")]
    ByteSize,
    /// Not a span of time.
    #[error("expected a number with d, h, m or s, more than zero and less than ten years, for example 30d")]
    Span,
    /// Not a registry's host.
    #[error("expected <host>[:port] first, as in the names of images, for example registry.example.com:5000")]
    RegistryHost,
    /// A registry setting that does not exist.
    #[error("expected plain-http, insecure-skip-verify or ca-file=PATH after the registry's host")]
    RegistryOption,
    /// Not a mirror.
    #[error(
        "expected <prefix>=<mirror>[,only], each the beginning of an image's name, for example quay.io/acme=registry.example.com/quay/acme"
    )]
    Mirror,
    /// A template that no kernel can have an image by.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A template that gives no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Not a label.
    #[error("expected a label as key=value, for example node-restriction.kubernetes.io/pulls=true")]
    Label,
    /// Settings that exclude each other.
    #[error("plain-http excludes insecure-skip-verify and ca-file: without TLS there is nothing to verify")]
    PlainHttpWithTls,
}

fn facts_image(text: &str) -> Result<String, BadValue> {
    let _: ImageReference = facts_image::example(text)?.parse()?;
    Ok(text.to_owned())
}

fn label(text: &str) -> Result<(String, String), BadValue> {
    let (key, value) = text.split_once('=').ok_or(BadValue::Label)?;
    // A key is a name, perhaps behind a domain; names follow the rules of values.
    let is_key = key.rsplit('/').all(|part| !part.is_empty() && labels::is_value(part))
        && key.matches('/').count() <= 1;
    (is_key && labels::is_value(value)).then(|| (key.to_owned(), value.to_owned())).ok_or(BadValue::Label)
}

fn namespace(text: &str) -> Result<String, BadValue> {
    is_dns_label(text).then(|| text.to_owned()).ok_or(BadValue::Namespace)
}

fn is_dns_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// An address at which agents reach a depot: `https://<host>:<port>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepotUrl {
    host: String,
    port: u16,
}

impl DepotUrl {
    /// The host that the depot's certificate must name; an IPv6 address stands without brackets.
    pub fn host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }
}

impl FromStr for DepotUrl {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let uri: http::Uri = text.parse().map_err(|_| BadValue::DepotUrl)?;
        let authority = uri.authority().ok_or(BadValue::DepotUrl)?;
        let bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        if uri.scheme_str() != Some("https")
            || !bare
            || authority.as_str().contains('@')
            || authority.host().is_empty()
        {
            return Err(BadValue::DepotUrl);
        }
        let named_port =
            authority.as_str().strip_prefix(authority.host()).is_some_and(|rest| !rest.is_empty());
        let port = match authority.port_u16() {
            Some(port) if port != 0 => port,
            None if !named_port => 443,
            _ => return Err(BadValue::DepotUrl),
        };
        Ok(DepotUrl { host: authority.host().to_owned(), port })
    }
}

impl std::fmt::Display for DepotUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

/// A number of bytes, written as Kubernetes writes quantities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err(BadValue::ByteSize),
        };
        let number: u64 = number.parse().map_err(|_| BadValue::ByteSize)?;
        number.checked_mul(factor).map(ByteSize).ok_or(BadValue::ByteSize)
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A span of time, written as people do: `30d`, `12h`, `15m`, `90s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        const TEN_YEARS: u64 = 10 * 365 * 24 * 3600;
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return Err(BadValue::Span),
        };
        let number: u64 = number.parse().map_err(|_| BadValue::Span)?;
        let seconds = number.checked_mul(seconds).filter(|seconds| (1..TEN_YEARS).contains(seconds));
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or(BadValue::Span)
    }
}

/// How one registry is spoken to, beyond what images and Modules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrySettings {
    /// `host[:port]` as it stands in the names of images.
    pub host: String,
    /// HTTP instead of HTTPS.
    pub plain_http: bool,
    /// Any certificate is taken.
    pub insecure_skip_verify: bool,
    /// PEM file of authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl FromStr for RegistrySettings {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let mut parts = text.split(',');
        let host = parts.next().unwrap_or_default();
        let authority: http::uri::Authority = host.parse().map_err(|_| BadValue::RegistryHost)?;
        if authority.host().is_empty() || host.contains('@') {
            return Err(BadValue::RegistryHost);
        }
        let mut settings = RegistrySettings {
            host: host.to_owned(),
            plain_http: false,
            insecure_skip_verify: false,
            ca_file: None,
        };
        for part in parts {
            match part.split_once('=') {
                None if part == "plain-http" => settings.plain_http = true,
                None if part == "insecure-skip-verify" => settings.insecure_skip_verify = true,
                Some(("ca-file", path)) if !path.is_empty() => settings.ca_file = Some(path.into()),
                _ => return Err(BadValue::RegistryOption),
            }
        }
        if settings.plain_http && (settings.insecure_skip_verify || settings.ca_file.is_some()) {
            return Err(BadValue::PlainHttpWithTls);
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn parse(flags: &[&str]) -> Result<Args, String> {
        let all = std::iter::once("tenon-operator").chain(flags.iter().copied());
        Args::try_parse_from(all).map_err(|error| error.to_string())
    }

    #[test]
    fn no_flags_are_needed() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.namespace, "tenon-system");
        assert_eq!(args.cache_limit, ByteSize(2 << 30));
        assert_eq!(args.advertised()[0].to_string(), "https://tenon-depot.tenon-system.svc:8443");
    }

    #[test]
    fn the_default_address_follows_the_namespace() {
        let args = parse(&["--namespace", "drivers"]).unwrap();
        assert_eq!(args.advertised()[0].host(), "tenon-depot.drivers.svc");
    }

    #[rstest]
    #[case("30d", Some(2_592_000))]
    #[case("12h", Some(43_200))]
    #[case("90s", Some(90))]
    #[case("0d", None)]
    #[case("30", None)]
    #[case("d", None)]
    #[case("-1d", None)]
    #[case("1,5h", None)]
    #[case("99999999999999999d", None)]
    fn spans_of_time(#[case] given: &str, #[case] seconds: Option<u64>) {
        assert_eq!(given.parse().ok(), seconds.map(|seconds| Span(Duration::from_secs(seconds))));
    }

    #[test]
    fn nothing_is_deleted_unless_it_is_allowed() {
        assert_eq!(parse(&[]).unwrap().unneeded_images, Unneeded::Report);
    }

    #[rstest]
    #[case("https://10.0.0.7:9000", "10.0.0.7", "https://10.0.0.7:9000")]
    #[case("https://[fd00::7]:9000/", "fd00::7", "https://[fd00::7]:9000")]
    #[case("https://depot.example.org", "depot.example.org", "https://depot.example.org:443")]
    fn addresses_of_the_depot(#[case] given: &str, #[case] host: &str, #[case] shown: &str) {
        let url: DepotUrl = given.parse().unwrap();
        assert_eq!((url.host(), url.to_string().as_str()), (host, shown));
    }

    #[rstest]
    #[case("http://depot:8443")]
    #[case("https://depot:8443/v1")]
    #[case("https://user@depot")]
    #[case("https://depot:99999")]
    #[case("https://depot:0")]
    #[case("depot:8443")]
    #[case("")]
    fn what_is_no_address_of_a_depot(#[case] given: &str) {
        assert_eq!(given.parse::<DepotUrl>(), Err(BadValue::DepotUrl));
    }

    #[rstest]
    #[case("17", 17)]
    #[case("512Mi", 512 << 20)]
    #[case("3G", 3_000_000_000)]
    fn sizes(#[case] given: &str, #[case] bytes: u64) {
        assert_eq!(given.parse(), Ok(ByteSize(bytes)));
    }

    #[rstest]
    #[case("Gi")]
    #[case("-1")]
    #[case("2GB")]
    #[case("1.5Gi")]
    #[case("99999999999Ti")]
    fn what_is_no_size(#[case] given: &str) {
        assert_eq!(given.parse::<ByteSize>(), Err(BadValue::ByteSize));
    }

    #[test]
    fn a_registry_has_its_settings_behind_its_host() {
        let args = parse(&[
            "--registry",
            "mirror.example:5000,plain-http",
            "--registry",
            "quay.example,insecure-skip-verify,ca-file=/etc/ca.pem",
        ])
        .unwrap();
        assert_eq!(args.registries.len(), 2);
        assert!(args.registries[0].plain_http);
        assert_eq!(args.registries[1].ca_file, Some("/etc/ca.pem".into()));
    }

    #[rstest]
    #[case("", BadValue::RegistryHost)]
    #[case("https://quay.example", BadValue::RegistryHost)]
    #[case("quay.example,ca-file=", BadValue::RegistryOption)]
    #[case("quay.example,tls", BadValue::RegistryOption)]
    #[case("quay.example,plain-http,ca-file=/x", BadValue::PlainHttpWithTls)]
    fn what_is_no_registry(#[case] given: &str, #[case] expected: BadValue) {
        assert_eq!(given.parse::<RegistrySettings>(), Err(expected));
    }

    #[rstest]
    #[case(&["--namespace", "Tenon"], "a namespace's name")]
    #[case(&["--depot-transfers", "0"], "0 is not in 1..")]
    #[case(&["--log-level", "chatty==x"], "log")]
    #[case(&["--advertise", "http://x"], "https://<host>[:port]")]
    #[case(&["--pull-through-nodes", "forge"], "node-restriction.kubernetes.io/pulls=true")]
    #[case(&["--pull-through-nodes", "=yes"], "node-restriction.kubernetes.io/pulls=true")]
    #[case(&["--pull-through-nodes", "a/b/c=yes"], "node-restriction.kubernetes.io/pulls=true")]
    #[case(&["--facts-image", "reg/a:${KERNEL}"], "KERNEL_FULL_VERSION")]
    #[case(&["--facts-image", "reg/A:1"], "lower-case")]
    fn a_bad_value_is_answered_with_what_is_expected(#[case] flags: &[&str], #[case] answer: &str) {
        let message = parse(flags).unwrap_err();
        assert!(message.contains(answer), "{message}");
    }

    #[test]
    fn images_with_facts_are_named_one_by_one_or_in_a_list() {
        let args = parse(&[
            "--facts-image",
            "reg/a:${KERNEL_X},reg/b:1",
            "--facts-image",
            "reg/c:${KERNEL_RHEL_ARCH}",
        ]);
        assert_eq!(args.unwrap().facts_images, ["reg/a:${KERNEL_X}", "reg/b:1", "reg/c:${KERNEL_RHEL_ARCH}"]);
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        use clap::CommandFactory;
        let command = Args::command();
        for flag in
            command.get_arguments().filter(|flag| !matches!(flag.get_id().as_str(), "help" | "version"))
        {
            let name = flag.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let expected = format!("TENON_{}", flag.get_long().unwrap().replace('-', "_").to_uppercase());
            assert_eq!(name, expected);
        }
    }
}
