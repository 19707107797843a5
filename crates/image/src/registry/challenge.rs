//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, section 11.6.1).

/// How to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// The best of the challenges in these headers: a token travels, a password stays.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let challenges: Vec<_> = headers.flat_map(read).collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(challenges.first()).cloned()
    }
}

/// `Bearer realm="…",service="…", Basic realm="…"`: a word that no `=` follows starts a new challenge.
fn read(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        rest = after;
        let word = word.to_ascii_lowercase();
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = take_value(value);
            rest = after;
            if let Some((_, parameters)) = challenges.last_mut() {
                parameters.push((word, value));
            }
        } else {
            challenges.push((word, Vec::new()));
        }
    }
    challenges.into_iter().filter_map(|(scheme, parameters)| understand(&scheme, &parameters)).collect()
}

fn understand(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let parameter =
        |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: parameter("realm")?, service: parameter("service") }),
        _ => None,
    }
}

/// A quoted string or a token, and what follows it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(next) = chars.next() {
        match next {
            '"' => break,
            '\\' => value.extend(chars.next()),
            other => value.push(other),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) }
    }

    #[test]
    fn tokens_are_preferred_to_passwords() {
        let header = r#"Basic realm="r", Bearer realm="https://a/t?x=1,2",service="reg",scope="repository:a/b:pull,push""#;
        assert_eq!(Challenge::choose([header].into_iter()), Some(bearer("https://a/t?x=1,2", Some("reg"))));
        let two = [r#"Basic realm="r""#, r#"bearer realm="https://a\"b""#];
        assert_eq!(Challenge::choose(two.into_iter()), Some(bearer("https://a\"b", None)));
        assert_eq!(Challenge::choose(["BASIC"].into_iter()), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for header in ["", "Negotiate abc==", "Bearer service=x", "=", "\"", "Bearer realm"] {
            assert_eq!(Challenge::choose([header].into_iter()), None, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(header in "\\PC{0,80}") {
            let _ = Challenge::choose([header.as_str()].into_iter());
        }
    }
}
