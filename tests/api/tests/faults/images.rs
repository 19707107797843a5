//! The stages in which an image is made, pulled through a node, or not needed any more.

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tenon_api::MadeImage;
use tenon_api::made_image::MadePhase;
use tenon_api::module_image::ImagePhase;
use tenon_order::Digest;

use crate::life::{Life, text};
use crate::plot::Plot;
use crate::stand::until;

/// In the tag, as a Module names it: what it names literally is needed wherever its nodes are.
const TAG: &str = "${KERNEL_FULL_VERSION}";

impl Life<'_> {
    /// The image of this life's own: nobody has made it before.
    fn own(&self) -> String {
        format!("{}:{TAG}", self.name)
    }

    /// The Module is created, and its image made.
    pub(crate) async fn make(&self) -> Result<(), String> {
        let container = match self.stand.plot {
            Plot::Built => {
                self.say("FROM scratch\nADD one /").await?;
                let build = json!({ "dockerfileConfigMap": { "name": "recipe" } });
                json!({ "build": build, "sign": self.sign(None) })
            }
            Plot::Signed | Plot::Pulled | Plot::CleanedUp | Plot::Plugin => {
                json!({ "sign": self.sign(Some("gauge:v2")) })
            }
        };
        self.write(&self.own(), &container).await?;
        self.is_made(None).await
    }

    /// What the image is built from is another. Nobody says so.
    pub(crate) async fn renew(&self) -> Result<(), String> {
        let former = self.published().ok_or("nothing was made")?;
        self.say("FROM scratch\nADD two /").await?;
        self.is_made(Some(former)).await
    }

    /// The Module gets an image that the registry denies the operator.
    pub(crate) async fn pull(&self, tag: &str) -> Result<(), String> {
        self.stand.put_image(&self.name, tag);
        let image = format!("{}:{tag}", self.name);
        self.write(&image, &json!({})).await?;
        self.is_ready_everywhere(&image).await
    }

    /// The node leaves, and is back before what was made for it is gone.
    pub(crate) async fn come_back(&self) -> Result<(), String> {
        self.select(false).await?;
        let unneeded = |made: &MadeImage| phase(made) == Some(MadePhase::Unneeded);
        until("nothing needs the image any more", async || {
            let made = self.made().await?;
            (made.len() == 1 && made.iter().all(unneeded) && self.is_unloaded().await?).then_some(())
        })
        .await?;
        self.select(true).await?;
        self.is_made(None).await
    }

    /// The node leaves for good, and what was made for it goes.
    pub(crate) async fn leave(&self) -> Result<(), String> {
        self.select(false).await?;
        let mut last = None;
        until("what was made is deleted", async || {
            last = self.made().await;
            let gone = self.published().is_none() && last.as_ref()?.is_empty();
            (gone && self.is_unloaded().await?).then_some(())
        })
        .await
        .map_err(|late| format!("{late}; what is remembered: {last:?}"))
    }

    /// What the registry has under this life's name.
    fn published(&self) -> Option<Digest> {
        self.stand.registry.manifest(&self.name, &self.stand.driver.kernel).map(|bytes| Digest::of(&bytes))
    }

    /// How often something was published under this life's name.
    pub(crate) fn publications(&self) -> usize {
        let path = format!("/v2/{}/manifests/{}", self.name, self.stand.driver.kernel);
        self.stand.registry.seen().iter().filter(|seen| seen.method == "PUT" && seen.path == path).count()
    }

    /// What is remembered of images that were made.
    pub(crate) async fn made(&self) -> Option<Vec<MadeImage>> {
        let made: Api<MadeImage> = Api::namespaced(self.stand.client.clone(), &self.name);
        Some(made.list(&ListParams::default()).await.ok()?.items)
    }

    /// The names of what is remembered, where it is waited for.
    pub(crate) async fn remembered(&self) -> Option<Vec<String>> {
        let made = if self.stand.plot.publishes() { self.made().await? } else { Vec::new() };
        Some(made.into_iter().map(|made| made.spec.image).collect())
    }

    /// Waits until the image is made, remembered as needed, ready, and loaded.
    async fn is_made(&self, but: Option<Digest>) -> Result<(), String> {
        let mut last = None;
        until("the image is made and loaded", async || {
            let image = self.images().list(&ListParams::default()).await.ok()?.items.pop()?;
            last = image.status.clone();
            let status = image.status?;
            let renewing = status.making.as_ref().is_some_and(|making| making.renewing);
            let ready = status.phase == Some(ImagePhase::Ready) && !renewing;
            let published = self.published().filter(|digest| Some(*digest) != but)?.to_string();
            let remembered =
                |made: &MadeImage| made.spec.digest == published && phase(made) == Some(MadePhase::Needed);
            let bundle = Some(status.bundle?.digest);
            let loaded = self.configs().await?.iter().all(|config| {
                let reported = config.status.as_ref().and_then(|status| status.modules.first());
                reported.is_some_and(|reported| reported.bundle == bundle)
            });
            let same = status.image_digest.as_ref() == Some(&published);
            (ready && same && loaded && self.made().await?.iter().any(remembered)).then_some(())
        })
        .await
        .map_err(|late| format!("{late}; the ModuleImage says {last:#?}"))?;
        self.is_ready_everywhere(&format!("{}:{}", self.name, self.stand.driver.kernel)).await
    }

    async fn is_unloaded(&self) -> Option<bool> {
        let images = self.images().list(&ListParams::default()).await.ok()?.items;
        let empty = self.configs().await?.iter().all(|config| {
            config.spec.modules.is_empty()
                && config.status.as_ref().is_some_and(|status| status.modules.is_empty())
        });
        Some(images.is_empty() && empty)
    }

    async fn say(&self, dockerfile: &str) -> Result<(), String> {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "recipe" },
            "data": { "dockerfile": dockerfile },
        });
        let maps: Api<ConfigMap> = Api::namespaced(self.stand.client.clone(), &self.name);
        let params = PatchParams::apply("a-user").force();
        maps.patch("recipe", &params, &Patch::Apply(map)).await.map(drop).map_err(text)
    }

    /// Whether the Module is for this life's nodes.
    async fn select(&self, selected: bool) -> Result<(), String> {
        let nodes: Api<Node> = Api::all(self.stand.client.clone());
        let value = if selected { Value::from(self.name.clone()) } else { Value::Null };
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "hall": value } } }));
        for node in &self.nodes {
            nodes.patch(node.name(), &PatchParams::default(), &patch).await.map_err(text)?;
        }
        Ok(())
    }
}

fn phase(made: &MadeImage) -> Option<MadePhase> {
    made.status.as_ref()?.phase
}
