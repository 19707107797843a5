//! Objects of any kind as the API server sends them, without what nobody here reads.
//!
//! Four fifths of what it cost to follow a fleet were trees of JSON values: those of `managedFields`, which every object has
//! and no type describes, and those in which an object is kept for the case that it cannot be read (kube's
//! `DeserializeGuard`). Both are left as text here.

use std::borrow::Cow;

use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object, or why it cannot be read: one that cannot must not keep a list from being read.
#[derive(Debug, Clone)]
pub struct Guarded<K>(pub Result<K, Unreadable>);

/// An object that cannot be read.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// Why not.
    pub error: String,
    /// What names it.
    pub metadata: ObjectMeta,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::from(Box::<str>::from(Box::<RawValue>::deserialize(deserializer)?));
        forget_managers(&mut text);
        match serde_json::from_str(&text) {
            Ok(object) => Ok(Self(Ok(object))),
            Err(error) => {
                let Named { metadata } = serde_json::from_str(&text).map_err(D::Error::custom)?;
                Ok(Self(Err(Unreadable { error: error.to_string(), metadata })))
            }
        }
    }
}

impl<K> Guarded<K> {
    /// The object, for whoever has no use for one that cannot be read.
    pub fn object(self) -> Result<K, serde_json::Error> {
        self.0.map_err(|unreadable| serde_json::Error::custom(unreadable.error))
    }
}

/// What names an object.
#[derive(Deserialize)]
struct Named {
    metadata: ObjectMeta,
}

/// Takes `managedFields` out of an object's text.
fn forget_managers(text: &mut String) {
    #[derive(Deserialize)]
    struct Object<'t> {
        #[serde(borrow)]
        metadata: Metadata<'t>,
    }
    #[derive(Deserialize)]
    struct Metadata<'t> {
        #[serde(borrow, rename = "managedFields")]
        managers: Option<&'t RawValue>,
    }
    // Where this fails, reading the object will, and says why.
    let managers = serde_json::from_str::<Object<'_>>(text).ok().and_then(|object| object.metadata.managers);
    if let Some(managers) = managers.map(RawValue::get) {
        let start = managers.as_ptr().addr() - text.as_ptr().addr();
        let end = start + managers.len();
        text.replace_range(start..end, "null");
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &unreadable.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut unreadable.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Module;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    /// As the API server sends it: the writer's names hold what looks like the end of them.
    fn text(selector: &serde_json::Value) -> serde_json::Value {
        json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": {
                "name": "gauge", "namespace": "lab", "resourceVersion": "7",
                "annotations": {"last": "{\"metadata\": {\"managedFields\": [1]}}"},
                "managedFields": [
                    {"manager": "}],\"", "operation": "Apply", "fieldsV1": {"f:spec": {"f:selector": {"f:a": {}}}}}
                ],
                "uid": "u-1"
            },
            "spec": {"selector": selector}
        })
    }

    #[test]
    fn an_object_is_read_without_who_manages_what_in_a_watch_and_in_a_list() {
        let object = text(&json!({"hall": "a"}));
        let event = format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}");
        let WatchEvent::Modified(seen) = serde_json::from_str::<WatchEvent<Guarded<Module>>>(&event).unwrap()
        else {
            panic!("another event")
        };
        let list = json!({"apiVersion": "v1", "kind": "ModuleList", "metadata": {}, "items": [object]});
        let list: ObjectList<Guarded<Module>> = serde_json::from_str(&list.to_string()).unwrap();
        for seen in std::iter::once(seen).chain(list.items) {
            let module = seen.object().unwrap();
            assert_eq!(module.spec.selector.get("hall").map(String::as_str), Some("a"));
            let Module { metadata, .. } = module;
            assert_eq!((metadata.managed_fields, metadata.uid.as_deref()), (None, Some("u-1")));
            assert!(metadata.annotations.unwrap()["last"].contains("managedFields"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_spoils_no_list() {
        let items = [text(&json!(7)), text(&json!({}))];
        let list = json!({"apiVersion": "v1", "kind": "ModuleList", "metadata": {}, "items": items});
        let list: ObjectList<Guarded<Module>> = serde_json::from_str(&list.to_string()).unwrap();
        let [bad, good] = &list.items[..] else { panic!("{} items", list.items.len()) };
        assert_eq!((bad.meta().name.as_deref(), good.0.is_ok()), (Some("gauge"), true));
        let error = bad.clone().object().unwrap_err().to_string();
        assert!(error.contains("expected a map"), "{error}");
    }

    #[test]
    fn objects_without_managers_or_metadata_are_what_they_are() {
        let named = json!({"metadata": {"name": "gauge"}, "spec": {"selector": {}}});
        assert!(serde_json::from_str::<Guarded<Module>>(&named.to_string()).unwrap().0.is_ok());
        for nothing in ["{}", "[]", "{\"metadata\": 7}"] {
            assert!(serde_json::from_str::<Guarded<Module>>(nothing).is_err(), "{nothing}");
        }
    }
}
