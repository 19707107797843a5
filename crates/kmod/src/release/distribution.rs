//! Who built a kernel, read off its release. A convention of each distribution, not a promise: what is not recognized
//! is [`Distribution::Other`], and nothing may depend on a guess.

use std::fmt;

/// What a distribution put behind the upstream version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Distribution<'a> {
    /// Red Hat Enterprise Linux, its `CoreOS` and rebuilds: `4.18.0-348.23.1.el8_5.x86_64`.
    Rhel(Rpm<'a>),
    /// Oracle's Unbreakable Enterprise Kernel: `5.15.0-100.96.32.el8uek.x86_64`.
    OracleUek(Rpm<'a>),
    /// Fedora, its `CoreOS` too: `6.8.5-301.fc40.x86_64`.
    Fedora(Rpm<'a>),
    /// Amazon Linux: `6.1.82-99.168.amzn2023.x86_64`.
    Amazon(Rpm<'a>),
    /// Debian: `6.1.0-56-cloud-amd64`, `6.12.95+deb12-cloud-amd64`.
    Debian(Flavored<'a>),
    /// Ubuntu: `5.4.0-104-generic`.
    Ubuntu(Flavored<'a>),
    /// SUSE: `5.14.21-150500.55.52-default`.
    Suse(Flavored<'a>),
    /// Microsoft's Azure Linux, formerly Mariner: `6.6.64.2-3.azl3`.
    AzureLinux,
    /// Photon OS: `6.1.90-1.ph5`.
    Photon,
    /// Flatcar Container Linux: `6.6.30-flatcar`.
    Flatcar,
    /// Talos Linux: `6.6.33-talos`.
    Talos,
    /// None of those, or not to be told from its release (Container-Optimized OS, Bottlerocket, own builds).
    Other,
}

/// The builder of a kernel, without the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the variant of `Distribution` of the same name")]
pub enum Family {
    Rhel,
    OracleUek,
    Fedora,
    Amazon,
    Debian,
    Ubuntu,
    Suse,
    AzureLinux,
    Photon,
    Flatcar,
    Talos,
    Other,
}

/// A kernel package of the RPM world: `<upstream>-<release>.<arch>[+<variant>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rpm<'a> {
    /// The distribution's tag: `el8_5` of `348.23.1.el8_5`, `fc40`, `amzn2023`.
    pub version: &'a str,
    /// The package's release: `348.23.1.el8_5`.
    pub release: &'a str,
    /// The machine as `uname -m` says it: `x86_64`.
    pub arch: &'a str,
    /// `rt`, `64k`, `debug` and so on; none for the plain kernel.
    pub variant: Option<&'a str>,
}

/// A kernel that comes in flavours: `<upstream>-<release>-<flavor>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flavored<'a> {
    /// The build: `13` of `5.10.0-13-amd64`, `104` of `5.4.0-104-generic`. Newer Debian kernels have no number: `deb12`.
    pub release: &'a str,
    /// The flavour: `amd64`, `cloud-amd64`, `generic`, `aws`.
    pub flavor: &'a str,
}

impl Flavored<'_> {
    /// Whether this flavour is made for virtual machines of a cloud provider; such kernels lack many in-tree drivers.
    pub fn is_cloud(&self) -> bool {
        self.flavor.split('-').any(|word| CLOUD_WORDS.contains(&word))
    }
}

const CLOUD_WORDS: [&str; 10] =
    ["cloud", "virtual", "kvm", "aws", "azure", "gcp", "gke", "gkeop", "oracle", "ibm"];

/// First words of the flavours that Ubuntu has published kernels in.
const UBUNTU_FLAVORS: [&str; 26] = [
    "generic",
    "lowlatency",
    "virtual",
    "kvm",
    "aws",
    "azure",
    "gcp",
    "gke",
    "gkeop",
    "oracle",
    "ibm",
    "raspi",
    "raspi2",
    "nvidia",
    "oem",
    "intel",
    "fips",
    "realtime",
    "bluefield",
    "xilinx",
    "snapdragon",
    "starfive",
    "allwinner",
    "laptop",
    "cloud",
    "server",
];

/// Flavours of SUSE's kernels. `azure` and `rt` are told from others' by the dotted build number.
const SUSE_FLAVORS: [&str; 10] =
    ["default", "preempt", "kvmsmall", "vanilla", "pae", "64kb", "longterm", "azure", "rt", "coco"];

/// Last words of Debian's flavours: its names of architectures.
const DEBIAN_ARCHITECTURES: [&str; 22] = [
    "amd64",
    "arm64",
    "686",
    "pae",
    "armmp",
    "lpae",
    "rpi",
    "marvell",
    "powerpc64le",
    "powerpc64",
    "powerpc",
    "s390x",
    "riscv64",
    "loong64",
    "malta",
    "octeon",
    "mips64r2el",
    "mips32r2el",
    "alpha",
    "parisc64",
    "sparc64",
    "unsigned",
];

const MACHINES: [&str; 9] =
    ["x86_64", "aarch64", "ppc64le", "s390x", "i686", "ppc64", "armv7hl", "riscv64", "loongarch64"];

impl<'a> Distribution<'a> {
    /// Reads a release that has lost its trailing `+`.
    pub(super) fn of(release: &'a str) -> Self {
        rpm(release).or_else(|| flavored(release)).unwrap_or_else(|| tagged(release))
    }

    /// The builder alone.
    pub fn family(&self) -> Family {
        match self {
            Self::Rhel(_) => Family::Rhel,
            Self::OracleUek(_) => Family::OracleUek,
            Self::Fedora(_) => Family::Fedora,
            Self::Amazon(_) => Family::Amazon,
            Self::Debian(_) => Family::Debian,
            Self::Ubuntu(_) => Family::Ubuntu,
            Self::Suse(_) => Family::Suse,
            Self::AzureLinux => Family::AzureLinux,
            Self::Photon => Family::Photon,
            Self::Flatcar => Family::Flatcar,
            Self::Talos => Family::Talos,
            Self::Other => Family::Other,
        }
    }
}

fn rpm(release: &str) -> Option<Distribution<'_>> {
    let (_, package) = release.split_once('-')?;
    let (package, variant) = match package.split_once('+') {
        Some((package, variant)) => (package, Some(variant)),
        None => (package, None),
    };
    let (release, arch) = package.rsplit_once('.')?;
    if !MACHINES.contains(&arch) {
        return None;
    }
    // Rebuilders append words of their own (`el9_4.cloud`), so the tag is looked for from behind.
    let (version, build) = release.rsplit('.').find_map(|word| Some((word, rpm_tag(word)?)))?;
    Some(build(Rpm { version, release, arch, variant }))
}

fn rpm_tag<'a>(word: &str) -> Option<fn(Rpm<'a>) -> Distribution<'a>> {
    let numbered = |prefix| {
        word.strip_prefix(prefix).is_some_and(|rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if numbered("el") {
        return Some(if word.ends_with("uek") { Distribution::OracleUek } else { Distribution::Rhel });
    }
    if numbered("fc") {
        return Some(Distribution::Fedora);
    }
    numbered("amzn").then_some(Distribution::Amazon)
}

fn flavored(release: &str) -> Option<Distribution<'_>> {
    debian_suffix(release).or_else(|| {
        let (_, rest) = release.split_once('-')?;
        let (build, flavor) = rest.split_once('-')?;
        if !build.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let kernel = Flavored { release: build, flavor };
        let (first, last) = (flavor.split('-').next()?, flavor.rsplit('-').next()?);
        let counted = build.bytes().all(|b| b.is_ascii_digit());
        if DEBIAN_ARCHITECTURES.contains(&last) || build.contains(".deb") || build.contains(".bpo") {
            Some(Distribution::Debian(kernel))
        } else if SUSE_FLAVORS.contains(&flavor) && (!counted || flavor == "default") {
            Some(Distribution::Suse(kernel))
        } else {
            (counted && UBUNTU_FLAVORS.contains(&first)).then_some(Distribution::Ubuntu(kernel))
        }
    })
}

/// Debian since 6.12 outside of stable's point releases: `6.12.95+deb12-cloud-amd64`, `6.12.9+bpo-amd64`.
fn debian_suffix(release: &str) -> Option<Distribution<'_>> {
    let (_, rest) = release.split_once('+')?;
    let (release, flavor) = rest.split_once('-')?;
    let debian = release == "bpo"
        || release.strip_prefix("deb").is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    debian.then_some(Distribution::Debian(Flavored { release, flavor }))
}

/// Distributions that leave only a word.
fn tagged(release: &str) -> Distribution<'_> {
    let Some((_, suffix)) = release.split_once('-') else { return Distribution::Other };
    let last = suffix.rsplit(['-', '.']).next().unwrap_or(suffix);
    let numbered = |prefix| last.strip_prefix(prefix).is_some_and(|n| n.parse::<u16>().is_ok());
    match suffix {
        "flatcar" | "coreos" => Distribution::Flatcar,
        "talos" => Distribution::Talos,
        _ if numbered("azl") || numbered("cm") => Distribution::AzureLinux,
        _ if numbered("ph") => Distribution::Photon,
        _ => Distribution::Other,
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rhel => "RHEL",
            Self::OracleUek => "Oracle UEK",
            Self::Fedora => "Fedora",
            Self::Amazon => "Amazon Linux",
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
            Self::Suse => "SUSE",
            Self::AzureLinux => "Azure Linux",
            Self::Photon => "Photon",
            Self::Flatcar => "Flatcar",
            Self::Talos => "Talos",
            Self::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("4.18.0-348.23.1.el8_5.x86_64", Family::Rhel, "el8_5", "348.23.1.el8_5", "x86_64", None)]
    #[case("3.10.0-1160.el7.x86_64", Family::Rhel, "el7", "1160.el7", "x86_64", None)]
    #[case("4.18.0-348.rt7.130.el8.x86_64", Family::Rhel, "el8", "348.rt7.130.el8", "x86_64", None)]
    #[case(
        "5.14.0-427.13.1.el9_4.aarch64+64k",
        Family::Rhel,
        "el9_4",
        "427.13.1.el9_4",
        "aarch64",
        Some("64k")
    )]
    #[case("5.14.0-427.el9.x86_64+rt", Family::Rhel, "el9", "427.el9", "x86_64", Some("rt"))]
    #[case("6.12.0-55.9.1.el10_0.s390x", Family::Rhel, "el10_0", "55.9.1.el10_0", "s390x", None)]
    #[case(
        "5.14.0-503.14.1.el9_5.cloud.1.0.x86_64",
        Family::Rhel,
        "el9_5",
        "503.14.1.el9_5.cloud.1.0",
        "x86_64",
        None
    )]
    #[case("5.15.0-100.96.32.el8uek.x86_64", Family::OracleUek, "el8uek", "100.96.32.el8uek", "x86_64", None)]
    #[case("6.8.5-301.fc40.x86_64", Family::Fedora, "fc40", "301.fc40", "x86_64", None)]
    #[case(
        "6.12.0-0.rc3.30.fc42.aarch64+debug",
        Family::Fedora,
        "fc42",
        "0.rc3.30.fc42",
        "aarch64",
        Some("debug")
    )]
    #[case("5.10.210-201.852.amzn2.x86_64", Family::Amazon, "amzn2", "201.852.amzn2", "x86_64", None)]
    #[case("6.1.82-99.168.amzn2023.aarch64", Family::Amazon, "amzn2023", "99.168.amzn2023", "aarch64", None)]
    fn an_rpm_kernel_names_its_package(
        #[case] release: &str,
        #[case] family: Family,
        #[case] version: &str,
        #[case] package: &str,
        #[case] arch: &str,
        #[case] variant: Option<&str>,
    ) {
        let distribution = Distribution::of(release);
        assert_eq!(distribution.family(), family);
        let expected = Rpm { version, release: package, arch, variant };
        match distribution {
            Distribution::Rhel(rpm)
            | Distribution::OracleUek(rpm)
            | Distribution::Fedora(rpm)
            | Distribution::Amazon(rpm) => {
                assert_eq!(rpm, expected);
            }
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case("5.10.0-13-amd64", Family::Debian, "13", "amd64", false)]
    #[case("6.1.0-56-cloud-amd64", Family::Debian, "56", "cloud-amd64", true)]
    #[case("6.12.95+deb12-cloud-amd64", Family::Debian, "deb12", "cloud-amd64", true)]
    #[case("6.12.117+deb13-cloud-arm64", Family::Debian, "deb13", "cloud-arm64", true)]
    #[case("6.12.9+bpo-amd64", Family::Debian, "bpo", "amd64", false)]
    #[case("6.1.0-0.deb11.13-amd64", Family::Debian, "0.deb11.13", "amd64", false)]
    #[case("5.10.0-28-rt-amd64", Family::Debian, "28", "rt-amd64", false)]
    #[case("6.1.0-21-686-pae", Family::Debian, "21", "686-pae", false)]
    #[case("6.1.0-21-powerpc64le", Family::Debian, "21", "powerpc64le", false)]
    #[case("6.1.0-21-armmp-lpae", Family::Debian, "21", "armmp-lpae", false)]
    #[case("5.4.0-104-generic", Family::Ubuntu, "104", "generic", false)]
    #[case("5.15.0-1057-aws", Family::Ubuntu, "1057", "aws", true)]
    #[case("5.15.0-1049-gke", Family::Ubuntu, "1049", "gke", true)]
    #[case("6.5.0-1021-azure", Family::Ubuntu, "1021", "azure", true)]
    #[case("6.8.0-1010-azure-fde", Family::Ubuntu, "1010", "azure-fde", true)]
    #[case("6.8.0-31-lowlatency-64k", Family::Ubuntu, "31", "lowlatency-64k", false)]
    #[case("6.5.0-1018-nvidia-64k", Family::Ubuntu, "1018", "nvidia-64k", false)]
    #[case("6.8.0-1004-raspi", Family::Ubuntu, "1004", "raspi", false)]
    #[case("5.15.0-1030-realtime", Family::Ubuntu, "1030", "realtime", false)]
    #[case("5.14.21-150500.55.52-default", Family::Suse, "150500.55.52", "default", false)]
    #[case("6.4.0-150600.21-azure", Family::Suse, "150600.21", "azure", true)]
    #[case("6.9.3-1-default", Family::Suse, "1", "default", false)]
    fn a_flavoured_kernel_names_build_and_flavour(
        #[case] release: &str,
        #[case] family: Family,
        #[case] build: &str,
        #[case] flavor: &str,
        #[case] cloud: bool,
    ) {
        let distribution = Distribution::of(release);
        assert_eq!(distribution.family(), family);
        match distribution {
            Distribution::Debian(kernel) | Distribution::Ubuntu(kernel) | Distribution::Suse(kernel) => {
                assert_eq!((kernel.release, kernel.flavor, kernel.is_cloud()), (build, flavor, cloud));
            }
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case("5.15.153.1-1.cm2", Family::AzureLinux)]
    #[case("6.6.64.2-3.azl3", Family::AzureLinux)]
    #[case("6.1.90-1.ph5", Family::Photon)]
    #[case("6.6.30-flatcar", Family::Flatcar)]
    #[case("6.6.33-talos", Family::Talos)]
    #[case("6.1.100", Family::Other)]
    #[case("6.9.3-arch1-1", Family::Other)]
    #[case("6.8.4-2-pve", Family::Other)]
    #[case("5.15.146.1-microsoft-standard-WSL2", Family::Other)]
    #[case("6.6.31-linuxkit", Family::Other)]
    #[case("6.6.20+rpt-rpi-v8", Family::Other)]
    #[case("--", Family::Other)]
    fn a_word_or_nothing_is_enough(#[case] release: &str, #[case] expected: Family) {
        assert_eq!(Distribution::of(release).family(), expected);
    }
}
