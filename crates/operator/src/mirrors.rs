//! Where an image is looked for before it is looked for where its name says: mirrors, which an administrator names by prefixes of
//! images' names (as `prefix`, `mirror` and `blocked` of containers-registries.conf(5), and as `ImageDigestMirrorSet` has them).
//! Nothing is ever published to a mirror.

use std::str::FromStr;

use tenon_image::ImageReference;

use crate::args::BadValue;

/// A mirror of everything whose name begins so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// A registry, or a registry and the beginning of repositories' names, by whole parts: `quay.io/acme`.
    prefix: String,
    /// What stands there instead.
    location: String,
    /// The registry itself is never asked: it cannot be reached from here.
    only: bool,
}

impl FromStr for Mirror {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (rule, only) = match text.strip_suffix(",only") {
            Some(rule) => (rule, true),
            None => (text, false),
        };
        let (prefix, location) = rule.split_once('=').ok_or(BadValue::Mirror)?;
        let mirror = Self { prefix: prefix.to_owned(), location: location.to_owned(), only };
        // Both begin the name of an image.
        for name in [&mirror.prefix, &mirror.location] {
            let example = if name.contains('/') { format!("{name}/x:1") } else { format!("{name}/x/x:1") };
            let example: ImageReference = example.parse()?;
            if !example.name().starts_with(name.as_str()) {
                return Err(BadValue::Mirror);
            }
        }
        Ok(mirror)
    }
}

impl Mirror {
    /// What is left of an image's name behind the prefix.
    fn rest<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.prefix.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Where an image is looked for first, and where then: the mirrors of the longest prefix, in the order in which they were named, and
/// where its name says, unless one of them is the only place.
pub fn places(mirrors: &[Mirror], image: &ImageReference) -> (ImageReference, Vec<ImageReference>) {
    let name = image.name();
    let fitting = mirrors.iter().filter_map(|mirror| Some((mirror, mirror.rest(&name)?)));
    let longest = fitting.clone().map(|(mirror, _)| mirror.prefix.len()).max();
    let nearest = fitting.filter(|(mirror, _)| Some(mirror.prefix.len()) == longest);
    let itself = nearest.clone().all(|(mirror, _)| !mirror.only).then(|| image.clone());
    // A name that would be too long is no place.
    let moved =
        nearest.filter_map(|(mirror, rest)| image.renamed(&format!("{}{rest}", mirror.location)).ok());
    let mut places = moved.chain(itself);
    (places.next().unwrap_or_else(|| image.clone()), places.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const DIGEST: &str = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[rstest]
    #[case::none(&[], "quay.io/acme/driver:1", &["quay.io/acme/driver:1"])]
    #[case::a_registry(
        &["quay.io=mirror.lab:5000"],
        "quay.io/acme/driver:1",
        &["mirror.lab:5000/acme/driver:1", "quay.io/acme/driver:1"]
    )]
    #[case::a_folder_of_a_mirror(
        &["quay.io=mirror.lab/quay,only"],
        "quay.io/acme/driver:1",
        &["mirror.lab/quay/acme/driver:1"]
    )]
    #[case::the_longest_prefix(
        &["quay.io=all.lab", "quay.io/acme=acme.lab"],
        "quay.io/acme/driver:1",
        &["acme.lab/driver:1", "quay.io/acme/driver:1"]
    )]
    #[case::several_in_order(
        &["quay.io=one.lab", "quay.io=two.lab,only"],
        "quay.io/acme/driver:1",
        &["one.lab/acme/driver:1", "two.lab/acme/driver:1"]
    )]
    #[case::whole_parts(&["quay.io/ac=mirror.lab"], "quay.io/acme/driver:1", &["quay.io/acme/driver:1"])]
    #[case::one_image(
        &["quay.io/acme/driver=mirror.lab/d"],
        "quay.io/acme/driver:1",
        &["mirror.lab/d:1", "quay.io/acme/driver:1"]
    )]
    #[case::by_digest_too(
        &["docker.io=mirror.lab,only"],
        "busybox@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        &["mirror.lab/library/busybox@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"]
    )]
    fn mirrors_come_first(#[case] mirrors: &[&str], #[case] image: &str, #[case] expected: &[&str]) {
        let mirrors: Vec<Mirror> = mirrors.iter().map(|text| text.parse().unwrap()).collect();
        let (first, others) = places(&mirrors, &image.parse().unwrap());
        let found = [vec![first], others].concat();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|place| place.digest().is_none() || place.to_string().contains(DIGEST)));
    }

    #[rstest]
    #[case("quay.io")]
    #[case("=mirror.lab")]
    #[case("quay.io=")]
    #[case("quay.io=https://mirror.lab")]
    #[case("quay.io/acme:1=mirror.lab")]
    #[case("quay.io/=mirror.lab")]
    #[case("quay.io=mirror.lab/")]
    #[case("quay=mirror.lab")]
    #[case("quay.io=Mirror.lab/X")]
    fn what_is_no_mirror(#[case] given: &str) {
        assert!(given.parse::<Mirror>().is_err());
    }
}
