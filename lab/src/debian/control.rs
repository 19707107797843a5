//! Debian's control format (deb822(5)): stanzas of fields, as `apt-cache show` prints them.

/// One stanza's fields in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stanza(Vec<(String, String)>);

impl Stanza {
    /// A field's value, continuation lines joined by newlines. Names differ in case only by mistake.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The packages named in a relation field (`Depends`), the first of each set of alternatives, without versions.
    pub fn relations(&self, field: &str) -> Vec<&str> {
        let list = self.get(field).unwrap_or_default();
        list.split(',')
            .filter_map(|alternatives| alternatives.split('|').next()?.split_whitespace().next())
            .collect()
    }
}

/// All stanzas of a text. Lines that are no field are skipped.
pub fn parse(text: &str) -> Vec<Stanza> {
    let mut stanzas = vec![Stanza::default()];
    for line in text.lines() {
        if line.trim().is_empty() {
            stanzas.push(Stanza::default());
            continue;
        }
        let Some(Stanza(fields)) = stanzas.last_mut() else { continue };
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    stanzas.retain(|stanza| !stanza.0.is_empty());
    stanzas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metapackage_names_the_kernel_it_stands_for() {
        let text = "\
Package: linux-headers-cloud-amd64
Version: 6.1.170-1
Depends: linux-headers-6.1.0-99-cloud-amd64 (= 6.1.170-1), a | b
Description: headers
 of the kernel

Package: other
";
        let stanzas = parse(text);
        assert_eq!(stanzas.len(), 2);
        assert_eq!(stanzas[0].get("version"), Some("6.1.170-1"));
        assert_eq!(stanzas[0].relations("Depends"), ["linux-headers-6.1.0-99-cloud-amd64", "a"]);
        assert_eq!(stanzas[0].get("Description"), Some("headers\nof the kernel"));
        assert_eq!(stanzas[1].relations("Depends"), Vec::<&str>::new());
    }
}
