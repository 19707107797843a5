//! §1.1: the fields of a Module. What is refused is §1.8's.

use serde_json::{Value, json};
use tenon_lab::ControlPlane;
use tenon_test_api::setup::plane_with_definitions;

/// As `kubectl` asks for it where a field that is not known is an error.
async fn as_stored(plane: &ControlPlane, manifest: &Value) -> Result<Value, String> {
    let arguments = ["create", "--dry-run=server", "--validate=strict", "--output=json", "--filename=-"];
    let said = plane.kubectl_with_input(&arguments, &manifest.to_string()).await;
    serde_json::from_str(&said.map_err(|error| format!("{error:?}"))?).map_err(|error| error.to_string())
}

/// The values that are not there any more, or are others, by their paths.
pub(crate) fn lost(sent: &Value, stored: &Value, path: &str) -> Vec<String> {
    match (sent, stored) {
        (Value::Object(fields), Value::Object(_)) => fields
            .iter()
            .flat_map(|(key, value)| lost(value, &stored[key], &format!("{path}.{key}")))
            .collect(),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            let pairs = items.iter().zip(others).enumerate();
            pairs.flat_map(|(index, (item, other))| lost(item, other, &format!("{path}[{index}]"))).collect()
        }
        _ if sent == stored => Vec::new(),
        _ => vec![format!("{path}: {sent} became {stored}")],
    }
}

fn module(spec: &Value) -> Value {
    json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": {"name": "all", "namespace": "default"},
        "spec": spec,
    })
}

fn build() -> Value {
    json!({
        "dockerfileConfigMap": {"name": "recipe"},
        "buildArgs": [{"name": "A", "value": "b"}],
        "secrets": [{"name": "token"}],
        "baseImageRegistryTLS": {"insecure": true, "insecureSkipTLSVerify": true},
        "kanikoParams": {"tag": "v1.9"},
        "selector": {"disk": "ssd"},
    })
}

fn sign() -> Value {
    json!({
        "keySecret": {"name": "key"}, "certSecret": {"name": "cert"}, "unsignedImage": "registry.example/u:1",
        "unsignedImageRegistryTLS": {"insecure": true, "insecureSkipTLSVerify": true},
        "filesToSign": ["/drivers/lib/modules/*/extra/[ab]?.ko"],
    })
}

/// Every field of `moduleLoader`, and what does not exclude it.
fn loader() -> Value {
    json!({
        "selector": {"kubernetes.io/arch": "amd64"},
        "imageRepoSecret": {"name": "pull"},
        "imageRebuildTriggerGeneration": 3,
        "tolerations": [{"key": "a/b", "operator": "Equal", "value": "c", "effect": "NoExecute", "tolerationSeconds": 5}],
        "moduleLoader": {
            "serviceAccountName": "loader",
            "container": {
                "build": build(), "sign": sign(), "version": "1.2", "containerImage": "registry.example/m@sha256:0",
                "imagePullPolicy": "Always", "registryTLS": {"insecure": true, "insecureSkipTLSVerify": true},
                "inTreeModulesToRemove": ["old"],
                "modprobe": {
                    "moduleName": "m", "parameters": ["a=1"], "dirName": "/drivers", "firmwarePath": "/firmware",
                    "args": {"load": ["-v"], "unload": ["-v"]}, "modulesLoadingOrder": ["m", "n"],
                },
                "kernelMappings": [
                    {"literal": "6.1.0", "containerImage": "registry.example/m:1", "build": build(), "sign": sign(),
                     "registryTLS": {"insecure": true}, "inTreeModulesToRemove": ["older"]},
                    {"regexp": "^6[.]", "containerImage": ""},
                ],
            },
        },
    })
}

fn plugin() -> Value {
    let container = json!({
        "image": "registry.example/p:1", "command": ["/p"], "args": ["-v"], "env": [{"name": "A", "value": "b"}],
        "imagePullPolicy": "Never", "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Mi"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    });
    json!({
        "container": container, "initContainer": container, "serviceAccountName": "plugin",
        "volumes": [{"name": "v", "hostPath": {"path": "/dev/v"}}], "automountServiceAccountToken": false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_kept_as_it_was_said_and_no_other_is_asked_for() {
    let plane = plane_with_definitions().await;
    let mut with_plugin = loader();
    with_plugin["devicePlugin"] = plugin();
    let mut dra = plugin();
    dra["driverName"] = json!("gpu.example.com");
    dra["deviceClasses"] = json!([{
        "name": "gpu.example.com", "selectors": [{"cel": {"expression": "true"}}],
        "config": [{"opaque": {"driver": "gpu.example.com", "parameters": {"any": {"thing": [1]}}}}],
    }]);
    let raw = json!({"rawArgs": {"load": ["-v", "m"], "unload": ["-r", "m"]}});
    let deprecated = json!({"selector": {}, "moduleLoader": {"container": {
        "modprobe": raw, "inTreeModuleToRemove": "old",
        "kernelMappings": [{"regexp": ".*", "containerImage": "r/m:1", "inTreeModuleToRemove": "older"}],
    }}});
    let least = json!({"selector": {}, "moduleLoader": {"container": {
        "modprobe": {"moduleName": "m"}, "kernelMappings": [{"literal": "6.1.0", "containerImage": "m:1"}],
    }}});
    let specs = [
        with_plugin,
        json!({"selector": {}, "dra": dra}),
        json!({"selector": {}, "devicePlugin": {"container": {"image": "p"}}}),
        json!({"selector": {}}),
        deprecated,
        least,
    ];
    for spec in &specs {
        let stored = as_stored(&plane, &module(spec)).await.unwrap_or_else(|why| panic!("{spec}: {why}"));
        let lost = lost(spec, &stored["spec"], "spec");
        assert!(lost.is_empty(), "{lost:?}");
        if let Some(modprobe) = stored.pointer("/spec/moduleLoader/container/modprobe") {
            let said = spec.pointer("/moduleLoader/container/modprobe/dirName");
            assert_eq!(modprobe["dirName"], *said.unwrap_or(&json!("/opt")), "the default");
        }
    }

    // Directories of the host are meant as the kernel would go to them.
    for path in ["/dev", "/dev/", "//sys//bus", "/./var/./run/a", "/opt/..a", "/run/a b"] {
        let mut spec = json!({"selector": {}, "devicePlugin": plugin()});
        spec["devicePlugin"]["volumes"][0]["hostPath"]["path"] = json!(path);
        as_stored(&plane, &module(&spec)).await.unwrap_or_else(|why| panic!("{path}: {why}"));
    }

    let unknown = least_with_unknown(&specs[5]);
    let refusal = as_stored(&plane, &module(&unknown)).await.expect_err("a field that is not known");
    assert!(refusal.contains("modprobe.moduelName"), "{refusal}");
    // The names together have far more than KMM's 41 characters.
    let mut long = module(&specs[5]);
    long["metadata"]["name"] = json!("n".repeat(200));
    as_stored(&plane, &long).await.expect("a long name");
}

fn least_with_unknown(least: &Value) -> Value {
    let mut unknown = least.clone();
    unknown["moduleLoader"]["container"]["modprobe"]["moduelName"] = json!("m");
    unknown
}
