//! Which driver toolkit is a kernel's, where no administrator says it: OpenShift has one for each version of its operating system,
//! in an ImageStream whose tags are called like these versions, and nodes tell their version beside their kernel.
//!
//! The operator reads that one object by its name, and only when a build cannot do without; here it is decided what it means.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tenon_api::image_stream::{IMAGE, ImageStream, NAME, NAMESPACE, Tag};

use crate::node::NodeFacts;

/// The most bytes of a version: no tag has more.
const MAX_VERSION: usize = 128;

/// The version of a node's operating system, as tags of toolkits name it: `417.94.202410090854-0`, `9.6.20250523-0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OsVersion {
    /// Its numbers: versions are ordered by them.
    numbers: Vec<u64>,
    text: String,
}

impl OsVersion {
    /// The version in what a kubelet says of its system (`osImage`: the `PRETTY_NAME` of `os-release(5)`): the word behind
    /// `CoreOS`. Other systems have no toolkit in any ImageStream.
    pub fn of(os_image: &str) -> Option<Self> {
        let mut words = os_image.split_whitespace().skip_while(|word| *word != "CoreOS").skip(1);
        words.next().and_then(Self::parse)
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_VERSION || !text.contains('.') {
            return None;
        }
        let numbers: Result<_, _> = text.split(['.', '-']).map(str::parse).collect();
        // A sign is a number's, too.
        let is_plain = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-'));
        Some(Self { numbers: numbers.ok().filter(|_| is_plain)?, text: text.to_owned() })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The versions that nodes with this kernel tell: first that of most nodes, so that no single node decides for the others, then the
/// newest.
pub fn versions<'n>(
    kernel: &str,
    architecture: &str,
    nodes: impl IntoIterator<Item = &'n NodeFacts>,
) -> Vec<OsVersion> {
    let of_kernel = |node: &&NodeFacts| node.kernel.as_str() == kernel && node.architecture == architecture;
    let mut nodes_of: BTreeMap<&OsVersion, usize> = BTreeMap::new();
    for version in nodes.into_iter().filter(of_kernel).filter_map(|node| node.os_version.as_ref()) {
        *nodes_of.entry(version).or_default() += 1;
    }
    let mut versions: Vec<_> = nodes_of.into_iter().collect();
    versions.sort_by_key(|&(version, nodes)| Reverse((nodes, version)));
    versions.into_iter().map(|(version, _)| version.clone()).collect()
}

/// What a cluster says when it is asked for the ImageStream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This is it.
    There(ImageStream),
    /// There is none, or no such kind.
    Absent,
    /// The operator may not read it, in the API server's words. So says a cluster without that kind as well.
    Denied(String),
}

/// How long an answer is believed: a tag that was missed may have come meanwhile.
const BELIEVED: Duration = Duration::from_mins(1);
/// How long an answer is believed that lacks what is looked for: an upgrade may be bringing it.
const BELIEVED_WITHOUT_TAG: Duration = Duration::from_secs(10);
/// How long a cluster is left alone that has no ImageStream: most are no OpenShift, and stay so.
const LEFT_ALONE: Duration = Duration::from_mins(5);

impl Answer {
    /// How long it is believed, by who looks for a toolkit of one of these versions.
    pub fn believed_for(&self, versions: &[OsVersion]) -> Duration {
        match self {
            Self::There(stream) if versions.iter().any(|version| tag(stream, version).is_some()) => BELIEVED,
            Self::There(_) => BELIEVED_WITHOUT_TAG,
            Self::Absent | Self::Denied(_) => LEFT_ALONE,
        }
    }
}

fn tag<'s>(stream: &'s ImageStream, version: &OsVersion) -> Option<&'s Tag> {
    stream.spec.tags.iter().find(|tag| tag.name == version.as_str())
}

/// Why nobody knows a kernel's toolkit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoToolkit {
    /// Nobody says which version is asked for.
    #[error("no node with this kernel tells a version of CoreOS (status.nodeInfo.osImage)")]
    NoVersion,
    /// It is no OpenShift, or a broken one.
    #[error("the cluster has no ImageStream {NAMESPACE}/{NAME}, as OpenShift has")]
    NoStream,
    /// It may be one.
    #[error(
        "ImageStream {NAMESPACE}/{NAME} may not be read (where this is OpenShift, apply deploy/openshift.yaml): {said}"
    )]
    Denied {
        /// The API server's words.
        said: String,
    },
    /// It has no toolkit for the nodes' version.
    #[error(
        "ImageStream {NAMESPACE}/{NAME} has no tag {versions}, which is the version of the nodes' CoreOS"
    )]
    NoTag {
        /// Those that were looked for.
        versions: String,
    },
    /// A tag of another kind, or an empty one.
    #[error("tag {tag} of ImageStream {NAMESPACE}/{NAME} names no image of a registry")]
    NoImage {
        /// Which.
        tag: String,
    },
}

/// The toolkit of the first of these versions that there is one for: the image's name, as its tag has it.
pub fn toolkit<'s>(versions: &[OsVersion], answer: &'s Answer) -> Result<&'s str, NoToolkit> {
    if versions.is_empty() {
        return Err(NoToolkit::NoVersion);
    }
    let stream = match answer {
        Answer::There(stream) => stream,
        Answer::Absent => return Err(NoToolkit::NoStream),
        Answer::Denied(said) => return Err(NoToolkit::Denied { said: said.clone() }),
    };
    let tag = versions.iter().find_map(|version| tag(stream, version)).ok_or_else(|| {
        let versions: Vec<_> = versions.iter().map(OsVersion::as_str).collect();
        NoToolkit::NoTag { versions: versions.join(" or ") }
    })?;
    let image = tag.from.as_ref().filter(|from| from.kind == IMAGE && !from.name.is_empty());
    image.map(|from| from.name.as_str()).ok_or_else(|| NoToolkit::NoImage { tag: tag.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case::of_4_12(
        "Red Hat Enterprise Linux CoreOS 412.86.202306132230-0 (Ootpa)",
        Some("412.86.202306132230-0")
    )]
    #[case::of_4_13(
        "Red Hat Enterprise Linux CoreOS 413.92.202306140611-0 (Plow)",
        Some("413.92.202306140611-0")
    )]
    #[case::of_4_14(
        "Red Hat Enterprise Linux CoreOS 414.92.202310210434-0 (Plow)",
        Some("414.92.202310210434-0")
    )]
    #[case::of_4_15(
        "Red Hat Enterprise Linux CoreOS 415.92.202402130021-0 (Plow)",
        Some("415.92.202402130021-0")
    )]
    #[case::of_4_16("Red Hat Enterprise Linux CoreOS 416.94.202406172220-0", Some("416.94.202406172220-0"))]
    #[case::of_4_17(
        "Red Hat Enterprise Linux CoreOS 417.94.202410090854-0 (Plow)",
        Some("417.94.202410090854-0")
    )]
    #[case::of_4_18("Red Hat Enterprise Linux CoreOS 418.94.202502100215-0", Some("418.94.202502100215-0"))]
    #[case::of_4_19("Red Hat Enterprise Linux CoreOS 9.6.20250523-0 (Plow)", Some("9.6.20250523-0"))]
    #[case::built_more_than_nine_times(
        "Red Hat Enterprise Linux CoreOS 9.6.20250523-12 (Plow)",
        Some("9.6.20250523-12")
    )]
    #[case::of_okd("CentOS Stream CoreOS 412.9.202211241749-0", Some("412.9.202211241749-0"))]
    #[case::of_fedora("Fedora CoreOS 38.20230609.3.0", Some("38.20230609.3.0"))]
    #[case::debian("Debian GNU/Linux 12 (bookworm)", None)]
    #[case::rhel("Red Hat Enterprise Linux 9.4 (Plow)", None)]
    #[case::flatcar("Flatcar Container Linux by Kinvolk 3815.2.0 (Oklo)", None)]
    #[case::nothing("", None)]
    #[case::nothing_behind("Red Hat Enterprise Linux CoreOS", None)]
    #[case::a_word_behind("Red Hat Enterprise Linux CoreOS rawhide", None)]
    #[case::a_number_alone("CoreOS 9", None)]
    #[case::another_tag("CoreOS latest", None)]
    #[case::a_sign("CoreOS +4.1", None)]
    #[case::parts_missing("CoreOS 4..1", None)]
    #[case::no_end("CoreOS 417.94.", None)]
    #[case::a_path("CoreOS ../../4.1", None)]
    #[case::a_number_for_nobody("CoreOS 1.99999999999999999999999999", None)]
    #[case::other_digits("CoreOS ４.１", None)]
    fn a_node_tells_its_version(#[case] os_image: &str, #[case] expected: Option<&str>) {
        assert_eq!(OsVersion::of(os_image).as_ref().map(OsVersion::as_str), expected);
    }

    #[test]
    fn what_is_longer_than_any_tag_is_no_version() {
        let long = |parts: usize| format!("CoreOS 1{}", ".1".repeat(parts));
        assert!(OsVersion::of(&long(63)).is_some());
        assert_eq!(OsVersion::of(&long(64)), None);
    }

    proptest! {
        #[test]
        fn whatever_a_node_says_is_a_tags_name_or_nothing(said in "(CoreOS )?[0-9.+ -]{0,20}|.{0,40}") {
            if let Some(version) = OsVersion::of(&said) {
                prop_assert!(said.contains(version.as_str()) && version.as_str().len() <= MAX_VERSION);
                prop_assert!(version.as_str().starts_with(|c: char| c.is_ascii_digit()));
            }
        }
    }

    /// Nodes of a kernel and an architecture, with what they tell.
    fn nodes(all: &[(&str, &str, &str)]) -> Vec<NodeFacts> {
        let node = |(number, (kernel, architecture, version)): (usize, &(&str, &str, &str))| NodeFacts {
            kernel: kernel.parse().unwrap(),
            architecture: (*architecture).to_owned(),
            os_version: OsVersion::of(&format!("CoreOS {version}")),
            ..fixture::node(&format!("n{number}"))
        };
        all.iter().enumerate().map(node).collect()
    }

    const K: &str = "5.14.0-427.el9_4.x86_64";
    const RT: &str = "5.14.0-427.el9_4.x86_64+rt";

    #[rstest]
    #[case::nobody(&[], &[])]
    #[case::one(&[(K, "amd64", "4.2-0")], &["4.2-0"])]
    #[case::of_other_kernels(&[(RT, "amd64", "4.2-0"), (K, "arm64", "4.3-0")], &[])]
    #[case::some_tell_nothing(&[(K, "amd64", "?"), (K, "amd64", "4.2-0")], &["4.2-0"])]
    #[case::the_newest(&[(K, "amd64", "4.9-0"), (K, "amd64", "4.10-0")], &["4.10-0", "4.9-0"])]
    #[case::that_of_most(&[(K, "amd64", "4.9-0"), (K, "amd64", "4.10-0"), (K, "amd64", "4.9-0")], &["4.9-0", "4.10-0"])]
    fn the_version_of_most_nodes_with_the_kernel_counts(
        #[case] all: &[(&str, &str, &str)],
        #[case] expected: &[&str],
    ) {
        let mut nodes = nodes(all);
        let found = versions(K, "amd64", &nodes);
        assert_eq!(found.iter().map(OsVersion::as_str).collect::<Vec<_>>(), expected);
        nodes.reverse();
        assert_eq!(versions(K, "amd64", &nodes), found, "whatever their order");
    }

    fn told(versions: &[&str]) -> Vec<OsVersion> {
        versions.iter().map(|version| OsVersion::parse(version).unwrap()).collect()
    }

    fn stream() -> Answer {
        let stream = serde_json::json!({"spec": {"lookupPolicy": {"local": false}, "tags": [
            {"name": "4.1-0", "from": {"kind": "DockerImage", "name": "quay.test/dtk@sha256:1"}, "importPolicy": {}},
            {"name": "4.2-0", "from": {"kind": "DockerImage", "name": "quay.test/dtk@sha256:2"}},
            {"name": "4.3-0", "from": {"kind": "ImageStreamTag", "name": "latest"}},
            {"name": "4.4-0", "from": {"kind": "DockerImage"}},
            {"name": "4.5-0", "from": null},
            {"name": "latest", "from": {"kind": "DockerImage", "name": "quay.test/dtk@sha256:2"}}
        ]}});
        Answer::There(serde_json::from_value(stream).unwrap())
    }

    #[rstest]
    #[case::by_its_tag(&["4.2-0"], stream(), Ok("quay.test/dtk@sha256:2"))]
    #[case::the_first(&["4.1-0", "4.2-0"], stream(), Ok("quay.test/dtk@sha256:1"))]
    #[case::the_first_that_is_there(&["4.9-0", "4.1-0"], stream(), Ok("quay.test/dtk@sha256:1"))]
    #[case::none(&["4.9-0", "4.8-0"], stream(), Err("has no tag 4.9-0 or 4.8-0"))]
    #[case::a_tag_of_a_tag(&["4.3-0"], stream(), Err("tag 4.3-0"))]
    #[case::a_tag_without_a_name(&["4.4-0"], stream(), Err("tag 4.4-0"))]
    #[case::a_tag_of_nothing(&["4.5-0"], stream(), Err("tag 4.5-0"))]
    #[case::no_version(&[], stream(), Err("osImage"))]
    #[case::no_stream(&["4.1-0"], Answer::Absent, Err("no ImageStream openshift/driver-toolkit"))]
    #[case::an_empty_stream(&["4.1-0"], Answer::There(ImageStream::default()), Err("has no tag 4.1-0"))]
    #[case::denied(&["4.1-0"], Answer::Denied("no".to_owned()), Err("deploy/openshift.yaml"))]
    fn a_toolkit_is_found_by_its_tag_or_it_is_said_what_is_missing(
        #[case] versions: &[&str],
        #[case] answer: Answer,
        #[case] expected: Result<&str, &str>,
    ) {
        match (toolkit(&told(versions), &answer), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn what_was_found_is_believed_for_longer_than_what_was_missed_and_a_cluster_without_it_is_left_alone() {
        let (known, new) = (told(&["4.1-0"]), told(&["4.9-0"]));
        assert!(stream().believed_for(&known) > stream().believed_for(&new));
        for answer in [Answer::Absent, Answer::Denied(String::new())] {
            assert_eq!(answer.believed_for(&known), LEFT_ALONE);
        }
    }
}
