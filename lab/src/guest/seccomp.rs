//! The seccomp profile that container engines use unless told otherwise, with its conditions resolved for one container.
//!
//! The file is that of Debian's package golang-github-containers-common; its form is a superset of the OCI runtime
//! specification's: rules may depend on capabilities and architectures (containers/common, pkg/seccomp).

use serde::Deserialize;
use serde_json::{Value, json};

/// The profile as it lies on disk.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
}

/// As the profile names the guests' architecture.
const ARCH: &str = "amd64";

impl Profile {
    /// Reads the file's text.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The `linux.seccomp` of a container that holds such capabilities (`CAP_SYS_MODULE`, …).
    pub fn resolve(&self, capabilities: &[String]) -> Value {
        let rules = self.syscalls.iter().filter(|rule| rule.applies(capabilities)).map(Rule::oci);
        let mut profile = json!({
            "defaultAction": self.default_action,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": rules.collect::<Vec<_>>(),
        });
        set(&mut profile, "defaultErrnoRet", self.default_errno_ret.map(Value::from));
        profile
    }
}

impl Rule {
    fn applies(&self, capabilities: &[String]) -> bool {
        let Self { includes, excludes, .. } = self;
        let here = |arches: &[String]| arches.iter().any(|arch| arch == ARCH);
        let held = |capability: &String| capabilities.contains(capability);
        (includes.arches.is_empty() || here(&includes.arches))
            && includes.caps.iter().all(held)
            && !here(&excludes.arches)
            && !excludes.caps.iter().any(held)
    }

    fn oci(&self) -> Value {
        let mut rule = json!({ "names": self.names, "action": self.action });
        set(&mut rule, "errnoRet", self.errno_ret.map(Value::from));
        set(&mut rule, "args", self.args.clone().filter(|args| !args.is_empty()).map(Value::from));
        rule
    }
}

fn set(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(fields), Some(value)) = (object.as_object_mut(), value) {
        fields.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["finit_module"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_MODULE"]}},
            {"names": ["finit_module"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_MODULE"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["breakpoint"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}}
        ]}"#;

    fn names(profile: &Value) -> Vec<(&str, &str)> {
        let rules = profile["syscalls"].as_array().unwrap();
        rules
            .iter()
            .map(|rule| (rule["names"][0].as_str().unwrap(), rule["action"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn rules_follow_capabilities_and_architecture() {
        let profile = Profile::parse(PROFILE).unwrap();
        let loader = profile.resolve(&["CAP_SYS_MODULE".to_owned()]);
        assert_eq!(
            names(&loader),
            [
                ("read", "SCMP_ACT_ALLOW"),
                ("finit_module", "SCMP_ACT_ALLOW"),
                ("arch_prctl", "SCMP_ACT_ALLOW")
            ]
        );
        let agent = profile.resolve(&[]);
        assert!(names(&agent).contains(&("finit_module", "SCMP_ACT_ERRNO")));
        assert_eq!(agent["defaultErrnoRet"], 38);
        assert_eq!(agent["syscalls"][1]["errnoRet"], 1);
        assert!(agent["syscalls"][0].get("args").is_none());
    }
}
