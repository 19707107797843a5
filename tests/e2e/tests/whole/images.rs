//! Where images come from.

use std::slice;

use serde_json::json;
use tenon_api::reasons;
use tenon_lab::Registry;
use tenon_lab::drivers::Driver;
use tenon_lab::images::{self, Destination};
use tenon_lab::registry::{Protection, User};

use crate::site::{Wanted, on_site, says};

#[test]
fn a_registry_with_a_password_is_read_with_the_modules_pull_secret() {
    on_site("password", async |site| {
        let user = User { name: "weaver".to_owned(), password: "under the loom".to_owned() };
        let protection = Protection { user: Some(user.clone()), ..Protection::default() };
        let registry =
            Registry::start(site.lab.supplies(), site.lab.folder(), "guarded", &protection).await.unwrap();
        let host = registry.host();
        let content = images::content(site.lab, Driver::SimpleKmod, "1.0").await.unwrap();
        let to = Destination { registry: &host, name: "guarded:1.0", user: Some(&user) };
        images::push(site.lab, &content, to).await.unwrap();
        let image = format!("{host}/guarded:1.0");
        let wanted = Wanted::new("guarded", "simple_kmod", &image);
        site.apply_module(&wanted).await;
        site.state_where("guarded", "the Module says that the registry denies", |state| {
            says(state, reasons::REGISTRY_DENIED, slice::from_ref(&host.as_str()))
        })
        .await;
        site.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "weaver" },
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": user.docker_config(&host) },
        }))
        .await;
        site.apply_module(&Wanted { secret: Some("weaver"), ..wanted }).await;
        let mut journey = site.journey("guarded", "simple_kmod");
        site.loaded(&mut journey).await;
        site.remove(&mut journey).await;
    });
}
