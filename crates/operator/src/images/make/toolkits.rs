//! OpenShift's driver toolkits: one object, read by its name when a build needs it, and remembered for a while. What it means is
//! decided by [`tenon_plan::provision::toolkit`]. Nothing is watched: other clusters have no such kind.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use tenon_api::image_stream::{self, ImageStream};
use tenon_plan::provision::toolkit::{self, Answer, NoToolkit, OsVersion};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Why a toolkit was not found.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolkitError {
    /// The cluster has answered, and it does not have it.
    #[error(transparent)]
    None(#[from] NoToolkit),
    /// It has not answered.
    #[error("read ImageStream {}/{}", image_stream::NAMESPACE, image_stream::NAME)]
    Unread(#[source] kube::Error),
}

/// What the cluster was asked last, for all images.
#[derive(Debug, Default)]
pub(in crate::images) struct Toolkits {
    known: Mutex<Option<(Instant, Answer)>>,
}

impl Toolkits {
    /// The toolkit of the first of these versions that there is one for.
    pub(super) async fn find(&self, client: &Client, versions: &[OsVersion]) -> Result<String, ToolkitError> {
        self.find_with(versions, async || read(client).await).await
    }

    async fn find_with(
        &self,
        versions: &[OsVersion],
        read: impl AsyncFnOnce() -> Result<Answer, kube::Error>,
    ) -> Result<String, ToolkitError> {
        if versions.is_empty() {
            return Err(NoToolkit::NoVersion.into());
        }
        // Who comes meanwhile waits for the same answer.
        let mut known = self.known.lock().await;
        if let Some((at, answer)) = known.as_ref()
            && at.elapsed() < answer.believed_for(versions)
        {
            return Ok(toolkit::toolkit(versions, answer)?.to_owned());
        }
        let answer = read().await.map_err(ToolkitError::Unread)?;
        let (_, answer) = known.insert((Instant::now(), answer));
        Ok(toolkit::toolkit(versions, answer)?.to_owned())
    }
}

async fn read(client: &Client) -> Result<Answer, kube::Error> {
    let kind = GroupVersionKind::gvk(image_stream::GROUP, image_stream::VERSION, image_stream::KIND);
    let resource = ApiResource::from_gvk_with_plural(&kind, image_stream::RESOURCE);
    let streams: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), image_stream::NAMESPACE, &resource);
    match streams.get(image_stream::NAME).await {
        Ok(stream) => {
            let stream: Result<ImageStream, _> = serde_json::from_value(stream.data);
            stream.map(Answer::There).map_err(kube::Error::SerdeError)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Answer::Absent),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Answer::Denied(status.message.clone())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    fn versions(text: &str) -> Vec<OsVersion> {
        OsVersion::of(&format!("CoreOS {text}")).into_iter().collect()
    }

    fn stream(tag: &str) -> Answer {
        let from = serde_json::json!({"kind": "DockerImage", "name": format!("quay.test/dtk:{tag}")});
        let stream = serde_json::json!({"spec": {"tags": [{"name": tag, "from": from}]}});
        Answer::There(serde_json::from_value(stream).unwrap())
    }

    fn unreachable() -> kube::Error {
        kube::Error::Api(Box::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_without_the_kind_is_asked_once_in_five_minutes_whoever_wants_to_know() {
        let (toolkits, asked) = (Toolkits::default(), Cell::new(0));
        let ask = async |version: &str| {
            let read = async || {
                asked.set(asked.get() + 1);
                Ok(Answer::Denied("forbidden".to_owned()))
            };
            toolkits.find_with(&versions(version), read).await
        };
        for second in 0..600 {
            assert!(ask(&format!("4.{second}")).await.is_err());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_node_tells_a_version_nothing_is_asked() {
        let (toolkits, asked) = (Toolkits::default(), Cell::new(false));
        let read = async || {
            asked.set(true);
            Ok(stream("4.1"))
        };
        assert!(matches!(toolkits.find_with(&[], read).await, Err(ToolkitError::None(NoToolkit::NoVersion))));
        assert!(!asked.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tag_that_comes_later_is_found_in_seconds_and_what_was_found_is_looked_at_again_in_a_minute() {
        let toolkits = Toolkits::default();
        let ask = async |version, answer| toolkits.find_with(&versions(version), async || answer).await.ok();
        assert_eq!(ask("4.2", Ok(stream("4.1"))).await, None);
        assert_eq!(ask("4.2", Ok(stream("4.2"))).await, None, "it was asked just now");
        assert_eq!(ask("4.1", Ok(stream("4.2"))).await, Some("quay.test/dtk:4.1".to_owned()), "known");
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(ask("4.2", Ok(stream("4.2"))).await, Some("quay.test/dtk:4.2".to_owned()));
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(ask("4.2", Ok(stream("4.1"))).await, Some("quay.test/dtk:4.2".to_owned()));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(ask("4.2", Ok(stream("4.1"))).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_answered_is_asked_again_at_once() {
        let toolkits = Toolkits::default();
        let asked = toolkits.find_with(&versions("4.1"), async || Err(unreachable())).await;
        assert!(matches!(asked, Err(ToolkitError::Unread(_))));
        assert!(toolkits.find_with(&versions("4.1"), async || Ok(stream("4.1"))).await.is_ok());
    }
}
