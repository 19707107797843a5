//! Manifests around one leaf: as little as lets its value be what is wrong or right with them.

use serde_json::{Map, Value, json};

use crate::leaves::{Leaf, Step};

/// The key under which a map has the value that is tried.
const KEY: &str = "example.com/k";
/// That of a map of quantities.
const RESOURCE: &str = "cpu";
/// That of a claim's.
const STORAGE: &str = "storage";

/// What every manifest needs that is to be about this leaf: a loader, or a plugin.
pub(crate) fn base(leaf: &Leaf) -> Value {
    let plugin = || json!({"container": {"image": "r.example/p:1"}});
    if leaf.is_below("devicePlugin") {
        let mut plugin = plugin();
        if leaf.to_string().contains("olumeMounts") {
            plugin["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        }
        return json!({"selector": {}, "devicePlugin": plugin});
    }
    if leaf.is_below("dra") {
        let mut dra = plugin();
        dra["driverName"] = json!("gpu.example.com");
        if leaf.to_string().contains("olumeMounts") {
            dra["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        }
        return json!({"selector": {}, "dra": dra});
    }
    json!({"selector": {}, "moduleLoader": {"container": {
        "modprobe": {"moduleName": "simple-kmod"},
        "kernelMappings": [{"regexp": "^.+$", "containerImage": "r.example/m:1"}],
    }}})
}

/// A spec in which the leaf has this value; `None`: in which it is not there, but all around it is.
pub(crate) fn spec(leaf: &Leaf, value: Option<&Value>) -> Value {
    let mut spec = base(leaf);
    place(&mut spec, "module", &leaf.path, value);
    settle(leaf, &mut spec);
    spec
}

/// Puts the value where the path leads, and on the way what has to stand beside it.
fn place(at: &mut Value, name: &str, path: &[Step], value: Option<&Value>) {
    let Some((step, rest)) = path.split_first() else {
        *at = value.expect("a value").clone();
        return;
    };
    let (key, next) = match step {
        Step::Field(field) => (field.clone(), field.as_str()),
        Step::Entry if ["limits", "requests"].contains(&name) => {
            (if at["storage"].is_null() { RESOURCE } else { STORAGE }.to_owned(), name)
        }
        Step::Entry => (KEY.to_owned(), name),
        Step::Item => {
            if !at.is_array() {
                *at = json!([]);
            }
            let items = at.as_array_mut().expect("a list");
            if rest.is_empty() && value.is_none() {
                items.clear();
                return;
            }
            if items.is_empty() {
                items.push(Value::Null);
            }
            place(&mut items[0], name, rest, value);
            return;
        }
    };
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    let beside = beside(name, &key);
    let fields = at.as_object_mut().expect("an object");
    for (field, value) in beside.as_object().into_iter().flatten().filter(|(field, _)| **field != key) {
        fields.entry(field.clone()).or_insert_with(|| value.clone());
    }
    if rest.is_empty() && value.is_none() {
        fields.remove(&key);
    } else {
        let begin = beside[&key].clone();
        place(fields.entry(key).or_insert(begin), next, rest, value);
    }
}

/// What an object of this name needs beside this field.
fn beside(name: &str, field: &str) -> Value {
    let unless = |others: &[&str], value: Value| if others.contains(&field) { json!({}) } else { value };
    match name {
        "livenessProbe" | "startupProbe" => {
            unless(&["exec", "grpc", "httpGet", "tcpSocket"], json!({"exec": {"command": ["c"]}}))
        }
        "initContainer" => json!({"image": "r.example/i:1"}),
        "grpc" | "httpGet" | "tcpSocket" => json!({"port": 8080}),
        "httpHeaders" => json!({"name": "A", "value": "b"}),
        "env" => json!({"name": "A"}),
        "configMapKeyRef" | "secretKeyRef" => json!({"name": "c", "key": "k"}),
        "fileKeyRef" => json!({"key": "K", "path": "p", "volumeName": "v"}),
        "fieldRef" => json!({"fieldPath": "metadata.name"}),
        "resourceFieldRef" => json!({"resource": "limits.cpu", "containerName": "device-plugin"}),
        "volumeMounts" => json!({"name": "v", "mountPath": "/v"}),
        "volumes" => {
            unless(&[], if field == "name" { json!({"emptyDir": {}}) } else { json!({"name": "v"}) })
        }
        "claims" | "secretRef" | "nodePublishSecretRef" => json!({"name": "c"}),
        "appArmorProfile" | "seccompProfile" => {
            if field == "localhostProfile" {
                json!({"type": "Localhost"})
            } else {
                json!({})
            }
        }
        "volumeClaimTemplate" => json!({"spec": claim()}),
        "spec" => claim_beside(field),
        "dataSource" | "dataSourceRef" => json!({"kind": "K", "name": "n", "apiGroup": "example.com"}),
        "matchExpressions" => match field {
            "values" => json!({"key": "k", "operator": "In"}),
            _ => json!({"key": "k", "operator": "Exists"}),
        },
        "items" => match field {
            "fieldRef" | "resourceFieldRef" => json!({"path": "p"}),
            // Those of the downward API are told apart in `settle`.
            _ => json!({"key": "k", "path": "p"}),
        },
        "clusterTrustBundle" => match field {
            "name" => json!({"path": "p"}),
            _ => json!({"path": "p", "signerName": "example.com/s"}),
        },
        "podCertificate" => {
            let mut all = json!({"signerName": "example.com/s", "keyType": "ED25519"});
            if ["certificateChainPath", "keyPath"].contains(&field) {
                all["certificateChainPath"] = json!("c");
                all["keyPath"] = json!("k");
            } else {
                all["credentialBundlePath"] = json!("b");
            }
            all
        }
        "serviceAccountToken" => json!({"path": "p"}),
        "ownerReferences" => json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}),
        "secret" | "configMap" if field == "items" || field == "defaultMode" || field == "optional" => {
            if name == "secret" { json!({"secretName": "s"}) } else { json!({"name": "c"}) }
        }
        _ => beside_in_a_volume(name, field)
            .or_else(|| beside_of_a_module(name, field))
            .unwrap_or_else(|| json!({})),
    }
}

/// The same of what a volume is.
fn beside_in_a_volume(name: &str, field: &str) -> Option<Value> {
    Some(match name {
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => json!({"volumeID": "v"}),
        "azureDisk" => json!({"diskName": "d", "diskURI": "https://d.example/d", "kind": "Dedicated"}),
        "azureFile" => json!({"secretName": "s", "shareName": "s"}),
        "cephfs" => json!({"monitors": ["m"]}),
        "csi" | "flexVolume" => json!({"driver": "d.example"}),
        "fc" => {
            if field == "wwids" {
                json!({})
            } else {
                json!({"targetWWNs": ["5"], "lun": 1})
            }
        }
        "flocker" => {
            if field == "datasetUUID" {
                json!({})
            } else {
                json!({"datasetName": "d"})
            }
        }
        "gcePersistentDisk" => json!({"pdName": "p"}),
        "gitRepo" => json!({"repository": "r"}),
        "glusterfs" => json!({"endpoints": "e", "path": "p"}),
        "hostPath" => json!({"path": "/dev/a"}),
        "iscsi" => json!({"targetPortal": "192.0.2.1:3260", "iqn": "iqn.2001-04.com.example:a", "lun": 0,
            "initiatorName": "iqn.2001-04.com.example:b", "secretRef": {"name": "s"}}),
        "nfs" => json!({"server": "s", "path": "/p"}),
        "persistentVolumeClaim" => json!({"claimName": "c"}),
        "photonPersistentDisk" => json!({"pdID": "p"}),
        "quobyte" => json!({"registry": "r:1", "volume": "v"}),
        "rbd" => json!({"monitors": ["m"], "image": "i"}),
        "scaleIO" => json!({"gateway": "g", "system": "s", "volumeName": "v", "secretRef": {"name": "s"}}),
        "storageos" => json!({"volumeName": "v"}),
        "vsphereVolume" => json!({"volumePath": "v"}),
        _ => return None,
    })
}

/// The same of what only a Module has.
fn beside_of_a_module(name: &str, field: &str) -> Option<Value> {
    let unless = |others: &[&str], value: Value| if others.contains(&field) { json!({}) } else { value };
    Some(match name {
        "deviceClasses" => json!({"name": "gpu.example.com"}),
        "validation" => unless(&["paths"], json!({"paths": ["/dev/a"]})),
        "opaque" => json!({"driver": "gpu.example.com", "parameters": {"a": 1}}),
        "tolerations" => match field {
            "tolerationSeconds" => json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
            "value" => json!({"key": "k", "operator": "Equal"}),
            _ => json!({"key": "k", "operator": "Exists"}),
        },
        "buildArgs" => json!({"name": "N", "value": "v"}),
        "build" => unless(
            &["dockerfileConfigMap", "dockerfile", "source"],
            json!({"dockerfileConfigMap": {"name": "c"}}),
        ),
        "source" => {
            let mut all = unless(&["git", "image", "claim"], json!({"git": {"uri": "https://g.example/g"}}));
            all["toolkit"] = json!("r.example/toolkit:1");
            all
        }
        "git" => json!({"uri": "https://g.example/g"}),
        "artifacts" => {
            let mut all = unless(&["image", "module", "claim"], json!({"module": "m"}));
            all["path"] = json!("a");
            all["to"] = json!("t");
            all
        }
        "image" => json!({"reference": "r.example/s:1"}),
        "sign" => {
            json!({"keySecret": {"name": "k"}, "certSecret": {"name": "c"}, "unsignedImage": "r.example/u:1",
            "filesToSign": ["/opt/lib/modules/a.ko"]})
        }
        "rawArgs" => json!({"load": ["simple-kmod"], "unload": ["-r", "simple-kmod"]}),
        _ => return None,
    })
}

fn claim() -> Value {
    json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}, "limits": {"storage": "2Gi"}}})
}

fn claim_beside(field: &str) -> Value {
    if [
        "accessModes",
        "dataSource",
        "dataSourceRef",
        "resources",
        "selector",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
        "volumeName",
    ]
    .contains(&field)
    {
        return claim();
    }
    json!({})
}

/// What has to change elsewhere for the leaf's sake.
fn settle(leaf: &Leaf, spec: &mut Value) {
    let path = leaf.to_string();
    if path.contains(".rawArgs.") {
        let modprobe = &mut spec["moduleLoader"]["container"]["modprobe"];
        modprobe.as_object_mut().expect("an object").remove("moduleName");
    }
    if path.contains(".modulesLoadingOrder") {
        let order = &mut spec["moduleLoader"]["container"]["modprobe"]["modulesLoadingOrder"];
        if let Some(items) = order.as_array_mut().filter(|items| !items.is_empty()) {
            items.insert(0, json!("simple-kmod"));
        }
    }
    if path == "spec.moduleLoader.container.containerImage" {
        let mapping = &mut spec["moduleLoader"]["container"]["kernelMappings"][0];
        mapping.as_object_mut().expect("an object").remove("containerImage");
    }
    if path.ends_with(".kernelMappings[].literal") {
        let mapping = &mut spec["moduleLoader"]["container"]["kernelMappings"][0];
        mapping.as_object_mut().expect("an object").remove("regexp");
    }
    if path.contains(".downwardAPI.items[].") && !path.contains("Ref.") {
        let items = if path.contains(".projected.") {
            "/volumes/0/projected/sources/0/downwardAPI/items/0"
        } else {
            "/volumes/0/downwardAPI/items/0"
        };
        let plugin = if path.contains(".dra.") { "/dra" } else { "/devicePlugin" };
        let item =
            spec.pointer_mut(&format!("{plugin}{items}")).and_then(Value::as_object_mut).expect("an item");
        item.remove("key");
        item.insert("fieldRef".to_owned(), json!({"fieldPath": "metadata.name"}));
    }
    if path.contains(".projected.sources[].secret.") {
        let plugin = if path.contains(".dra.") { "/dra" } else { "/devicePlugin" };
        let secret = spec.pointer_mut(&format!("{plugin}/volumes/0/projected/sources/0/secret"));
        let secret = secret.and_then(Value::as_object_mut).expect("a Secret");
        secret.remove("secretName");
        if path.rsplit('.').next() != Some("name") {
            secret.insert("name".to_owned(), json!("s"));
        }
    }
    if path.contains(".fileKeyRef.") {
        let plugin = if path.contains(".dra.") { "dra" } else { "devicePlugin" };
        spec[plugin]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    }
}

/// What a user might say there.
pub(crate) fn ordinary(leaf: &Leaf) -> Value {
    let path = leaf.to_string();
    let ends = |end: &str| path.ends_with(end);
    let below = |part: &str| path.contains(part);
    let by_path = [
        ("httpGet.path", "/p"),
        ("hostPath.path", "/dev/a"),
        ("hostPath.type", "Directory"),
        ("nfs.path", "/p"),
        ("appArmorProfile.type", "RuntimeDefault"),
        ("seccompProfile.type", "RuntimeDefault"),
        ("cephfs.path", "/p"),
        ("tolerations[].operator", "Exists"),
        ("matchExpressions[].operator", "Exists"),
        ("tolerations[].effect", "NoSchedule"),
        ("azureDisk.kind", "Shared"),
        ("azureDisk.diskURI", "https://d.example/e"),
        ("apiVersion", "v1"),
        ("imagePullPolicy", "Always"),
        ("pullPolicy", "Always"),
        ("scheme", "HTTP"),
        ("mountPropagation", "None"),
        ("recursiveReadOnly", "Disabled"),
        ("procMount", "Default"),
        ("emptyDir.medium", "Memory"),
        ("accessModes[]", "ReadWriteMany"),
        ("volumeMode", "Block"),
        ("cachingMode", "None"),
        ("fieldRef.fieldPath", "metadata.namespace"),
        ("resourceFieldRef.resource", "requests.cpu"),
        ("iscsi.iqn", "iqn.2001-04.com.example:c"),
        ("iscsi.initiatorName", "iqn.2001-04.com.example:c"),
        ("mountPath", "/m"),
        ("keyType", "RSA3072"),
        ("signerName", "example.com/t"),
        ("cel.expression", "true"),
        ("deviceClasses[].name", "nic.example.com"),
        ("driverName", "nic.example.com"),
        ("opaque.driver", "gpu.example.com"),
        ("rollout.maxUnavailable", "25%"),
        ("validation.paths[]", "/dev/a"),
        ("inspection", "Warn"),
        ("containerImage", "r.example/n:2"),
        ("reference", "r.example/n:2"),
        ("source.toolkit", "r.example/n:2"),
        ("unsignedImage", "r.example/n:2"),
        ("git.uri", "https://h.example/h"),
        ("sign.hash", "sha384"),
        ("filesToSign[]", "/opt/lib/modules/b.ko"),
        ("modprobe.dirName", "/opt"),
        ("modprobe.firmwarePath", "/firmware"),
        ("modprobe.moduleName", "other"),
        ("modulesLoadingOrder[]", "simple-procfs-kmod"),
        ("parameters[]", "a=1"),
        ("kernelMappings[].regexp", "^6"),
        ("kernelMappings[].literal", "6.1.0"),
        ("args.load[]", "--verbose"),
        ("args.unload[]", "--verbose"),
        ("rawArgs.load[]", "simple-kmod"),
        ("rawArgs.unload[]", "simple-kmod"),
        ("inTreeModuleToRemove", "dummy"),
        ("inTreeModulesToRemove[]", "dummy"),
        ("artifacts[].path", "a"),
        ("artifacts[].to", "t"),
        ("claims[].name", "c"),
        ("name", "a-name"),
        ("uid", "u-1"),
        ("env[].value", "b"),
        ("dockerfile", "FROM scratch\n"),
        ("capabilities.add[]", "SYS_MODULE"),
        ("capabilities.drop[]", "ALL"),
        ("quobyte.registry", "r:2"),
        ("gcePersistentDisk.pdName", "p"),
        ("env[].name", "B"),
        ("volumeMounts[].name", "v"),
        ("fileKeyRef.volumeName", "v"),
        ("fileKeyRef.key", "L"),
        ("containerName", "device-plugin"),
        ("kernelVersion", "6.1.0-1-amd64"),
        ("architecture", "arm64"),
        ("managedFields[].fieldsType", "FieldsV1"),
    ];
    // The longest that fits says most.
    let fitting = by_path.iter().filter(|(end, _)| {
        ends(&format!(".{end}"))
            || ends(end) && (*end).contains(['[', '.'])
            || leaf.name() == *end && !below("{}")
    });
    if let Some((_, value)) = fitting.max_by_key(|(end, _)| end.len()) {
        return json!(value);
    }
    match leaf.schema["type"].as_str() {
        Some("string") if leaf.schema["format"] == "date-time" => json!("2026-01-01T00:00:00Z"),
        Some("string") => json!("w"),
        Some("integer") if leaf.name() == "expirationSeconds" => json!(3600),
        Some("integer") => json!(10),
        Some("boolean") => json!(true),
        Some("object") => json!({"a": {"b": [1]}}),
        _ if ["divisor", "port"].contains(&leaf.name()) => json!(1),
        _ => json!("1Gi"),
    }
}
