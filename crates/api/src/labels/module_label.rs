//! Labels whose key names a Module: `<namespace>.<name>` between a fixed beginning and a fixed end.
//!
//! A key's part after the slash may have 63 bytes, a namespace and a name together 317, and a name may contain dots,
//! so some keys would be too long and some would mean two things (`a.b.version.ready`: is `b.version` ready, or which
//! version of `b`?). Those are written with a hash instead: `<beginning of namespace.name>_<16 hexadecimal digits>`.
//! No name contains an underscore, so a hashed key is never taken for a plain one; who looks for a Module's label
//! builds its key and compares.

use super::{HASH_DIGITS, MAX_LABEL, hash};

const DOMAIN: &str = "kmm.node.kubernetes.io/";
const BETA_DOMAIN: &str = "beta.kmm.node.kubernetes.io/";

/// What a label says about a Module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelKind {
    /// On a Node, empty: the module is loaded as wished.
    Ready,
    /// On a Node: the version of the module that is loaded as wished.
    VersionReady,
    /// On a Node, empty: the device plugin's pod is ready.
    DevicePluginReady,
    /// On a Node, empty: the DRA driver's pod is ready.
    DraReady,
    /// On a Node, empty: the device plugin may run there.
    DevicePluginTarget,
    /// On a Node, set by the user: the version that the node should have.
    VersionModule,
    /// On a Node: the version that the node may load now.
    VersionWorkerPod,
    /// On a Node: the version whose device plugin or DRA driver may run there.
    VersionSchedulePod,
    /// The name of [`LabelKind::VersionSchedulePod`] in KMM's releases up to 2.6.
    VersionDevicePlugin,
    /// On a `NodeModulesConfig`, empty: its spec names the module.
    ModuleConfigured,
    /// On a `NodeModulesConfig`, empty: its spec or its status names the module.
    ModuleInUse,
}

impl LabelKind {
    /// All kinds, those first whose form is the more particular.
    pub const ALL: [Self; 11] = [
        Self::VersionModule,
        Self::VersionWorkerPod,
        Self::VersionSchedulePod,
        Self::VersionDevicePlugin,
        Self::VersionReady,
        Self::DevicePluginReady,
        Self::DraReady,
        Self::DevicePluginTarget,
        Self::Ready,
        Self::ModuleConfigured,
        Self::ModuleInUse,
    ];

    /// The label's key for a Module.
    pub fn key(self, namespace: &str, name: &str) -> String {
        let (domain, before, after) = self.form();
        let room = MAX_LABEL - before.len() - after.len();
        let plain = format!("{domain}{before}{namespace}.{name}{after}");
        let fits = namespace.len() + 1 + name.len() <= room;
        if fits && parts(&plain) == Some((self, namespace, name)) {
            return plain;
        }
        let full = format!("{namespace}.{name}");
        let stem_length = full.floor_char_boundary(room - 1 - HASH_DIGITS);
        let stem = full.get(..stem_length).unwrap_or_default();
        format!("{domain}{before}{stem}_{}{after}", hash(&[namespace, name]))
    }

    /// What a key says, of whichever Module; also one that is hashed.
    pub fn of_key(key: &str) -> Option<Self> {
        let names_something =
            |kind: &Self| kind.middle(key).is_some_and(|middle| middle.contains(['.', '_']));
        Self::ALL.into_iter().find(names_something)
    }

    /// Domain, beginning and end of the key.
    const fn form(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ready => (DOMAIN, "", ".ready"),
            Self::VersionReady => (DOMAIN, "", ".version.ready"),
            Self::DevicePluginReady => (DOMAIN, "", ".device-plugin-ready"),
            Self::DraReady => (DOMAIN, "", ".dra-ready"),
            Self::DevicePluginTarget => (DOMAIN, "", ".device-plugin-target"),
            Self::VersionModule => (DOMAIN, "version-module.", ""),
            Self::VersionWorkerPod => (BETA_DOMAIN, "version-worker-pod.", ""),
            Self::VersionSchedulePod => (BETA_DOMAIN, "version-schedule-pod.", ""),
            Self::VersionDevicePlugin => (BETA_DOMAIN, "version-device-plugin.", ""),
            Self::ModuleConfigured => (BETA_DOMAIN, "", ".module-configured"),
            Self::ModuleInUse => (BETA_DOMAIN, "", ".module-in-use"),
        }
    }

    /// What of a key is between this kind's beginning and end.
    fn middle(self, key: &str) -> Option<&str> {
        let (domain, before, after) = self.form();
        key.strip_prefix(domain)?.strip_prefix(before)?.strip_suffix(after)
    }
}

/// A label's key, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleLabel {
    /// What it says.
    pub kind: LabelKind,
    /// The Module's namespace.
    pub namespace: String,
    /// The Module's name.
    pub name: String,
}

impl ModuleLabel {
    /// Takes a key apart; `None` for keys that are not of this form and for hashed ones.
    pub fn parse(key: &str) -> Option<Self> {
        let (kind, namespace, name) = parts(key)?;
        Some(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// What a key says, of which Module: its namespace and its name.
fn parts(key: &str) -> Option<(LabelKind, &str, &str)> {
    let (kind, middle) = LabelKind::ALL.into_iter().find_map(|kind| Some((kind, kind.middle(key)?)))?;
    let (namespace, name) = middle.split_once('.')?;
    let are_names = [namespace, name].iter().all(|part| !part.is_empty() && !part.contains('_'));
    are_names.then_some((kind, namespace, name))
}

/// Whether a key is the old form of [`LabelKind::Ready`], without a namespace; it is removed wherever it is seen.
pub fn is_deprecated_ready(key: &str) -> bool {
    key.strip_prefix(DOMAIN).and_then(|rest| rest.strip_suffix(".ready")).is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::is_value;
    use super::*;

    #[test]
    fn keys_are_those_that_other_programs_look_for() {
        let keys = [
            (LabelKind::Ready, "kmm.node.kubernetes.io/lab.gauge.ready"),
            (LabelKind::VersionReady, "kmm.node.kubernetes.io/lab.gauge.version.ready"),
            (LabelKind::DevicePluginReady, "kmm.node.kubernetes.io/lab.gauge.device-plugin-ready"),
            (LabelKind::DraReady, "kmm.node.kubernetes.io/lab.gauge.dra-ready"),
            (LabelKind::DevicePluginTarget, "kmm.node.kubernetes.io/lab.gauge.device-plugin-target"),
            (LabelKind::VersionModule, "kmm.node.kubernetes.io/version-module.lab.gauge"),
            (LabelKind::VersionWorkerPod, "beta.kmm.node.kubernetes.io/version-worker-pod.lab.gauge"),
            (LabelKind::VersionSchedulePod, "beta.kmm.node.kubernetes.io/version-schedule-pod.lab.gauge"),
            (LabelKind::VersionDevicePlugin, "beta.kmm.node.kubernetes.io/version-device-plugin.lab.gauge"),
            (LabelKind::ModuleConfigured, "beta.kmm.node.kubernetes.io/lab.gauge.module-configured"),
            (LabelKind::ModuleInUse, "beta.kmm.node.kubernetes.io/lab.gauge.module-in-use"),
        ];
        assert_eq!(keys.len(), LabelKind::ALL.len());
        for (kind, key) in keys {
            assert_eq!(kind.key("lab", "gauge"), key);
            let label = ModuleLabel { kind, namespace: "lab".into(), name: "gauge".into() };
            assert_eq!(ModuleLabel::parse(key), Some(label));
        }
    }

    #[test]
    fn a_name_with_dots_is_read_back() {
        let key = LabelKind::Ready.key("lab", "gauge.v2.x");
        assert_eq!(key, "kmm.node.kubernetes.io/lab.gauge.v2.x.ready");
        assert_eq!(ModuleLabel::parse(&key).map(|label| label.name), Some("gauge.v2.x".to_owned()));
    }

    #[test]
    fn keys_that_would_mean_two_things_are_hashed() {
        let twins = [
            (LabelKind::Ready.key("a", "b.version"), LabelKind::VersionReady.key("a", "b")),
            (LabelKind::Ready.key("version-module", "a"), LabelKind::VersionModule.key("a", "ready")),
        ];
        for (hashed, plain) in twins {
            assert_ne!(hashed, plain);
            assert!(ModuleLabel::parse(&plain).is_some());
            assert_eq!(ModuleLabel::parse(&hashed), None, "{hashed}");
        }
    }

    #[test]
    fn what_a_key_says_is_known_also_of_one_that_is_hashed() {
        for kind in LabelKind::ALL {
            for name in ["gauge", "gauge.v2", &"long".repeat(30)] {
                assert_eq!(LabelKind::of_key(&kind.key("lab", name)), Some(kind));
            }
        }
        assert_eq!(LabelKind::of_key("kmm.node.kubernetes.io/gauge.ready"), None);
        assert_eq!(LabelKind::of_key("kubernetes.io/hostname"), None);
    }

    #[test]
    fn foreign_keys_are_left_alone() {
        for key in [
            "kubernetes.io/hostname",
            "kmm.node.kubernetes.io/gauge.ready",
            "kmm.node.kubernetes.io/.gauge.ready",
            "example.com/lab.gauge.ready",
        ] {
            assert_eq!(ModuleLabel::parse(key), None, "{key}");
        }
    }

    #[test]
    fn the_old_ready_label_is_known() {
        assert!(is_deprecated_ready("kmm.node.kubernetes.io/gauge.ready"));
        assert!(!is_deprecated_ready("kmm.node.kubernetes.io/lab.gauge.ready"));
        assert!(!is_deprecated_ready("example.com/gauge.ready"));
    }

    fn module() -> impl Strategy<Value = (String, String)> {
        let tricky = "(version|ready|version-module|a|b|device-plugin-ready)";
        let namespace = prop_oneof![tricky.prop_map(String::from), "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"];
        let part = prop_oneof![tricky.prop_map(String::from), "[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?"];
        (namespace, prop::collection::vec(part, 1..5).prop_map(|parts| parts.join(".")))
    }

    proptest! {
        #[test]
        fn every_key_is_valid_and_says_one_thing(modules in prop::collection::vec(module(), 1..8)) {
            let mut meanings = BTreeMap::new();
            for (namespace, name) in modules {
                for kind in LabelKind::ALL {
                    let key = kind.key(&namespace, &name);
                    let (_, last) = key.split_once('/').expect("has a domain");
                    prop_assert!(is_value(last), "{}", key);
                    let meaning = ModuleLabel { kind, namespace: namespace.clone(), name: name.clone() };
                    if let Some(read) = ModuleLabel::parse(&key) {
                        prop_assert_eq!(&read, &meaning);
                    }
                    let known = meanings.entry(key).or_insert_with(|| meaning.clone());
                    prop_assert_eq!(known, &meaning);
                }
            }
        }
    }
}
