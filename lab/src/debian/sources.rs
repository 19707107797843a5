//! Where this machine gets its Debian packages from: `/etc/apt/sources.list` and what lies in `sources.list.d`, in the
//! one-line form and in deb822 (sources.list(5)).

/// A suite at an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The archive's address.
    pub uri: String,
    /// `bookworm`, `bookworm-security`, …
    pub suite: String,
}

/// The enabled binary sources in a file of one-line entries.
pub fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    // Options stand in brackets, with spaces between them.
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    Some(Source { uri: words.next()?.to_owned(), suite: words.next()?.to_owned() })
}

/// The enabled binary sources in a deb822 file: every address with every suite.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    super::control::parse(text).iter().flat_map(sources_of).collect()
}

fn sources_of(stanza: &super::control::Stanza) -> Vec<Source> {
    let words = |field| stanza.get(field).unwrap_or_default().split_whitespace();
    let enabled = stanza.get("Enabled").is_none_or(|value| value != "no");
    if !enabled || !words("Types").any(|kind| kind == "deb") {
        return Vec::new();
    }
    words("URIs")
        .flat_map(|uri| words("Suites").map(|suite| Source { uri: uri.to_owned(), suite: suite.to_owned() }))
        .collect()
}

/// The lines of a private `sources.list`: the release itself, its security suite where the machine has one, and its
/// backports, from the same archive as the release.
pub fn private_list(machine: &[Source], codename: &str) -> Option<String> {
    let find = |suite: &str| machine.iter().find(|source| source.suite == suite);
    let main = find(codename)?;
    let security = format!("{codename}-security");
    let mut wanted = vec![(&main.uri, codename.to_owned()), (&main.uri, format!("{codename}-backports"))];
    if let Some(source) = find(&security) {
        wanted.push((&source.uri, security));
    }
    Some(wanted.iter().map(|(uri, suite)| line(uri, suite)).collect())
}

/// The line for one suite that the machine itself does not use, from the archive of its own release.
pub fn foreign_list(machine: &[Source], codename: &str, suite: &str) -> Option<String> {
    let main = machine.iter().find(|source| source.suite == codename)?;
    Some(line(&main.uri, suite))
}

fn line(uri: &str, suite: &str) -> String {
    format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite} main\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a remark
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
";

    const LIST: &str = "\
# deb http://off.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [ arch=amd64 signed-by=/x.gpg ] http://mirror.example/debian bookworm main contrib
deb http://tools.example/apt tools-bookworm main
";

    #[test]
    fn both_forms_are_read_and_what_is_off_is_not() {
        let suites: Vec<String> = parse_deb822(DEB822).into_iter().map(|source| source.suite).collect();
        assert_eq!(suites, ["bookworm", "bookworm-updates", "bookworm-security"]);
        let listed = parse_list(LIST);
        assert_eq!(
            listed[0],
            Source { uri: "http://mirror.example/debian".into(), suite: "bookworm".into() }
        );
        assert_eq!(listed.len(), 2);
    }

    #[test]
    fn backports_come_from_the_archive_of_the_release() {
        let list = private_list(&parse_deb822(DEB822), "bookworm").unwrap();
        assert!(list.contains("http://mirror.example/debian bookworm-backports main"), "{list}");
        assert!(list.contains("http://mirror.example/security bookworm-security main"), "{list}");
        assert!(!list.contains("off.example"));
        assert_eq!(private_list(&parse_list(LIST), "trixie"), None);
    }

    #[test]
    fn a_foreign_suite_comes_from_the_archive_of_the_release_and_alone() {
        let list = foreign_list(&parse_deb822(DEB822), "bookworm", "sid").unwrap();
        assert!(list.ends_with("http://mirror.example/debian sid main\n"), "{list}");
        assert_eq!(list.lines().count(), 1);
        assert_eq!(foreign_list(&parse_list(LIST), "trixie", "sid"), None);
    }
}
