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
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let lines: Vec<String> =
        wanted.iter().map(|(uri, suite)| format!("deb [signed-by={keys}] {uri} {suite} main\n")).collect();
    Some(lines.concat())
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
}
