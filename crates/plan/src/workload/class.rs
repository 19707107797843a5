//! The device classes of a DRA driver. They are the cluster's, so no Module can own them by reference: labels say whose they are, and
//! a class without them belongs to somebody else.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{DeviceClass, DeviceClassSpec};
use kube::ResourceExt as _;
use kube::core::ObjectMeta;
use tenon_api::labels::{self, annotation, finalizer};
use tenon_api::{Module, reasons};

use super::{Problem, Role, daemon_set};

/// What becomes of a Module's classes.
#[derive(Debug, Default, PartialEq)]
pub struct Classes {
    /// To be made, or made what they should be.
    pub apply: Vec<DeviceClass>,
    /// To be deleted.
    pub delete: Vec<DeviceClass>,
    /// Those that cannot be had.
    pub taken: Vec<Problem>,
}

/// The labels by which a Module's classes are its own. A name that is too long for a label is shortened, so they do not always say
/// which Module it is; they say for each whether it is that one.
pub type Mark = BTreeMap<String, String>;

/// A Module's mark; KMM's, too.
pub fn mark(module: &Module) -> Mark {
    mark_of(&module.namespace().unwrap_or_default(), &module.name_any())
}

/// The same of a Module that is known by its name alone.
pub fn mark_of(namespace: &str, name: &str) -> Mark {
    let labels = [
        (labels::MODULE_NAME, daemon_set::module_label(name)),
        (labels::MODULE_NAMESPACE, namespace.to_owned()),
    ];
    labels.map(|(key, value)| (key.to_owned(), value)).into()
}

/// The mark that a class bears, of whichever Module; `None` for one that is somebody else's.
pub fn mark_on(class: &DeviceClass) -> Option<Mark> {
    let labels = [labels::MODULE_NAME, labels::MODULE_NAMESPACE].into_iter();
    labels.map(|key| Some((key.to_owned(), class.labels().get(key)?.clone()))).collect()
}

/// Decides about a Module's classes: `known` are those that bear its mark, and those of the names that it wishes.
pub fn classes(module: &Module, known: &[DeviceClass]) -> Classes {
    let mark = mark(module);
    let is_own =
        |class: &&DeviceClass| mark.iter().all(|(key, value)| class.labels().get(key) == Some(value));
    let wished = wished(module, &mark);
    // What nothing owns is made for no Module that could vanish unseen.
    let is_held = module.finalizers().iter().any(|name| name == finalizer::MODULE);
    let mut out = Classes::default();
    for class in wished.values() {
        match known.iter().find(|known| known.name_any() == class.name_any()) {
            Some(known) if !is_own(&known) => out.taken.push(Problem {
                reason: reasons::DEVICE_CLASS_TAKEN,
                message: format!(
                    "DeviceClass {} was there before and is not this Module's; it is left as it is: name another in spec.dra.deviceClasses, or delete it",
                    class.name_any()
                ),
            }),
            Some(known) if is_as_wished(known, class) => {}
            Some(_) | None if is_held => out.apply.push(class.clone()),
            Some(_) | None => {}
        }
    }
    let is_unwished = |class: &&DeviceClass| {
        !wished.contains_key(&class.name_any()) && class.metadata.deletion_timestamp.is_none()
    };
    out.delete.extend(known.iter().filter(is_own).filter(is_unwished).cloned());
    out
}

/// Whether it is what was wished, and nobody has changed it since.
fn is_as_wished(known: &DeviceClass, wished: &DeviceClass) -> bool {
    let wish = |class: &DeviceClass| class.annotations().get(annotation::WISH).cloned();
    let says = |class: &DeviceClass| {
        let spec = class.spec.clone();
        (spec.selectors.unwrap_or_default(), spec.config.unwrap_or_default())
    };
    wish(known) == wish(wished) && says(known) == says(wished)
}

fn wished(module: &Module, mark: &Mark) -> BTreeMap<String, DeviceClass> {
    let dra = module.spec.dra.iter().filter(|_| Role::of(module) == Some(Role::Dra));
    let classes = dra.flat_map(|dra| &dra.device_classes);
    classes
        .map(|asked| {
            let mut class = DeviceClass {
                metadata: ObjectMeta {
                    name: Some(asked.name.clone()),
                    labels: Some(mark.clone()),
                    ..ObjectMeta::default()
                },
                // Said also where they are empty: what was there before goes.
                spec: DeviceClassSpec {
                    selectors: Some(asked.selectors.clone()),
                    config: Some(asked.config.clone()),
                    ..DeviceClassSpec::default()
                },
            };
            let wish = daemon_set::wish(&class);
            class.metadata.annotations = Some([(annotation::WISH.to_owned(), wish)].into());
            (asked.name.clone(), class)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::DeviceSelector;

    use super::*;

    fn module(classes: &str) -> Module {
        serde_saphyr::from_str(&format!(
            "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {{name: gauge, namespace: lab, uid: m-1, finalizers: [{}]}}\nspec: {{selector: {{}}, dra: {{driverName: g.test, container: {{image: 'r.test/d:1'}}, deviceClasses: [{classes}]}}}}\n",
            finalizer::MODULE
        ))
        .expect("a Module")
    }

    #[test]
    fn classes_are_made_once_and_go_when_they_are_not_wished_any_more() {
        let two = module("{name: a.test}, {name: b.test}");
        let made = classes(&two, &[]).apply;
        assert_eq!(made.len(), 2);
        assert_eq!(classes(&two, &made), Classes::default(), "a second time nothing is written");
        let one = classes(&module("{name: a.test}"), &made);
        assert_eq!((one.apply.len(), one.delete[0].name_any().as_str()), (0, "b.test"));
        let mut edited = made.clone();
        edited[1].spec.selectors = None;
        assert_eq!(classes(&two, &edited), Classes::default(), "nothing is no other selector");
        edited[0].spec.extended_resource_name = Some("a.test/x".to_owned());
        assert_eq!(classes(&two, &edited), Classes::default(), "of that a Module says nothing");
        edited[0].spec.selectors = Some(vec![DeviceSelector::default()]);
        assert_eq!(classes(&two, &edited).apply, made[..1], "by hand");
        let changed =
            classes(&module("{name: a.test, selectors: [{cel: {expression: 'true'}}]}"), &made[..1]);
        assert_eq!((changed.apply.len(), changed.delete.len()), (1, 0));
    }

    #[test]
    fn somebody_elses_class_is_never_adopted_changed_or_deleted() {
        let (module, mut foreign) = (module("{name: a.test}"), DeviceClass::default());
        foreign.metadata.name = Some("a.test".to_owned());
        let mut neighbours = foreign.clone();
        neighbours.metadata.labels = Some(mark(&module));
        neighbours.labels_mut().insert(labels::MODULE_NAMESPACE.to_owned(), "hall".to_owned());
        for class in [foreign, neighbours] {
            let decided = classes(&module, std::slice::from_ref(&class));
            assert!(decided.apply.is_empty() && decided.delete.is_empty());
            assert_eq!(decided.taken[0].reason, reasons::DEVICE_CLASS_TAKEN);
            assert!(decided.taken[0].message.contains("a.test"));
        }
    }

    #[test]
    fn nothing_is_made_for_a_module_that_could_vanish_unseen() {
        let mut module = module("{name: a.test}");
        module.metadata.finalizers = None;
        assert_eq!(classes(&module, &[]), Classes::default());
    }

    #[test]
    fn a_class_is_known_for_its_modules_by_its_mark_however_long_the_names_are() {
        let named = |name: &str| {
            let mut module = module("{name: a.test}");
            module.metadata.name = Some(name.to_owned());
            module
        };
        let modules = ["gauge", "gauge.v2", &"g".repeat(63), &"g".repeat(64), &"g".repeat(253)].map(named);
        for (place, module) in modules.iter().enumerate() {
            let made = classes(module, &[]).apply;
            assert!(made[0].labels().values().all(|value| labels::is_value(value)));
            let known = mark_on(&made[0]);
            for (other_place, other) in modules.iter().enumerate() {
                assert_eq!(known.as_ref() == Some(&mark(other)), place == other_place);
            }
        }
        let mut foreign = DeviceClass::default();
        assert_eq!(mark_on(&foreign), None);
        foreign.labels_mut().insert(labels::MODULE_NAME.to_owned(), "gauge".to_owned());
        assert_eq!(mark_on(&foreign), None);
    }

    #[test]
    fn a_deleted_module_leaves_no_class() {
        let mut module = module("{name: a.test}");
        let made = classes(&module, &[]).apply;
        module.metadata.deletion_timestamp = Some(serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap());
        let decided = classes(&module, &made);
        assert_eq!((decided.apply.len(), decided.delete.len()), (0, 1));
    }
}
